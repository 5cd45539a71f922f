"""Figures with their 95% intervals."""

import math

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

_Z = 1.959963984540054  # of a 95% interval


class Interval(BaseModel):
    """A figure with its 95% interval."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float = Field(description="the figure itself")
    low: float = Field(description="where its interval begins")
    high: float = Field(description="where it ends")


def wilson(successes: float, n: int) -> Interval:
    """A share with its score interval (Wilson 1927), which is sound near 0 and 1, too.

    Args:
        successes: of n; not a whole number where each of the n is itself the mean of several.
    """
    share, z2 = successes / n, _Z * _Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Interval(value=share, low=max(0.0, min(share, centre - half)), high=min(1.0, max(share, centre + half)))


def mean_interval(values: np.ndarray) -> Interval:
    """The mean of two values or more, ± 1.96 of its standard errors."""
    mean, half = float(values.mean()), _Z * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Interval(value=mean, low=mean - half, high=mean + half)


def paired_difference(one: np.ndarray, other: np.ndarray) -> Interval:
    """The difference of two shares of the same things, each thing being 0, 1, or a mean of such.

    Wilson's intervals of both, squared and added, less what the pairs have in common, which is corrected for continuity
    (Newcombe 1998, Statistics in Medicine 17, 2635, method 10). So it is sound where all pairs differ alike, and a
    standard error is zero.
    """
    first, second = (wilson(float(each.sum()), len(each)) for each in (one, other))
    spread = float(one.std() * other.std())
    common = float(((one - one.mean()) * (other - other.mean())).mean())
    alike = min(common, max(0.0, common - 1 / (2 * len(one)))) / spread if spread > 0 else 0.0

    def reach(of_one: float, of_other: float) -> float:
        return math.sqrt(max(0.0, of_one**2 - 2 * alike * of_one * of_other + of_other**2))

    difference = first.value - second.value
    return Interval(
        value=difference,
        low=difference - reach(first.value - first.low, second.high - second.value),
        high=difference + reach(first.high - first.value, second.value - second.low),
    )
