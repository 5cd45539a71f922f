"""Why a sample has its score: the features behind it, and the text tokens and image patches where each fires."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from PIL.Image import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from curate.datasets.images import decode_image, image_bytes
from curate.errors import ConfigurationError, DataError, SampleError
from curate.interpret.examples import Example
from curate.interpret.lens import Lens, read_sample
from curate.manifest.find import find_row
from curate.manifest.rows import QuarantineRow, ScoredRow
from curate.metrics import METRICS
from curate.metrics.activity import cooccurring
from curate.metrics.cosine import contributions
from curate.metrics.metric import Evidence
from curate.models.family import InputBuilder
from curate.models.inputs import ModelInputs
from curate.models.patches import Patches
from curate.sae.dictionary import Dictionary
from curate.sae.firing import activation_blocks, activations_of
from curate.sample import Sample, content_id
from curate.scoring.prepare import Prepared, prepare
from curate.scoring.scorer import Scorer
from curate.storage import location

# Metrics that are sums over features.
EXPLAINED = ("cosine", "cooccurrence", "l0")
_CLOSE = 1e-6


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Token(_Part):
    """A token of the text that is scored: a piece of text, or a patch of the image."""

    text: str | None = Field(description="null for an image token")
    box: tuple[float, float, float, float] | None = Field(
        description="left, top, right and bottom in the image's pixels; null for text, and for what separates rows"
    )


class Fires(_Part):
    """A feature at a token."""

    position: int = Field(description="of the token, from 0")
    activation: float


class ExplainedFeature(_Part):
    """What a feature has to do with the score."""

    feature: int
    weight: float | None = Field(description="its feature weight; null where none were computed, or it has none")
    contribution: float = Field(description="what it adds to the score")
    label: str | None = Field(description="from --labels")
    text_peak: float = Field(description="its strongest activation on a text token")
    image_peak: float = Field(description="the same on an image token")
    tokens: list[Fires] = Field(description="where it fires, in the order of the text")
    examples: list[Example] = Field(description="its strongest tokens in the run's data; none where they are not known")


class Explanation(_Part):
    """What `curate explain --json` prints."""

    sample_id: str
    source_row: int | None
    question: str
    response: str | None
    metric: str
    score: float = Field(description="the sum of all contributions")
    manifest_score: float | None = Field(description="what the run's manifest says, where the sample is one of a run's")
    near: bool = Field(
        description="float noise may decide about a feature: near_delta of a manifest; of l0, near_switch"
    )
    delta: float
    hook_layer: int
    cross_modal: int = Field(description="features active on at least one text and one image token of the sample")
    text_only: int = Field(description="features active on text tokens alone")
    image_only: int = Field(description="features active on image tokens alone")
    tokens: list[Token]
    features: list[ExplainedFeature] = Field(description="all that add something, the largest contribution first")


@dataclass(frozen=True)
class Explained:
    """An explanation with what it takes to draw it.

    Attributes:
        activations: of the explanation's features, in their order; 0 where they do not fire.
    """

    explanation: Explanation
    image: Image
    patches: Patches
    is_image: Bool[Tensor, " tokens"]
    activations: Float[Tensor, "tokens features"]


def explain_row(lens: Lens, sample: str, metric: str | None = None) -> Explained:
    """Explain the score of a sample of the lens's run.

    Args:
        sample: its id, the beginning of it, or its rank as `#1`.
        metric: by default the first of the run's that is a sum over features.

    Raises:
        ConfigurationError: the run has not computed the metric.
        DataError: no such sample, or the data have changed.
    """
    assert lens.run is not None, "a lens of no run"
    assert lens.record is not None
    assert lens.dataset is not None
    computed = [name for name in lens.record.metrics if name in EXPLAINED]
    if metric is None and not computed:
        raise ConfigurationError(
            f"{lens.run} has {', '.join(lens.record.metrics)}, and none of them is a sum over features, as "
            f"{', '.join(EXPLAINED)} are; name one of these with --metric"
        )
    row = find_row(lens.run, sample)
    found = read_sample(lens.dataset, row["source_row"], row["sample_id"])
    name = metric or computed[0]
    return explain(lens, found, name, row.get(name))


def explain(lens: Lens, sample: Sample, metric: str, manifest_score: float | None = None) -> Explained:
    """Score a sample as `curate score` does, and say what each feature adds.

    Args:
        metric: one of `EXPLAINED`.

    Raises:
        ConfigurationError: no such metric, or it needs feature weights and there are none.
        DataError: the sample cannot be scored.
    """
    if metric not in EXPLAINED:
        known = "is no sum over features" if metric in METRICS else "does not exist"
        raise ConfigurationError(f"--metric {metric}: it {known}; there are: {', '.join(EXPLAINED)}")
    if METRICS[metric].needs == "weights" and lens.scorer.weights is None:
        raise ConfigurationError(f"--metric {metric} needs feature weights: name those of a run with --weights")
    parameters = lens.scorer.parameters.model_copy(update={"metrics": (metric,), "text": lens.text})
    scorer = Scorer(lens.scorer.model, lens.scorer.dictionary, parameters, lens.scorer.weights)
    inputs, row, evidence, hidden = _scored(scorer, lens.builder, sample)
    dictionary = scorer.dictionary
    added = _added(metric, evidence, dictionary, hidden, inputs.is_image)
    # A stable sort, so that among equals the lower feature comes first.
    features = added.nonzero()[:, 0]
    features = features[added[features].argsort(descending=True, stable=True)]
    z = activations_of(dictionary, hidden, features.tolist()).cpu()
    patches = lens.builder.patches(sample.image)
    fires = z > (0.0 if metric == "l0" else parameters.bound)
    if metric == "l0":
        fires[0] = False  # which it leaves out
    activity, delta = evidence.activity, parameters.bound
    on_text, on_image = activity.text > delta, activity.image > delta
    return Explained(
        Explanation(
            sample_id=sample.sample_id,
            source_row=sample.source_row if lens.run is not None else None,
            question=sample.question,
            response={"prompt": None, "prompt+rejected": sample.rejected}.get(lens.text, sample.chosen),
            metric=metric,
            score=row.scores[metric],
            manifest_score=manifest_score,
            near=row.near_switch > 0 if metric == "l0" else row.near_delta,
            delta=delta,
            hook_layer=lens.hook_layer,
            cross_modal=int((on_text & on_image).sum()),
            text_only=int((on_text & ~on_image).sum()),
            image_only=int((on_image & ~on_text).sum()),
            tokens=tokens_of(lens.builder, inputs.input_ids, inputs.is_image, patches),
            features=[
                ExplainedFeature(
                    feature=feature,
                    weight=_weight(scorer.weights, feature),
                    contribution=float(added[feature]),
                    label=None,
                    text_peak=float(activity.text[feature]),
                    image_peak=float(activity.image[feature]),
                    tokens=[
                        Fires(position=position, activation=float(z[position, column]))
                        for position in fires[:, column].nonzero()[:, 0].tolist()
                    ],
                    examples=[],
                )
                for column, feature in enumerate(features.tolist())
            ],
        ),
        sample.image,
        patches,
        inputs.is_image,
        torch.where(fires, z, 0),
    )


def named(explained: Explained, labels: Mapping[int, str], examples: Mapping[int, list[Example]]) -> Explained:
    """With the features' labels and strongest tokens, as far as they are known."""
    explanation = explained.explanation
    features = [
        each.model_copy(
            update={"label": labels.get(each.feature), "examples": examples.get(each.feature, each.examples)}
        )
        for each in explanation.features
    ]
    return replace(explained, explanation=explanation.model_copy(update={"features": features}))


def own_sample(lens: Lens, file: Path, question: str, response: str | None) -> tuple[Lens, Sample]:
    """An image of the user's own as a sample, and the lens for what there is of it: the question alone, or both.

    Raises:
        DataError: the file is no image that can be read.
    """
    try:
        data = image_bytes(file.name, location(str(file.resolve().parent)))
        image = decode_image(data)
    except SampleError as error:
        raise DataError(f"--image {file}: {error}") from error
    text = "prompt" if response is None else "prompt+chosen"
    parameters = lens.scorer.parameters.model_copy(update={"text": text})
    said = response or ""
    sample = Sample(content_id(question, data, said, ""), 0, question, image, said, "")
    return replace(lens, scorer=replace(lens.scorer, parameters=parameters)), sample


def at_tokens(explanation: Explanation) -> list[float]:
    """Of each token, what the features that fire there add to the score; to `l0` a feature adds at each token anew."""
    added = [0.0] * len(explanation.tokens)
    for feature in explanation.features:
        times = len(feature.tokens) if explanation.metric == "l0" else 1
        for each in feature.tokens:
            added[each.position] += feature.contribution / times
    return added


def where(explained: Explained, feature: ExplainedFeature) -> str:
    """On how many tokens a feature fires, and how strongly at most: of text, patches, and what separates their rows."""
    tokens = explained.explanation.tokens
    text, patches, others = [], [], []
    for each in feature.tokens:
        token = tokens[each.position]
        kind = text if token.text is not None else others if token.box is None else patches
        kind.append(each.activation)
    kinds = {"text": text, "patches": patches, "separators": others}
    return ", ".join(f"{name} {len(found)} (≤ {max(found):.1f})" for name, found in kinds.items() if found)


def differs(explanation: Explanation) -> bool:
    """Whether the score is not the manifest's: another batch shape, or device, may switch a feature that is near."""
    wanted = explanation.manifest_score
    return wanted is not None and abs(explanation.score - wanted) > _CLOSE


def tokens_of(
    builder: InputBuilder, ids: Int[Tensor, " tokens"], is_image: Bool[Tensor, " tokens"], patches: Patches
) -> list[Token]:
    """What each token is."""
    places = iter(patches.boxes(int(is_image.sum())))
    texts = builder.token_texts(ids)
    return [
        Token(text=None, box=next(places)) if image else Token(text=text, box=None)
        for text, image in zip(texts, is_image.tolist(), strict=True)
    ]


def _scored(
    scorer: Scorer, builder: InputBuilder, sample: Sample
) -> tuple[ModelInputs, ScoredRow, Evidence, Float[Tensor, "tokens d_model"]]:
    """A sample's inputs, its row, and what that rests on."""
    (prepared,) = prepare([(sample.source_row, sample)], builder, scorer.parameters.text)
    if isinstance(prepared, Prepared):
        (seen,) = scorer.see([prepared])
        if isinstance(seen.row, ScoredRow) and seen.evidence is not None:
            return prepared.inputs, seen.row, seen.evidence, seen.hidden
        prepared = seen.row
    assert isinstance(prepared, QuarantineRow)
    raise DataError(f"the sample cannot be scored: {prepared.error}: {prepared.reason}")


def _added(
    metric: str,
    evidence: Evidence,
    dictionary: Dictionary,
    hidden: Float[Tensor, "tokens d_model"],
    is_image: Bool[Tensor, " tokens"],
) -> Float[Tensor, " d_sae"]:
    """What each feature adds to the metric, in float64."""
    if metric == "cosine":
        return contributions(evidence)
    if metric == "cooccurrence":
        return cooccurring(evidence.activity, evidence.parameters.bound).double()
    counts = _counts(dictionary, hidden, [(~is_image).nonzero()[:, 0], is_image.nonzero()[:, 0]])
    return counts.double() / max(1, len(hidden) - 1)


def _counts(
    dictionary: Dictionary, hidden: Float[Tensor, "tokens d_model"], modalities: Sequence[Int[Tensor, " places"]]
) -> Int[Tensor, " d_sae"]:
    """On how many tokens but the first each feature is above 0; encoded by modality, as for a score."""
    counts = torch.zeros(dictionary.d_sae, dtype=torch.int64, device=hidden.device)
    for places in modalities:
        places = places.to(hidden.device)
        for tokens, features, z in activation_blocks(dictionary, hidden[places]):
            counts[features] += ((z > 0) & (places[tokens] > 0)[:, None]).sum(0)
    return counts


def _weight(weights: Float[Tensor, " d_sae"] | None, feature: int) -> float | None:
    """A feature without a weight adds 0, and is written as having 0."""
    return float(weights[feature]) or None if weights is not None else None
