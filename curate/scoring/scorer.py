"""One process's scoring: batches of inputs in, scored samples out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from curate.errors import NonFinite
from curate.manifest.rows import QuarantineRow, ScoredRow
from curate.metrics import METRICS
from curate.metrics.activity import Activity, joined
from curate.metrics.cosine import contributions
from curate.metrics.metric import Evidence, Likely
from curate.models.family import CutModel, Read
from curate.models.packing import Segment, pack, to_device
from curate.sae.dictionary import Dictionary
from curate.sae.firing import measure_firing
from curate.scoring.parameters import SCORED, ScoringParameters
from curate.scoring.prepare import Prepared, quarantined


class Part(NamedTuple):
    """A part of a text, encoded.

    Attributes:
        noise, near_switch: as of `Firing`.
    """

    activity: Activity
    n_text: int
    noise: Float[Tensor, ""]
    near_switch: Int[Tensor, ""]


def encode_part(
    dictionary: Dictionary,
    hidden: Float[Tensor, "tokens d_model"],
    is_image: Bool[Tensor, " tokens"],
    begins: bool,
) -> Part:
    """Encode a part of a text.

    Args:
        is_image: on the CPU.
        begins: whether the text begins with it; the first token is the same in every sample, and l0 leaves it out.
    """
    text, image = (~is_image).nonzero()[:, 0], is_image.nonzero()[:, 0]
    of_text, of_image = (
        measure_firing(dictionary, hidden[to_device(hidden.device, places)], int(begins and places[:1].tolist() == [0]))
        for places in (text, image)
    )
    return Part(
        Activity(of_text.peak, of_image.peak, of_text.n_active + of_image.n_active, len(hidden)),
        len(text),
        torch.maximum(of_text.noise, of_image.noise),
        of_text.near_switch + of_image.near_switch,
    )


class Seen(NamedTuple):
    """A sample that was scored, with what its row rests on.

    Attributes:
        evidence: of the text that is scored; None where hidden states are not finite.
        stream: hidden states of the whole batch; path: the segments of it that are the text.
    """

    row: ScoredRow | QuarantineRow
    evidence: Evidence | None = None
    stream: Float[Tensor, "packed d_model"] | None = None
    path: Sequence[Segment] = ()

    @property
    def hidden(self) -> Float[Tensor, "tokens d_model"]:
        """The hidden states of the text."""
        assert self.stream is not None, "a sample that could not be scored"
        return torch.cat([self.stream[segment.tokens] for segment in self.path])


class _Readable(NamedTuple):
    """A sample with finite hidden states: evidence of its scored texts, doubts about them, the first text's path."""

    evidence: Sequence[Evidence]
    doubts: Float[Tensor, "3"]
    path: Sequence[Segment]


@dataclass(frozen=True)
class Scorer:
    """A model with its dictionary.

    Attributes:
        model: None where `whole` is given.
        weights: feature weights on the model's device; None if no metric needs them.
        whole: the whole model, in place of `model`, where a metric needs likelihood.
    """

    model: CutModel | None
    dictionary: Dictionary
    parameters: ScoringParameters
    weights: Float[Tensor, " d_sae"] | None
    whole: Read | None = None

    def score(self, batch: Sequence[Prepared]) -> list[ScoredRow | QuarantineRow]:
        """The batch's rows in order. A sample that is not finite is quarantined, the others are not."""
        return [seen.row for seen in self.see(batch)]

    @torch.inference_mode()
    def see(self, batch: Sequence[Prepared]) -> list[Seen]:
        """One forward pass over all texts of the batch; what several begin with is run and encoded once."""
        packed = pack([text for sample in batch for text in sample.texts])
        if self.whole is None:
            assert self.model is not None, "a scorer without a model"
            hidden, said = self.model.hidden_states(packed), [None] * len(packed.ends)
        else:
            hidden, said = self.whole(packed)
        finite = hidden.isfinite().all(1).cpu()
        parts: dict[Segment, Part] = {}

        def encoded(segment: Segment) -> Part:
            if segment not in parts:
                is_image, begins = packed.is_image[segment.tokens], not segment.before
                parts[segment] = encode_part(self.dictionary, hidden[segment.tokens], is_image, begins)
            return parts[segment]

        readable: list[_Readable | None] = []
        texts = iter(zip(packed.ends, said, strict=True))
        for sample in batch:
            found = {name: next(texts) for name in (SCORED[self.parameters.text], *sample.others)}
            paths = [found[name][0].path for name in self.parameters.scored]
            if all(bool(finite[segment.tokens].all()) for path in paths for segment in path):
                likelihood: dict[Likely, float] = {
                    name: float(log_probabilities.double().mean())
                    for name in self.parameters.likelihood_of
                    if (log_probabilities := found[name][1]) is not None
                }
                texts_parts = [list(map(encoded, path)) for path in paths]
                evidence = [self._evidence(sample.sample_id, parts, likelihood) for parts in texts_parts]
                readable.append(_Readable(evidence, self._doubts(texts_parts, evidence), paths[0]))
            else:
                readable.append(None)
        on_device = [each.doubts for each in readable if each is not None]
        # One copy from the device for the whole batch.
        doubts = iter(torch.stack(on_device).tolist() if on_device else [])
        seen = []
        for sample, each in zip(batch, readable, strict=True):
            if each is None:
                error = NonFinite("hidden states are NaN or infinite at the hook layer")
                seen.append(Seen(quarantined(sample.source_row, error, sample.sample_id)))
            else:
                row = self._row(sample, each.evidence, *next(doubts))
                seen.append(Seen(row, each.evidence[0], hidden, each.path))
        return seen

    def _doubts(self, texts: Sequence[Sequence[Part]], evidence: Sequence[Evidence]) -> Float[Tensor, "3"]:
        """The noise, the least distance of a peak from the bound, and the switches; the worst of the scored texts."""
        noise = torch.stack([part.noise for parts in texts for part in parts]).max()
        peaks = torch.stack([peak for each in evidence for peak in (each.activity.text, each.activity.image)])
        nearest = (peaks - self._bound).abs_().min()
        near_switch = torch.stack([torch.stack([part.near_switch for part in parts]).sum() for parts in texts]).max()
        return torch.stack([noise.double(), nearest.double(), near_switch.double()])

    @cached_property
    def _bound(self) -> Float[Tensor, " d_sae"]:
        return self.dictionary.bound(self.parameters.bound)

    @cached_property
    def _jumps(self) -> bool:
        return self.dictionary.jumps_over(self.parameters.bound)

    def _row(
        self, sample: Prepared, of_texts: Sequence[Evidence], noise: float, nearest: float, near_switch: float
    ) -> ScoredRow | QuarantineRow:
        """The row of a sample, from the evidence of each text that is scored; features are listed of the first.

        Args:
            noise: as of `Firing`; nearest: of the features' peaks, the least distance from the bound of activity;
                near_switch: as of `Firing`. Of several texts, the worst.
        """
        if not math.isfinite(noise):
            error = NonFinite("activations of the SAE are NaN or infinite")
            return quarantined(sample.source_row, error, sample.sample_id)
        first, *others = of_texts
        scores = {name: METRICS[name].score(first) for name in self.parameters.metrics}
        for evidence in others:
            scores |= {column: METRICS[name].score(evidence) for column, name in self.parameters.of_rejected.items()}
        if bad := [name for name, score in scores.items() if not math.isfinite(score)]:
            error = NonFinite(f"{', '.join(bad)} of the sample is NaN or infinite")
            return quarantined(sample.source_row, error, sample.sample_id)
        return ScoredRow(
            sample_id=sample.sample_id,
            source_row=sample.source_row,
            quality=sample.quality,
            scores=scores,
            n_text_tokens=first.n_text_tokens,
            n_image_tokens=first.activity.n_tokens - first.n_text_tokens,
            top_features=_top_features(first, self.parameters.top_features) if "cosine" in scores else [],
            # Where a feature jumps from zero to any height, a switch may carry it over delta.
            near_delta=nearest < noise or (near_switch > 0 and self._jumps),
            near_switch=int(near_switch),
        )

    def _evidence(self, sample_id: str, parts: Sequence[Part], likelihood: Mapping[Likely, float]) -> Evidence:
        n_text = sum(part.n_text for part in parts)
        activity = joined([part.activity for part in parts])
        return Evidence(sample_id, activity, n_text, self.weights, likelihood, self.parameters)


def _top_features(evidence: Evidence, count: int) -> list[tuple[int, float]]:
    added = contributions(evidence)
    features = added.nonzero()[:, 0]
    # A stable sort, so that among equals the lower feature comes first on every device.
    values, order = added[features].sort(descending=True, stable=True)
    listed = torch.stack((features[order[:count]].double(), values[:count]), dim=1).tolist()
    return [(int(feature), value) for feature, value in listed]
