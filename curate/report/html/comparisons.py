"""Another run beside the one that a report is of."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from curate.manifest.compare import Comparison, compare
from curate.manifest.record import MANIFEST, RunRecord, read_record
from curate.manifest.verify import read_tables
from curate.report.html.provenance import provenance


@dataclass(frozen=True)
class Moved:
    """A sample whose place differs most; `source_row` is that of the run the report is of."""

    sample_id: str
    first: int
    second: int
    source_row: int


@dataclass(frozen=True)
class Compared:
    """A comparison, and what the runs were made with where it differs: (what, of this run, of the other)."""

    run: UPath
    record: RunRecord
    comparison: Comparison
    differs: tuple[tuple[str, str, str], ...]
    up: tuple[Moved, ...]
    down: tuple[Moved, ...]

    @property
    def moves(self) -> Iterator[Moved]:
        yield from (*self.up, *self.down)


def compared(run: UPath, record: RunRecord, other: UPath, by: str | None, moves: int) -> Compared:
    """Compare another run with this one; errors as of `compare`."""
    of_other = read_record(other)
    found = compare(run, other, by, moves=moves)
    rows = _source_rows(run, [each.sample_id for each in (*found.up, *found.down)])
    up, down = (
        tuple(Moved(each.sample_id, each.first, each.second, rows[each.sample_id]) for each in part)
        for part in (found.up, found.down)
    )
    mine, theirs = dict(provenance(record)), dict(provenance(of_other))
    names = dict.fromkeys([*mine, *theirs])
    differs = [
        (name, mine.get(name, "none"), theirs.get(name, "none")) for name in names if mine.get(name) != theirs.get(name)
    ]
    return Compared(other, of_other, found, tuple(differs), up, down)


def _source_rows(run: UPath, sample_ids: list[str]) -> dict[str, int]:
    wanted = pa.array(sample_ids, pa.string())
    found: dict[str, int] = {}
    for rows in read_tables(run, MANIFEST, ["sample_id", "source_row"]):
        there = rows.filter(pc.is_in(rows["sample_id"], value_set=wanted))  # type: ignore[attr-defined]
        for row in there.to_pylist():
            found.setdefault(row["sample_id"], row["source_row"])
    return found
