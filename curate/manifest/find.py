"""One sample's row of a run."""

from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from curate.errors import DataError
from curate.manifest.record import MANIFEST, QUARANTINE
from curate.manifest.verify import read_tables

_LONGEST_RANK = 18  # digits, so that it is a 64-bit number
_SHOWN = 2  # of each batch of rows: enough to tell one sample from several


def find_row(run: UPath, sample: str) -> dict[str, Any]:
    """The manifest's row of a sample.

    Args:
        sample: its id, the beginning of it, or its rank as `#1`.

    Raises:
        DataError: there is none, or several, or it could not be scored.
    """
    column, wanted = ("rank", sample[1:]) if sample.startswith("#") else ("sample_id", sample)
    if column == "rank" and not (wanted.isdecimal() and len(wanted) <= _LONGEST_RANK):
        raise DataError(f"{sample} is no rank; the best sample is #1")
    if not wanted:
        raise DataError("name a sample, by its id or as #1; curate show lists ids and ranks")

    def matches(rows: pa.Table) -> pa.ChunkedArray:
        if column == "rank":
            return pc.equal(rows[column], int(wanted))  # type: ignore[attr-defined]
        return pc.starts_with(rows[column], wanted)  # type: ignore[attr-defined]

    found: list[dict[str, Any]] = []
    for rows in read_tables(run, MANIFEST):
        found += rows.filter(matches(rows)).slice(0, _SHOWN).to_pylist()
    if not found:
        if column == "sample_id" and (lost := _quarantined(run, wanted)):
            raise DataError(f"{sample} could not be scored: {lost}")
        raise DataError(f"{run} has no sample {sample}; curate show lists ids and ranks")
    if len({row["sample_id"] for row in found}) > 1:
        raise DataError(f"{sample} is the beginning of several samples' ids in {run}; give more of it")
    return found[0]


def sample_ids(run: UPath, rows: Collection[int]) -> dict[int, str]:
    """The ids that the samples of some source rows had when they were scored, or could not be.

    Raises:
        DataError: the run has no such row.
    """
    wanted = pa.array(sorted(rows), pa.int64())
    found: dict[int, str] = {}
    for name in (MANIFEST, QUARANTINE):
        for table in read_tables(run, name, ["source_row", "sample_id"]):
            there = table.filter(pc.is_in(table["source_row"], value_set=wanted))  # type: ignore[attr-defined]
            found |= {row["source_row"]: row["sample_id"] for row in there.to_pylist() if row["sample_id"]}
    if missing := sorted(set(rows) - set(found)):
        raise DataError(f"{run} has no row {missing[0]} of its data, which its feature weights were computed from")
    return found


def _quarantined(run: UPath, prefix: str) -> str | None:
    for rows in read_tables(run, QUARANTINE):
        for row in rows.to_pylist():
            if row["sample_id"] and row["sample_id"].startswith(prefix):
                return f"{row['error']}: {row['reason']}"
    return None
