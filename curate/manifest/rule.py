"""Which rows of a run are kept: its best by a metric, and how many."""

from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator


class Kept(BaseModel):
    """How many rows are kept: exactly one of ratio, top and min_score."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ratio: Decimal | None = Field(default=None, gt=0, le=1, description="the best fraction of the scored rows")
    top: int | None = Field(default=None, ge=1, description="the best N rows")
    min_score: float | None = Field(default=None, allow_inf_nan=False, description="rows that score at least this")

    @model_validator(mode="after")
    def _one(self) -> "Kept":
        if sum(value is not None for value in (self.ratio, self.top, self.min_score)) != 1:
            raise ValueError("give exactly one of --ratio, --top and --min-score")
        return self


class Rule(Kept):
    """Which rows are kept, on one metric."""

    by: str
    seed: int | None = Field(default=None, description="of a draw by random other than the run's own")

    def __str__(self) -> str:
        by = self.by if self.seed is None else f"{self.by}-seed-{self.seed}"
        if self.ratio is not None:
            return f"{by}-ratio-{self.ratio}"
        return f"{by}-top-{self.top}" if self.top is not None else f"{by}-min-score-{self.min_score}"


def share_of(ratio: Decimal, total: int) -> int:
    """How many rows a ratio keeps: the nearest whole number, halves rounded up, and of any rows at least one."""
    return min(total, max(1, int((ratio * total).to_integral_value(ROUND_HALF_UP))))


def kept(tables: Iterable[pa.Table], rule: Rule) -> int:
    """How many of the rows the rule keeps."""
    total = good = 0
    for rows in tables:
        total += rows.num_rows
        if rule.min_score is not None:
            good += int((rows[rule.by].to_numpy() >= rule.min_score).sum())
    if rule.min_score is not None:
        return good
    if rule.ratio is not None:
        return share_of(rule.ratio, total)
    assert rule.top is not None
    return min(total, rule.top)
