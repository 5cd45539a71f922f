"""What a sweep found: its cells, their means over seeds, and what these say, favourable or not."""

import csv
import io
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import pearsonr, spearmanr, ttest_ind

from curate import __version__
from curate.experiments.published import Comparison
from curate.experiments.sweep_job import FULL, RANDOM
from curate.training.job import Method

SIGNIFICANCE = 0.05
_FEWEST_FOR_CORRELATION = 3


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Tuned(_Record):
    """The whole of a `cell.json`: one training and its evaluation; for the base model, the evaluation alone."""

    model_sha256: str
    n_train: int
    steps: int
    relative: float = Field(description="pooled relative score, in %")
    macro: float = Field(description="mean relative score of the categories, in %")
    categories: dict[str, float] = Field(description="relative scores, in %")
    n: int = Field(description="questions with scores")
    failures: int = Field(description="questions without, which are in no score")
    seconds: float = Field(description="of the sessions that ended training and evaluation")
    mean_weight: float | None = Field(default=None, description="mean feature weight")
    features: int | None = Field(default=None, description="that have one, and that it is the mean of")


class Cell(_Record):
    """One place in the grid. Cells whose selections keep the same samples share a training."""

    method: Method
    metric: str = Field(description=f"the samples were selected by; {FULL} where all were taken")
    ratio: float
    seed: int
    n_samples: int
    training: str = Field(description="its folder in OUTPUT/cells")
    tuned: Tuned | None
    error: str | None = Field(default=None, description="why something of it is missing")


class Mean(_Record):
    """Cells that differ in their seed alone."""

    method: Method
    metric: str
    ratio: float
    relatives: tuple[float, ...] = Field(
        description="relative scores by seed, in %; of those that failed there is none"
    )
    mean: float
    standard_error: float | None = Field(description="of the mean over seeds; there is none of one seed")


class Correlation(_Record):
    """Of mean feature weight and relative score over trainings; p-values are of no correlation."""

    method: Method | Literal["all"]
    n: int
    pearson: float
    pearson_p: float
    spearman: float
    spearman_p: float


class SweepRecord(_Record):
    """The whole of `sweep.json`."""

    schema_version: Literal[1] = 1
    package_version: str = __version__
    job: dict[str, Any]
    decides: dict[str, Any] = Field(description="what every cell depends on; run, model and bench by their content")
    trainings: int = Field(description="distinct ones; cells share them")
    base: Tuned | None = Field(description="the model before it is tuned")
    base_error: str | None
    cells: tuple[Cell, ...]
    means: tuple[Mean, ...]
    correlations: tuple[Correlation, ...]
    findings: tuple[str, ...]
    published: tuple[Comparison, ...] = Field(
        default=(), description="the SAE-V paper's figures of this model and data set, beside this sweep's"
    )
    seconds: float = Field(description="of the last session")

    @property
    def missing(self) -> int:
        """Cells that something is missing of, and the base."""
        return sum(cell.error is not None for cell in self.cells) + (self.base_error is not None)


def means(cells: Iterable[Cell]) -> tuple[Mean, ...]:
    """Means over seeds, in the order of the cells."""
    relatives: dict[tuple[Method, str, float], list[float]] = {}
    for cell in cells:
        if cell.tuned is not None:
            relatives.setdefault((cell.method, cell.metric, cell.ratio), []).append(cell.tuned.relative)
    return tuple(
        Mean(
            method=method,
            metric=metric,
            ratio=ratio,
            relatives=tuple(found),
            mean=float(np.mean(found)),
            standard_error=float(np.std(found, ddof=1) / math.sqrt(len(found))) if len(found) > 1 else None,
        )
        for (method, metric, ratio), found in relatives.items()
    )


def correlations(cells: Sequence[Cell]) -> tuple[Correlation, ...]:
    """Of mean feature weight and relative score, over trainings: of each method, and of all if there are several."""
    tuned = {cell.training: (cell.method, cell.tuned) for cell in cells if cell.tuned is not None}
    methods: list[Any] = list(dict.fromkeys(method for method, _ in tuned.values()))
    found = []
    if len(methods) > 1:
        methods.append("all")
    for method in methods:
        pairs = [
            (each.mean_weight, each.relative)
            for of, each in tuned.values()
            if method in (of, "all") and each.mean_weight is not None
        ]
        weights, relatives = zip(*pairs, strict=True) if pairs else ((), ())
        if len(pairs) < _FEWEST_FOR_CORRELATION or min(len(set(weights)), len(set(relatives))) < 2:
            continue
        by_value: Any = pearsonr(weights, relatives)
        by_rank: Any = spearmanr(weights, relatives)
        found.append(
            Correlation(
                method=method,
                n=len(pairs),
                pearson=float(by_value.statistic),
                pearson_p=float(by_value.pvalue),
                spearman=float(by_rank.statistic),
                spearman_p=float(by_rank.pvalue),
            )
        )
    return tuple(found)


def difference(one: Mean, other: Mean) -> int:
    """1 or -1 where one mean is above or below the other by more than seeds explain, else 0 (Welch's t-test, p < 5%).

    It weighs the difference of the means against its standard error over seeds; of one seed there is none, so 0.
    """
    if min(len(one.relatives), len(other.relatives)) < 2 or one.mean == other.mean:
        return 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # equal scores of all seeds, whose standard error is 0
        tested: Any = ttest_ind(one.relatives, other.relatives, equal_var=False)
    return int(math.copysign(1, one.mean - other.mean)) if tested.pvalue < SIGNIFICANCE else 0


def findings(base: Tuned | None, found: Sequence[Mean], correlated: Sequence[Correlation]) -> tuple[str, ...]:
    """Sentences from the numbers: of each metric against random, of every selection against all data, and the base."""
    sentences, n_tests = [], 0
    for method in dict.fromkeys(each.method for each in found):
        at = {(each.metric, each.ratio): each for each in found if each.method == method}
        metrics = list(dict.fromkeys(metric for metric, _ in at if metric not in (FULL, RANDOM)))
        for metric in metrics:
            pairs = [
                (ratio, difference(each, at[RANDOM, ratio]))
                for (of, ratio), each in at.items()
                if of == metric and (RANDOM, ratio) in at
            ]
            n_tests += len(pairs)
            if pairs:
                sentences.append(_against(f"{method}: {metric}", "random selection", pairs))
        full = at.get((FULL, 1.0))
        if full is not None:
            for metric in [*metrics, RANDOM]:
                pairs = [(ratio, difference(each, full)) for (of, ratio), each in at.items() if of == metric]
                n_tests += len(pairs)
                if pairs:
                    sentences.append(_against(f"{method}: {metric}", "training on all data", pairs))
            if base is not None:
                sentences.append(f"{method}: all data {full.mean:.1f}%, base model {base.relative:.1f}%")
    if n_tests and any(len(each.relatives) > 1 for each in found):
        sentences.append(
            f"a difference counts where Welch's t-test over seeds has p < {SIGNIFICANCE:g}; of {n_tests:,} such tests "
            f"about {n_tests * SIGNIFICANCE:.0f} come out so by chance where nothing differs"
        )
    elif n_tests:
        sentences.append("with one seed nothing says whether a difference is more than chance; take --seeds 3 or more")
    sentences += [
        f"{each.method}: mean feature weight and relative score of {each.n} trainings: Pearson {each.pearson:+.2f} "
        f"(p = {each.pearson_p:.2g}), Spearman {each.spearman:+.2f} (p = {each.spearman_p:.2g})"
        for each in correlated
    ]
    return tuple(sentences)


def _against(who: str, what: str, pairs: Sequence[tuple[float, int]]) -> str:
    """One sentence of the ratios at which one beats the other, loses to it, or neither."""
    listed = {sign: ", ".join(f"{ratio:g}" for ratio, found in pairs if found == sign) for sign in (1, -1)}
    parts = [f"beats {what} at {listed[1]}"] if listed[1] else [f"beats {what} at none of {len(pairs)} ratios"]
    parts += [f"is worse at {listed[-1]}"] if listed[-1] else []
    return f"{who} {' and '.join(parts)}"


def as_csv(cells: Iterable[Cell]) -> str:
    """One line for each cell, with a column for each category."""
    cells = list(cells)
    names = sorted({name for cell in cells if cell.tuned for name in cell.tuned.categories})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fixed = ("method", "metric", "ratio", "seed", "n_samples", "training")
    writer.writerow([*fixed, "relative", "macro", *names, "failures", "mean_weight", "features", "error"])
    for cell in cells:
        row: list[Any] = [getattr(cell, name) for name in fixed]
        if (tuned := cell.tuned) is None:
            row += [None] * (len(names) + 5)
        else:
            row += [tuned.relative, tuned.macro, *map(tuned.categories.get, names)]
            row += [tuned.failures, tuned.mean_weight, tuned.features]
        writer.writerow([*row, cell.error])
    return text.getvalue()
