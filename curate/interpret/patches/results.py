"""What is left of an image when patches are masked: accuracy by method and ratio, and how sure that is."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import binomtest

from curate.interpret.intervals import Interval, mean_interval, paired_difference, wilson
from curate.interpret.patches.job import Method
from curate.interpret.study import LeftOut

RANDOM = "random"


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Outcome(_Row):
    """What a model took an image for when only some of its patches were left."""

    method: Method | None = Field(description="what chose the patches; null for the whole image")
    ratio: float = Field(description="of the patches that were kept")
    predicted: int = Field(description="the class whose answer was the most likely; the first of equals")
    right: float = Field(description="the score of the right class's answer: its log-probability")
    top: float = Field(description="that of the predicted class's answer")


class ImageRow(_Row):
    """A line of `rows.jsonl`: what came of one image."""

    id: str = Field(description="the image's name")
    label: int = Field(description="its class, from 0")
    error: str | None = Field(default=None, description="the class of what kept it from being looked at")
    reason: str = Field(default="", description="that error's own words")
    grid: tuple[int, int] = Field(default=(0, 0), description="rows and columns of its patches")
    ranked: dict[Method, list[int]] = Field(
        default={}, description="the patches of each method, the best first, counted row by row"
    )
    outcomes: list[Outcome] = Field(default=[], description="the whole image's, then each method's and ratio's")


class Versus(_Row):
    """A method against `random`, on the same images with the same share of patches."""

    difference: Interval = Field(description="of the accuracies; the interval is that of paired data")
    only_method: int = Field(description="images that are right by the method alone")
    only_random: int = Field(description="images that are right by random alone")
    p: float = Field(description="of so uneven a split of these where there is no difference: McNemar's exact test")


class Found(_Row):
    """What is left of images by one method and ratio."""

    method: Method | None = Field(description="null for whole images")
    ratio: float = Field(description="of the patches that were kept; 1 for whole images")
    n: int = Field(description="images")
    accuracy: Interval = Field(description="with Wilson's interval")
    log_probability: float = Field(description="mean over images, of the right class's answer")
    change: Interval | None = Field(description="of that against whole images; null for these, and for one image")
    versus_random: Versus | None = Field(description="null for whole images, random itself, and where it was left out")


class UsedWeights(_Row):
    """The feature weights that `cosine` summed."""

    source: str = Field(description="the folder that was given, or of what they were computed")
    text: str = Field(description="the text whose tokens they were computed from")
    samples: int = Field(description="that they were computed from")
    features: int = Field(description="of the SAE")
    features_without_weight: int = Field(description="which add nothing")
    sha256: str = Field(description="of the weights' file")


class PatchesRecord(BaseModel):
    """The whole of `patches.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    version: str = Field(description="of curate")
    job: dict[str, Any] = Field(description="what was asked")
    model_sha256: str = Field(description="of the model's files")
    sae_sha256: str = Field(description="of the SAE's files and scale")
    images_sha256: str = Field(description="of the images, their names and classes")
    hook_layer: int = Field(description="the block after which features are read")
    classes: list[str] = Field(description="their names, by number")
    images: int = Field(description="that were looked at")
    left_out: list[LeftOut] = Field(description="the other images")
    weights: UsedWeights | None = Field(description="null where cosine is no method")
    notes: list[str] = Field(description="on the SAE")
    found: list[Found] = Field(description="of whole images, then by method and ratio")


def found(rows: Iterable[ImageRow]) -> list[Found]:
    """The figures of images that were looked at, one or more, all under the same conditions."""
    conditions: list[tuple[Method | None, float]] = []
    is_right, log_probabilities = [], []
    for row in rows:
        conditions = [(outcome.method, outcome.ratio) for outcome in row.outcomes]
        is_right.append([outcome.predicted == row.label for outcome in row.outcomes])
        log_probabilities.append([outcome.right for outcome in row.outcomes])
    right, said, n = np.array(is_right), np.array(log_probabilities), len(is_right)
    figures = []
    for place, (method, ratio) in enumerate(conditions):
        chance = conditions.index((RANDOM, ratio)) if (RANDOM, ratio) in conditions else None
        compared = method not in (None, RANDOM) and chance is not None
        figures.append(
            Found(
                method=method,
                ratio=ratio,
                n=n,
                accuracy=wilson(int(right[:, place].sum()), n),
                log_probability=float(said[:, place].mean()),
                change=mean_interval(said[:, place] - said[:, 0]) if method and n > 1 else None,
                versus_random=versus(right[:, place], right[:, chance]) if compared else None,
            )
        )
    return figures


def versus(method: np.ndarray, chance: np.ndarray) -> Versus:
    """Two ways against each other by which images they got right."""
    only, other = int((method & ~chance).sum()), int((chance & ~method).sum())
    difference = paired_difference(method.astype(float), chance.astype(float))
    return Versus(difference=difference, only_method=only, only_random=other, p=mcnemar(only, other))


def mcnemar(only: int, other: int) -> float:
    """The two-sided p of McNemar's exact test: that of a fair coin thrown `only + other` times."""
    return float(binomtest(only, only + other).pvalue) if only + other else 1.0
