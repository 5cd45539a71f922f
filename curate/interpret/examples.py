"""Where each feature fires most strongly in a run's data: the tokens that its feature weight was computed from."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from curate.errors import DataError
from curate.interpret.lens import Lens, read_sample
from curate.manifest.find import sample_ids
from curate.manifest.record import WEIGHTS_FOLDER
from curate.manifest.rows import QuarantineRow
from curate.manifest.weights import read_places, read_weights
from curate.models.patches import Box
from curate.scoring.prepare import prepare

Modality = Literal["text", "image"]
CONTEXT_TOKENS = 6
_BEFORE = 12  # characters that are shown before a token that names a feature


class Example(BaseModel):
    """One of a feature's strongest tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    modality: Modality
    activation: float
    source_row: int
    sample_id: str
    position: int = Field(description="of the token in its text, from 0")
    token: str | None = Field(description="null for an image token")
    before: str = Field(description="the text before the token, a few tokens of it")
    after: str
    box: tuple[float, float, float, float] | None = Field(
        description="the patch in the image's pixels; null for text, and for what separates rows"
    )


class Examples(NamedTuple):
    """The strongest tokens of some features.

    Attributes:
        of: by feature, each modality's strongest first, text before image.
        unavailable: why there are none, if there are none.
    """

    of: Mapping[int, list[Example]]
    unavailable: str | None = None


class _Place(NamedTuple):
    feature: int
    modality: Modality
    row: int
    position: int
    activation: float


def strongest(lens: Lens, features: Iterable[int], count: int) -> Examples:
    """Up to `count` of each feature's strongest tokens in each modality, read from the data again.

    They are of the samples that the run's feature weights were computed from, which are a part of its data.

    Raises:
        ConfigurationError: the run's weights are damaged.
    """
    run, record, dataset = lens.run, lens.record, lens.dataset
    if run is None or record is None or dataset is None:
        return Examples({}, "no run is named")
    if lens.scorer.weights is None:
        return Examples({}, f"{run} has no feature weights, so nothing is known of its strongest tokens")
    _, weights = read_weights(run / WEIGHTS_FOLDER)
    if weights.dataset_sha256 != record.hashes.dataset:
        return Examples({}, f"the feature weights of {run} were computed from other data than it scored")
    by_row: dict[int, list[_Place]] = defaultdict(list)
    for modality in ("text", "image"):
        rows, positions, activations = read_places(run / WEIGHTS_FOLDER, modality)
        if rows.shape[1] == 0:
            return Examples({}, f"the feature weights of {run} do not say where tokens are: score again")
        for feature in features:
            found = zip(rows[feature].tolist(), positions[feature].tolist(), activations[feature].tolist(), strict=True)
            for row, position, activation in [place for place in found if place[0] >= 0][:count]:
                by_row[row].append(_Place(feature, modality, row, position, activation))
    of: dict[int, list[Example]] = defaultdict(list)
    try:
        ids = sample_ids(run, by_row)
        for row in sorted(by_row):
            _read(lens, row, ids[row], by_row[row], of)
    except DataError as error:
        return Examples({}, str(error))
    ordered = {
        feature: sorted(found, key=lambda each: (each.modality == "image", -each.activation))
        for feature, found in of.items()
    }
    return Examples(ordered)


def _read(lens: Lens, row: int, sample_id: str, places: Iterable[_Place], into: Mapping[int, list[Example]]) -> None:
    """Take in the tokens of a sample that are among some features' strongest."""
    assert lens.dataset is not None
    sample = read_sample(lens.dataset, row, sample_id)
    (prepared,) = prepare([(row, sample)], lens.builder, lens.text)
    if isinstance(prepared, QuarantineRow):
        raise DataError(f"row {row} of {lens.dataset.name} no longer fits the model: {prepared.reason}")
    inputs = prepared.inputs
    said = lens.builder.token_texts(inputs.input_ids)
    texts = ["" if image else text for image, text in zip(inputs.is_image.tolist(), said, strict=True)]
    image_tokens = inputs.is_image.cumsum(0) - 1
    boxes: list[Box | None] = lens.builder.patches(sample.image).boxes(int(inputs.is_image.sum()))
    for place in places:
        at = place.position
        is_image = place.modality == "image"
        into[place.feature].append(
            Example(
                modality=place.modality,
                activation=place.activation,
                source_row=row,
                sample_id=sample.sample_id,
                position=at,
                token=None if is_image else texts[at],
                before="" if is_image else "".join(texts[max(0, at - CONTEXT_TOKENS) : at]),
                after="" if is_image else "".join(texts[at + 1 : at + 1 + CONTEXT_TOKENS]),
                box=boxes[int(image_tokens[at])] if is_image else None,
            )
        )


def called(label: str | None, examples: Iterable[Example]) -> str:
    """A feature's label; where it has none, its strongest text tokens, each in what stands before it."""
    if label is not None:
        return label
    said = (f"…{each.before[-_BEFORE:]}[{each.token}]" for each in examples if each.modality == "text")
    return " ".join(dict.fromkeys(said))
