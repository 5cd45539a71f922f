"""Rows sorted by way of the disk: the order of a sort in memory, whatever the sizes, and nothing left behind."""

from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from curate.manifest.rank import rank_order
from curate.manifest.sort import sorted_rows

SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string()),
        pa.field("source_row", pa.int64()),
        pa.field("score", pa.float64()),
        pa.field("top", pa.list_(pa.int32())),
    ]
)
ORDER = rank_order("score")


def table(entries: list[tuple[float, str]]) -> pa.Table:
    """Rows whose every column tells them apart, the list by its length and content."""
    scores, ids = [score for score, _ in entries], [name for _, name in entries]
    top = [[*range(row % 3), row] for row in range(len(entries))]
    return pa.Table.from_arrays(
        [pa.array(ids, pa.string()), np.arange(len(entries)), pa.array(scores, pa.float64()), top], schema=SCHEMA
    )


def pieces(rows: pa.Table, size: int) -> list[pa.Table]:
    return [rows.slice(start, size) for start in range(0, rows.num_rows, size)]


ENTRIES = st.lists(
    st.tuples(
        st.sampled_from((-1.0, -0.0, 0.0, 0.5, 1e300)) | st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from(("a", "b", "ab", "é", "\U0001f600", "\uffff")),
    ),
    max_size=60,
)


@given(ENTRIES, st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
@settings(deadline=None)
def test_rows_come_by_score_then_id_then_row_whatever_the_sizes(entries, piece, run_rows, block_rows):
    rows = table(entries)
    with TemporaryDirectory() as scratch:
        result = list(sorted_rows(pieces(rows, piece), SCHEMA, ORDER, Path(scratch), run_rows, block_rows))
        assert not list(Path(scratch).iterdir())
    found = [row for part in result for row in part.to_pylist()]
    assert found == sorted(rows.to_pylist(), key=lambda row: (-row["score"], row["sample_id"], row["source_row"]))


@pytest.mark.parametrize("scores", [np.zeros(2000), np.arange(2000.0), -np.arange(2000.0), np.arange(2000) % 7.0])
def test_no_more_rows_are_held_than_a_run_and_a_block_of_each(tmp_path, scores):
    rows = table([(score, f"{row * 7919 % 2000:04}") for row, score in enumerate(scores.tolist())])
    parts = list(sorted_rows([rows], SCHEMA, ORDER, tmp_path, run_rows=100, block_rows=2))
    assert sum(part.num_rows for part in parts) == 2000
    assert max(part.num_rows for part in parts) <= 100 + 2 * (2000 // 100)


def test_nothing_is_left_when_reading_fails_or_the_reader_stops(tmp_path):
    def broken():
        yield from pieces(table([(0.0, "a")] * 30), 10)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(sorted_rows(broken(), SCHEMA, ORDER, tmp_path, run_rows=10))
    rows = sorted_rows([table([(0.0, "a")] * 30)], SCHEMA, ORDER, tmp_path, run_rows=10, block_rows=2)
    assert next(rows).num_rows
    assert not list(tmp_path.iterdir())
