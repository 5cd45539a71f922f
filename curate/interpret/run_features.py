"""The features of a run: on which modality each fires, what it weighs, and where it fires most strongly."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from curate.errors import ConfigurationError
from curate.interpret.examples import Example, Examples, strongest
from curate.interpret.heat import Heat, heat
from curate.interpret.lens import Lens, read_sample
from curate.interpret.live import live_features
from curate.scoring.prepare import Prepared, prepare


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RunFeature(_Part):
    """A feature, by the samples that feature weights were computed from."""

    feature: int
    weight: float | None = Field(description="null for a feature with fewer than K tokens in a modality")
    text_peak: float = Field(description="its strongest activation on a text token")
    image_peak: float
    label: str | None = Field(description="from --labels")
    examples: list[Example]


class RunFeatures(_Part):
    """What `curate features RUN` finds."""

    samples: int = Field(description="that feature weights were computed from; all here is by their tokens")
    delta: float = Field(description="a feature is active above it")
    hook_layer: int
    cross_modal: list[int] = Field(description="active on at least one text and one image token")
    text_only: list[int] = Field(description="active on text tokens alone")
    image_only: list[int] = Field(description="active on image tokens alone")
    inactive: int = Field(description="features that are active on none of these tokens")
    features: list[RunFeature] = Field(description="those asked for; else those of the largest weight, this first")


class Looked(NamedTuple):
    """What was found, and what it takes to draw it."""

    record: RunFeatures
    examples: Examples


def run_features(lens: Lens, chosen: Sequence[int], top: int, count: int, labels: Mapping[int, str]) -> Looked:
    """List the features of a run, and show some of them.

    Args:
        chosen: features to show; without, the `top` of the largest weight.
        count: examples of each modality.

    Raises:
        ConfigurationError: the run has no feature weights, or no such feature.
    """
    run, record = lens.run, lens.record
    assert run is not None, "a lens of no run"
    assert record is not None
    if lens.scorer.weights is None:
        raise ConfigurationError(f"{run} has no feature weights: score with --metric cosine, which computes them")
    live = live_features(run, record.delta)
    if unknown := [feature for feature in chosen if not 0 <= feature < len(live.weight)]:
        raise ConfigurationError(f"--feature {unknown[0]}: there are features 0 to {len(live.weight) - 1}")
    shown = list(chosen) or live.heaviest(top)
    found = strongest(lens, shown, count)
    return Looked(
        RunFeatures(
            samples=live.record.samples,
            delta=record.delta,
            hook_layer=lens.hook_layer,
            cross_modal=live.cross_modal,
            text_only=live.text_only,
            image_only=live.image_only,
            inactive=live.inactive,
            features=[
                RunFeature(
                    feature=feature,
                    weight=float(live.weight[feature]) or None,
                    text_peak=float(live.text_peak[feature]),
                    image_peak=float(live.image_peak[feature]),
                    label=labels.get(feature),
                    examples=found.of.get(feature, []),
                )
                for feature in shown
            ],
        ),
        found,
    )


def example_heats(lens: Lens, feature: int, examples: Sequence[Example]) -> list[Heat]:
    """Where a feature fires in the images of its strongest image tokens, each image once.

    Raises:
        DataError: the data have changed.
    """
    assert lens.dataset is not None, "a lens of no run"
    heats = []
    for row, sample_id in {each.source_row: each.sample_id for each in examples if each.modality == "image"}.items():
        sample = read_sample(lens.dataset, row, sample_id)
        (prepared,) = prepare([(row, sample)], lens.builder, lens.text)
        if isinstance(prepared, Prepared):
            heats.append(heat(lens, sample.image, prepared.inputs, [feature]))
    return heats
