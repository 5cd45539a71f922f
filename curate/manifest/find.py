"""One sample's rows of a run."""

from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from curate.errors import DataError
from curate.manifest.record import MANIFEST, QUARANTINE
from curate.manifest.verify import read_tables

_LONGEST_RANK = 18  # digits, so that it is a 64-bit number
_COPIES = 100  # of one sample that are told apart from each other; a table may hold it a million times


def find_row(run: UPath, sample: str) -> dict[str, Any]:
    """The manifest's row of a sample.

    Args:
        sample: its id, the beginning of it, or its rank as `#1`.

    Raises:
        DataError: there is none, or several, or it could not be scored.
    """
    if found := _found(run, MANIFEST, sample):
        return found[0]
    if lost := _found(run, QUARANTINE, sample):
        raise DataError(f"{sample} could not be scored: {lost[0]['error']}: {lost[0]['reason']}")
    raise unknown(run, sample)


def find_rows(run: UPath, sample: str) -> list[dict[str, Any]]:
    """All rows of a sample, for a table may hold it several times: the manifest's, then those that could not be scored.

    Args:
        sample: as for `find_row`.

    Raises:
        DataError: there is none, or there are several such samples.
    """
    found = [row for name in (MANIFEST, QUARANTINE) for row in _found(run, name, sample)]
    if not found:
        raise unknown(run, sample)
    if len({row["sample_id"] for row in found}) > 1:
        raise _several(run, sample)
    return found


def rank_of(sample: str) -> int | None:
    """The rank that `#1` names; None where a sample is named by its id.

    Raises:
        DataError: it names nothing.
    """
    if not sample:
        raise DataError("name a sample, by its id or as #1; curate show lists ids and ranks")
    if not sample.startswith("#"):
        return None
    if not (sample[1:].isdecimal() and len(sample) <= 1 + _LONGEST_RANK):
        raise DataError(f"{sample} is no rank; the best sample is #1")
    return int(sample[1:])


def unknown(run: UPath, sample: str) -> DataError:
    """The error of a sample that the run does not have."""
    return DataError(f"{run} has no sample {sample}; curate show lists ids and ranks")


def _found(run: UPath, name: str, sample: str) -> list[dict[str, Any]]:
    """The rows of one file of the run, of which the quarantine knows no ranks."""
    rank = rank_of(sample)
    if rank is not None and name == QUARANTINE:
        return []

    def matches(rows: pa.Table) -> pa.ChunkedArray:
        if rank is not None:
            return pc.equal(rows["rank"], rank)  # type: ignore[attr-defined]
        return pc.starts_with(rows["sample_id"], sample)  # type: ignore[attr-defined]

    found, ids = [], set()
    for rows in read_tables(run, name):
        rows = rows.filter(matches(rows))
        ids.update(pc.unique(rows["sample_id"]).to_pylist())  # type: ignore[attr-defined]
        if len(ids) > 1:
            raise _several(run, sample)
        found += rows.slice(0, _COPIES - len(found)).to_pylist()
    return found


def _several(run: UPath, sample: str) -> DataError:
    return DataError(f"{sample} is the beginning of several samples' ids in {run}; give more of it")


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
