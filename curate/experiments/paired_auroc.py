"""How well a score tells samples from their own damaged copies."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_PAIRS_AT_ONCE = 2**22


class Estimate(NamedTuple):
    """A share between 0 and 1, its standard error (NaN of fewer than two samples), and the comparisons behind it."""

    value: float
    standard_error: float
    n_comparisons: int


def paired_auroc(
    original: Float[np.ndarray, " n"],
    damaged: Float[np.ndarray, " n"],
    lengths: tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]] | None = None,
) -> Estimate | None:
    """Probability that an original scores higher than a damaged copy, of any sample; ties count half.

    Copy i is of original i, so the two are not independent, and DeLong's error would be wrong. Each sample is a cluster
    of two: the error is that of Obuchowski (1997), "Nonparametric analysis of clustered ROC curve data", which, over
    the comparisons that count, is the sum of squared contributions (a_i − value × b_i) / b of the clusters.

    Args:
        lengths: of originals and copies; if given, only comparisons of equal lengths count.

    Returns:
        None where no comparison counts.
    """
    n = len(original)
    higher, counted = np.zeros(n), np.zeros(n)  # of each cluster, over its original's and its copy's comparisons
    step = max(1, _PAIRS_AT_ONCE // max(1, n))
    for start in range(0, n, step):
        part = slice(start, start + step)
        outcome = np.sign(original[part, None] - damaged[None]) / 2 + 0.5
        counts = np.ones(outcome.shape, bool) if lengths is None else lengths[0][part, None] == lengths[1][None]
        outcome = np.where(counts, outcome, 0.0)
        higher[part] += outcome.sum(1)
        higher += outcome.sum(0)
        counted[part] += counts.sum(1)
        counted += counts.sum(0)
    total = counted.sum() / 2
    if total == 0:
        return None
    value = higher.sum() / 2 / total
    contributions = (higher - value * counted) / total
    error = np.sqrt(n / (n - 1) * (contributions**2).sum()) if n > 1 else np.nan
    return Estimate(float(value), float(error), int(total))


def own_share(original: Float[np.ndarray, " n"], damaged: Float[np.ndarray, " n"]) -> Estimate:
    """Share of samples that score higher than their own damaged copy; ties count half."""
    outcome = np.sign(original - damaged) / 2 + 0.5
    error = outcome.std(ddof=1) / np.sqrt(len(outcome)) if len(outcome) > 1 else np.nan
    return Estimate(float(outcome.mean()), float(error), len(outcome))
