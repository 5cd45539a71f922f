"""Samples to look at: the best, the worst, and those on either side of the cut."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from upath import UPath

from curate.manifest.order import rows_at
from curate.manifest.record import RunRecord
from curate.report.html.contents import Shown
from curate.report.html.features import Named, named
from curate.report.html.scores import TOKENS


@dataclass(frozen=True)
class Card:
    """One sample. `rank` is by the metric that the report goes by; `scores` has all metrics, then tokens."""

    rank: int
    sample_id: str
    source_row: int
    label: str | None
    score: float
    scores: Mapping[str, float]
    features: tuple[Named, ...]


@dataclass(frozen=True)
class Gallery:
    """Cards under a heading; `name` is what the page calls it in links."""

    name: str
    title: str
    says: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Place:
    """What is shown of a card's sample: its content, or why there is none."""

    content: Shown | None
    missing: str | None


def places(keep: int, rows: int, size: int) -> dict[str, range]:
    """Which ranks (from 1) each gallery shows, in its order."""
    return {
        "best": range(1, min(size, rows) + 1),
        "above": range(max(1, keep - size + 1), keep + 1),
        "below": range(keep + 1, min(keep + size, rows) + 1),
        "worst": range(rows, max(0, rows - size), -1),
    }


TITLES = {
    "best": ("The best", "Ranks from 1 on."),
    "above": ("Just above the cut", "The last that are kept."),
    "below": ("Just below the cut", "The first that are not kept."),
    "worst": ("The worst", "From the last rank on."),
}


def galleries(
    run: UPath,
    record: RunRecord,
    by: str,
    order: Int[np.ndarray, " rows"],
    keep: int,
    size: int,
    labels: Mapping[int, str],
) -> tuple[Gallery, ...]:
    """Read the rows of each gallery.

    Args:
        order: the manifest's rows, best first by the metric `by`.
        size: samples of each.
        labels: of features.

    Raises:
        DataError: the manifest cannot be read.
    """
    ranks = places(keep, len(order), size)
    wanted = sorted({rank for each in ranks.values() for rank in each})
    rows = dict(zip(wanted, rows_at(run, [int(order[rank - 1]) for rank in wanted]), strict=True))
    return tuple(
        Gallery(name, *TITLES[name], tuple(_card(rank, rows[rank], record, by, labels) for rank in each))
        for name, each in ranks.items()
    )


def _card(rank: int, row: Mapping[str, Any], record: RunRecord, by: str, labels: Mapping[int, str]) -> Card:
    return Card(
        rank=rank,
        sample_id=row["sample_id"],
        source_row=row["source_row"],
        label=row["quality"],
        score=row[by],
        scores={name: row[name] for name in (*record.metrics, *TOKENS)},
        features=named(row["top_features"], labels),
    )
