"""Shards become a manifest and a quarantine: the right rows and totals, and the same bytes however they were sorted."""

import errno
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.manifest.atomic import write_batches
from curate.manifest.ledger import commit
from curate.manifest.rank import Totals, write_manifest
from curate.manifest.record import MANIFEST, QUARANTINE
from curate.manifest.rows import (
    QuarantineRow,
    ScoredRow,
    manifest_schema,
    quarantine_table,
    scored_table,
)
from curate.manifest.sort import sorted_rows

METRICS = ["cosine", "l0"]
ROWS = 60


def samples() -> list[ScoredRow | QuarantineRow]:
    """Rows of which a third failed, all of the second ten among them; scores and ids repeat."""
    random = np.random.default_rng(1)
    rows: list[ScoredRow | QuarantineRow] = []
    for row in range(ROWS):
        if 10 <= row < 20 or (row >= 40 and row % 2):
            name = None if row % 3 else f"{row:032x}"
            rows.append(QuarantineRow(row, name, "read", ("BadRow", "EmptyText")[row % 2], f"row {row}"))
        else:
            score = float(random.choice((-0.0, 0.0, 1.5)))
            top = [(feature, 0.5) for feature in range(row % 3)]
            scores = {"cosine": score, "l0": float(row)}
            rows.append(ScoredRow(f"{row // 4:032x}", row, scores, row, 2 * row, row % 5 == 0, row % 3, None, top))
    return rows


def shards(run: Path, size: int) -> list[Path]:
    """Commit the samples in shards of `size` rows: some hold only scored rows, some only failed ones."""
    (run / "shards").mkdir(parents=True)
    rows = samples()
    for start in range(0, ROWS, size):
        part = rows[start : start + size]
        scored = [row for row in part if isinstance(row, ScoredRow)]
        failed = [row for row in part if isinstance(row, QuarantineRow)]
        tables = ([scored_table(scored, METRICS)] if scored else []) + ([quarantine_table(failed)] if failed else [])
        commit(run, start, start + len(part), pa.concat_tables(tables, promote_options="default"), None, "stamp")
    return sorted((run / "shards").glob("*.parquet"))


def test_totals_are_those_of_the_rows(tmp_path):
    scored = [row for row in samples() if isinstance(row, ScoredRow)]
    failed = [row for row in samples() if isinstance(row, QuarantineRow)]
    totals = write_manifest(tmp_path, METRICS, shards(tmp_path, 10))
    assert totals == Totals(
        scored=len(scored),
        quarantined=len(failed),
        quarantined_by_error=Counter(row.error for row in failed),
        near_delta=sum(row.near_delta for row in scored),
        near_switch=sum(row.near_switch > 0 for row in scored),
        text_tokens=sum(row.n_text_tokens for row in scored),
        image_tokens=sum(row.n_image_tokens for row in scored),
    )
    assert list(totals.quarantined_by_error) == ["BadRow", "EmptyText"]
    assert pq.read_table(tmp_path / QUARANTINE).equals(quarantine_table(failed))


def test_the_bytes_are_those_of_a_sort_in_memory_whatever_the_sizes(tmp_path, monkeypatch):
    """Row groups of five rows; -0.0 and 0.0 are one score, and each stays what it was."""
    monkeypatch.setattr("curate.manifest.rank.write_batches", partial(write_batches, group_rows=5))
    scored = sorted(
        (row for row in samples() if isinstance(row, ScoredRow)),
        key=lambda row: (-row.scores["cosine"], row.sample_id, row.source_row),
    )
    table = scored_table(scored, METRICS)
    table = table.add_column(0, "rank", pa.array(range(1, len(scored) + 1))).add_column(1, "score", table["cosine"])
    pq.write_table(table.cast(manifest_schema(METRICS)), tmp_path / "expected", compression="zstd", row_group_size=5)
    expected = (tmp_path / "expected").read_bytes()
    quarantines, threads = set(), pa.cpu_count()
    try:
        for number, (size, run_rows, cpus) in enumerate([(60, 100, 1), (7, 6, 2), (10, 13, 1), (1, 1, 2)]):
            pa.set_cpu_count(cpus)
            monkeypatch.setattr(
                "curate.manifest.rank.sorted_rows", partial(sorted_rows, run_rows=run_rows, block_rows=2)
            )
            run = tmp_path / str(number)
            write_manifest(run, METRICS, reversed(shards(run, size)))
            assert (run / MANIFEST).read_bytes() == expected, (size, run_rows, cpus)
            quarantines.add((run / QUARANTINE).read_bytes())
    finally:
        pa.set_cpu_count(threads)
    assert len(quarantines) == 1


def test_no_shards_make_empty_tables(tmp_path):
    assert write_manifest(tmp_path, METRICS, []) == Totals(0, 0, {}, 0, 0, 0, 0)
    assert pq.read_table(tmp_path / MANIFEST).schema == manifest_schema(METRICS)
    assert pq.read_table(tmp_path / QUARANTINE).num_rows == 0


@pytest.mark.parametrize("call", [1, 2, 5])
def test_a_full_disk_leaves_the_old_tables_and_no_litter(tmp_path, monkeypatch, call):
    """The manifest is written in three groups, so the fifth call is the quarantine's second."""
    paths = shards(tmp_path, 10)
    (tmp_path / MANIFEST).write_text("old")
    (tmp_path / QUARANTINE).write_text("old")
    monkeypatch.setattr("curate.manifest.rank.write_batches", partial(write_batches, group_rows=16))
    calls, write = iter(range(1, 100)), pq.ParquetWriter.write_table

    def write_until_full(*arguments, **options):
        if next(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*arguments, **options)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", write_until_full)
    with pytest.raises(OSError, match="No space left"):
        write_manifest(tmp_path, METRICS, paths)
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST, QUARANTINE, "shards"]
    assert (tmp_path / QUARANTINE).read_text() == "old"
    assert call == 5 or (tmp_path / MANIFEST).read_text() == "old"


def test_a_shard_that_lacks_a_metric_is_not_passed_over(tmp_path):
    paths = shards(tmp_path, 10)
    pq.write_table(pq.read_table(paths[0]).drop_columns(["l0"]), paths[0])
    with pytest.raises(KeyError, match="l0"):
        write_manifest(tmp_path, METRICS, paths)
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
