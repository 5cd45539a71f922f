"""Two runs compared: how alike they rank the samples that both scored, and which sample moves most."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int
from upath import UPath

from curate.manifest.order import best_first, checked_metric
from curate.manifest.record import MANIFEST, read_record
from curate.manifest.rule import Rule, kept
from curate.manifest.verify import read_tables

RATIOS = tuple(map(Decimal, ("0.01", "0.05", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9")))


@dataclass(frozen=True)
class Overlap:
    """What two runs keep at one ratio of the samples that both scored.

    Attributes:
        keep: samples that each keeps.
        same: those that both keep.
        chance: the share that two unrelated orders have in common, on average.
    """

    ratio: Decimal
    keep: int
    same: int
    chance: float

    @property
    def share(self) -> float:
        return self.same / self.keep


@dataclass(frozen=True)
class Move:
    """A sample's places among those that both runs scored, 1 being best; its ranks in either run may be lower."""

    sample_id: str
    first: int
    second: int

    @property
    def places(self) -> int:
        """By how many places the second run puts it higher."""
        return self.first - self.second


@dataclass(frozen=True)
class Comparison:
    """How a second run ranks what a first one ranked.

    A run may hold a sample several times. Its best copy is its place, and the others are only counted.

    Attributes:
        by: the metric that each run was ordered by.
        shared: samples that both scored; only_first, only_second: that one alone did.
        copies: rows of each run that are further copies of a sample.
        spearman: rank correlation over the shared samples; None of fewer than two.
        second: in the first run's order, the places (from 0) that the second gives the shared samples.
        up: samples that the second run puts highest above their place in the first; down: lowest below.
    """

    by: tuple[str, str]
    shared: int
    only_first: int
    only_second: int
    copies: tuple[int, int]
    spearman: float | None
    overlaps: tuple[Overlap, ...]
    second: Int[np.ndarray, " shared"]
    up: tuple[Move, ...]
    down: tuple[Move, ...]


def compare(
    first: UPath, second: UPath, by: str | None = None, ratios: Sequence[Decimal] = RATIOS, moves: int = 10
) -> Comparison:
    """Compare two runs by what they rank by, or both by one metric.

    Holds about 150 bytes for each row of both.

    Args:
        moves: samples in each direction.

    Raises:
        ConfigurationError: a run did not compute the metric.
        DataError: a run folder cannot be read.
    """
    names, ids = zip(*(_samples(run, by) for run in (first, second)), strict=True)
    distinct = [pc.unique(each) for each in ids]  # type: ignore[attr-defined] # in the order of their best copies
    found = pc.index_in(distinct[0], value_set=distinct[1])  # type: ignore[attr-defined]
    shared = distinct[0].filter(found.is_valid())
    # Places in the second run, with gaps where it has samples of its own: their order is what counts.
    places = np.argsort(np.argsort(found.drop_null().to_numpy()))
    moved = np.argsort(np.arange(len(places)) - places, kind="stable")

    def move(place: int) -> Move:
        return Move(shared[place].as_py(), place + 1, int(places[place]) + 1)

    up = [move(int(place)) for place in moved[::-1][:moves]]
    down = [move(int(place)) for place in moved[:moves]]
    return Comparison(
        by=names,
        shared=len(shared),
        only_first=len(distinct[0]) - len(shared),
        only_second=len(distinct[1]) - len(shared),
        copies=(len(ids[0]) - len(distinct[0]), len(ids[1]) - len(distinct[1])),
        spearman=_spearman(places),
        overlaps=tuple(_overlap(places, ratio) for ratio in ratios) if len(places) else (),
        second=places,
        up=tuple(each for each in up if each.places > 0),
        down=tuple(each for each in down if each.places < 0),
    )


def _samples(run: UPath, by: str | None) -> tuple[str, pa.Array]:
    """The metric that a run is ordered by, and its samples' ids in this order."""
    record = read_record(run)
    metric = checked_metric(run, record, by)
    none = pa.table({"sample_id": pa.array([], pa.string())})
    ids = pa.concat_tables([none, *read_tables(run, MANIFEST, ["sample_id"])])["sample_id"].combine_chunks()
    return metric, ids if metric == record.metrics[0] else ids.take(pa.array(best_first(run, record, metric)))


def _spearman(places: Int[np.ndarray, " shared"]) -> float | None:
    """Of two orders without ties: 1 − 6 Σ d² / (n (n² − 1)) (Spearman 1904)."""
    n = len(places)
    if n < 2:
        return None
    squares = float(np.square(np.arange(n, dtype=float) - places).sum())
    return 1 - 6 * squares / (n * (n * n - 1.0))


def _overlap(places: Int[np.ndarray, " shared"], ratio: Decimal) -> Overlap:
    """A ratio keeps as many of the samples as a selection would."""
    keep = kept([pa.table({"place": places})], Rule(ratio=ratio, by="place"))
    return Overlap(ratio, keep, int((places[:keep] < keep).sum()), keep / len(places))
