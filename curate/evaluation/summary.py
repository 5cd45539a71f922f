"""Relative scores: the candidate's mean over the reference's, with confidence intervals."""

from collections.abc import Iterable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from curate.errors import DataError
from curate.evaluation.reviews import Review, Scored

RESAMPLES, LEVEL, SEED = 2000, 0.95, 0


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Relative(_Record):
    """A relative score, in %, with the bounds of its 95% bootstrap interval over questions; one question has none."""

    relative: float
    low: float | None
    high: float | None


class Figures(Relative):
    """Those of some questions."""

    n: int = Field(description="questions with scores")
    reference: float = Field(description="mean score of the reference answers")
    candidate: float = Field(description="mean score of the candidate's answers")


class Summary(_Record):
    """What came out of an evaluation. Questions without scores are in no figure but `failures`."""

    n: int = Field(description="questions with scores")
    failures: int = Field(description="questions whose reviews say no scores")
    pooled: Figures = Field(description="over all questions")
    macro: Relative = Field(description="mean over the categories, however many questions each has")
    categories: dict[str, Figures]


def summarize(found: Sequence[Scored], failures: int) -> Summary:
    """The relative scores of questions: pooled, by category, and the categories' mean.

    The relative score is mean candidate / mean reference × 100, computed anew in each of 2,000 resamples of the
    questions; those of the macro mean are drawn within each category.

    Raises:
        DataError: no question has scores, or all of a category's references have zero.
    """
    if not found:
        raise DataError(f"no question has scores: {failures:,} failed")
    rng = np.random.default_rng(SEED)
    pooled, _ = _figures(found, rng)
    names = sorted({each.category for each in found if each.category is not None})
    by_category = {name: _figures([each for each in found if each.category == name], rng) for name in names}
    means = [figures.relative for figures, _ in by_category.values()] or [pooled.relative]
    resampled = [ratios for _, ratios in by_category.values()]
    low, high = _bounds(np.mean(resampled, axis=0)) if resampled else (pooled.low, pooled.high)
    return Summary(
        n=len(found),
        failures=failures,
        pooled=pooled,
        macro=Relative(relative=float(np.mean(means)), low=low, high=high),
        categories={name: figures for name, (figures, _) in by_category.items()},
    )


def _figures(found: Sequence[Scored], rng: np.random.Generator) -> tuple[Figures, np.ndarray]:
    """The figures of some questions, and their relative score in each resample; NaN where it has none."""
    if not any(each.reference for each in found):
        raise DataError(
            f"{found[0].category or 'all'}: the references' scores are zero, so nothing is relative to them"
        )
    scores = np.array([(each.reference, each.candidate) for each in found])
    drawn = np.array([scores[rng.integers(0, len(scores), len(scores))].mean(0) for _ in range(RESAMPLES)])
    ratios = drawn[:, 1] / np.where(drawn[:, 0] > 0, drawn[:, 0], np.nan) * 100
    if len(scores) < 2:
        ratios[:] = np.nan  # which would be an interval of no width
    reference, candidate = map(float, scores.mean(0))
    low, high = _bounds(ratios)
    relative = candidate / reference * 100
    return Figures(
        n=len(found), reference=reference, candidate=candidate, relative=relative, low=low, high=high
    ), ratios


def _bounds(ratios: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    if np.isnan(ratios).all():
        return None, None
    low, high = np.nanquantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


class Published(_Record):
    """The numbers of one line of LLaVA's `llava/eval/summarize_gpt_review.py`, in its order."""

    relative: float
    reference: float = Field(description="mean score × 10")
    candidate: float = Field(description="mean score × 10")


def published(reviews: Iterable[Review]) -> dict[str, Published]:
    """What that script prints of a review file, by category and for `all`: failures go into the means, as −1.

    Means are rounded to three decimals before they are divided, as there.

    Raises:
        DataError: a category's reference scores are zero in the mean, where the script divides by zero.
    """
    pairs: dict[str, list[tuple[float, float]]] = {}
    for review in reviews:
        if review.category is not None:
            pairs.setdefault(review.category, []).append(review.pair)
        pairs.setdefault("all", []).append(review.pair)
    lines = {}
    for category in sorted(pairs):
        reference, candidate = (round(mean, 3) for mean in np.asarray(pairs[category]).mean(0).tolist())
        if reference == 0:
            raise DataError(f"{category}: the reference scores are zero in the mean, failures included")
        lines[category] = Published(
            relative=round(candidate / reference * 100, 1),
            reference=round(reference * 10, 1),
            candidate=round(candidate * 10, 1),
        )
    return lines
