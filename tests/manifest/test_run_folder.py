"""The run on disk: ranks and their ties, selections, and every way in which `verify` must find it damaged."""

import json
import tracemalloc
from decimal import Decimal
from functools import partial
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from curate.errors import ConfigurationError, DataError
from curate.fingerprint import file_sha256
from curate.manifest.atomic import write_atomically, write_batches
from curate.manifest.ledger import commit, ledger_sha256, read_ledger
from curate.manifest.rank import write_manifest
from curate.manifest.record import (
    MANIFEST,
    QUARANTINE,
    Counts,
    FileRecord,
    Hashes,
    RunRecord,
    ShardsRecord,
    read_record,
    write_record,
)
from curate.manifest.rows import QuarantineRow, ScoredRow, quarantine_table, scored_table
from curate.manifest.rule import Rule, kept
from curate.manifest.select import SelectJob, select
from curate.manifest.selection import SELECTION, read_selection
from curate.manifest.sort import sorted_rows
from curate.manifest.verify import read_tables, verify_run
from curate.sample import draw

METRICS = ["cosine", "l0"]


def scored(row: int, cosine: float, l0: float = 1.0, sample_id: str | None = None) -> ScoredRow:
    return ScoredRow(
        sample_id or f"{row:032x}", row, {"cosine": cosine, "l0": l0}, 10, 20, False, 0, "clean", [(3, 0.5), (1, -0.25)]
    )


def make_run(folder: Path) -> Path:
    """A whole run of 10 scored and 2 quarantined rows, in two shards."""
    (folder / "shards").mkdir(parents=True)
    rows = [scored(row, cosine=row % 4, l0=100 - row) for row in range(12) if row not in (5, 9)]
    bad = [
        QuarantineRow(5, None, "read", "BadRow", "not JSON"),
        QuarantineRow(9, "f" * 32, "decode", "EmptyText", "why"),
    ]
    for start, stop in ((6, 12), (0, 6)):
        tables = [
            scored_table([row for row in rows if start <= row.source_row < stop], METRICS),
            quarantine_table([row for row in bad if start <= row.source_row < stop]),
        ]
        commit(folder, start, stop, pa.concat_tables(tables, promote_options="default"), None, "stamp")
    write_manifest(folder, METRICS, (folder / "shards").glob("*.parquet"))
    record(folder)
    return folder


def record(folder: Path, **changes) -> None:
    files = {
        name: FileRecord(sha256=file_sha256(folder / name), bytes=(folder / name).stat().st_size)
        for name in (MANIFEST, QUARANTINE)
    }
    counts = Counts(
        selected=12,
        read=12,
        scored=10,
        quarantined=2,
        quarantined_by_error={"BadRow": 1, "EmptyText": 1},
        near_delta=0,
        near_switch=0,
        text_tokens=100,
        image_tokens=200,
        features=8,
    )
    shards = read_ledger(folder)
    facts = {
        "package_version": "0",
        "status": "complete",
        "started": "2026-01-01T00:00:00+00:00",
        "arguments": {"dataset": {"name": "demo"}, "model": {"name": "demo"}},
        "metrics": METRICS,
        "hashes": Hashes(dataset="d", model="m", sae="s", weights=None),
        "hook_layer": 2,
        "delta": 1.0,
        "top_k": 5,
        "batch_size": 3072,
        "device": "cpu",
        "dtype": "float32",
        "versions": {},
        "counts": counts,
        "timings": {},
        "throughput": {},
        "notes": [],
        "shards": ShardsRecord(count=len(shards), kept=0, sha256=ledger_sha256(shards.values())),
        "files": files,
    }
    write_record(folder, RunRecord.model_validate({**facts, **changes}))


@pytest.fixture
def run(tmp_path) -> Path:
    return make_run(tmp_path / "run")


def test_the_manifest_is_sorted_by_score_then_id_and_holds_what_was_written(run):
    manifest = pq.read_table(run / MANIFEST)
    rows = manifest.to_pylist()
    assert [row["rank"] for row in rows] == list(range(1, 11))
    assert [(row["score"], row["source_row"]) for row in rows] == sorted(
        [(row % 4, row) for row in range(12) if row not in (5, 9)], key=lambda entry: (-entry[0], entry[1])
    )
    assert rows[0]["top_features"] == [{"feature": 3, "contribution": 0.5}, {"feature": 1, "contribution": -0.25}]
    assert [row["source_row"] for row in pq.read_table(run / QUARANTINE).to_pylist()] == [5, 9]
    assert [check.name for check in verify_run(run) if not check.ok] == []


def test_the_same_table_gives_the_same_bytes(tmp_path):
    one, other = make_run(tmp_path / "one"), make_run(tmp_path / "other")
    assert (one / MANIFEST).read_bytes() == (other / MANIFEST).read_bytes()


def rewrite(run: Path, name: str, change) -> None:
    """Change a table and make the record agree with its new bytes, so that only the content is wrong."""
    pq.write_table(change(pq.read_table(run / name)), run / name)
    old = read_record(run)
    record(run, status=old.status, counts=old.counts)


def with_column(table: pa.Table, name: str, values: list) -> pa.Table:
    index = table.column_names.index(name)
    return table.set_column(index, table.field(name), pa.array(values, table.field(name).type))


@pytest.mark.parametrize(
    ("name", "change", "finds"),
    [
        (MANIFEST, lambda t: t.slice(0, 9), {"counts"}),
        (MANIFEST, lambda t: t.take(list(reversed(range(10)))), {"ranks"}),
        (MANIFEST, lambda t: with_column(t, "rank", [1, *range(1, 10)]), {"ranks"}),
        (MANIFEST, lambda t: with_column(t, "score", [9.0, *t["score"].to_pylist()[1:]]), {"ranks"}),
        (MANIFEST, lambda t: with_column(t, "source_row", [0] * 10), {"each row once"}),
        (MANIFEST, lambda t: with_column(t, "source_row", [5, *range(20, 29)]), {"each row once"}),
        (MANIFEST, lambda t: with_column(t, "l0", [float("nan"), *[1.0] * 9]), {"values"}),
        (MANIFEST, lambda t: with_column(t, "l0", [float("inf"), *[1.0] * 9]), {"values"}),
        (MANIFEST, lambda t: with_column(t, "l0", [None, *[1.0] * 9]), {"values"}),
        (MANIFEST, lambda t: t.drop_columns(["l0"]), {"schema manifest.parquet"}),
        (MANIFEST, lambda t: t.append_column("extra", [[1] * 10]), {"schema manifest.parquet"}),
        (QUARANTINE, lambda t: t.slice(0, 1), {"counts"}),
        (QUARANTINE, lambda t: with_column(t, "reason", [None, "x"]), {"values"}),
    ],
)
def test_verify_finds_content_that_breaks_the_contract(run, name, change, finds):
    rewrite(run, name, change)
    failed = {check.name for check in verify_run(run) if not check.ok}
    assert finds <= failed
    assert not any(name.startswith("checksum") for name in failed)


@pytest.mark.parametrize("batch", [1, 2, 3, 10])
def test_verify_finds_neighbours_in_the_wrong_order_wherever_batches_end(run, monkeypatch, batch):
    monkeypatch.setattr("curate.manifest.verify.READ_ROWS", batch)
    assert [check.name for check in verify_run(run) if not check.ok] == []
    good = pq.read_table(run / MANIFEST)
    for row in range(9):
        order = list(range(10))
        order[row], order[row + 1] = row + 1, row
        swapped = with_column(good.take(order), "rank", list(range(1, 11)))
        rewrite(run, MANIFEST, lambda _, table=swapped: table)
        assert [check.name for check in verify_run(run) if not check.ok] == ["ranks"], row


def test_verify_names_a_table_that_cannot_be_read_to_its_end(run):
    rewrite(run, MANIFEST, lambda table: pa.concat_tables([table] * 100))
    data = bytearray((run / MANIFEST).read_bytes())
    data[4:200] = bytes(196)
    (run / MANIFEST).write_bytes(data)
    failed = {check.name: check.detail for check in verify_run(run) if not check.ok}
    assert f"{MANIFEST} cannot be read" in failed["tables"]


def test_a_table_is_read_a_part_at_a_time(tmp_path):
    numbers = pa.table({"score": np.random.default_rng(0).random(500_000)})
    write_batches(tmp_path / MANIFEST, numbers.schema, [numbers], group_rows=10_000)
    tracemalloc.start()
    assert sum(rows.num_rows for rows in read_tables(tmp_path, MANIFEST)) == 500_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (tmp_path / MANIFEST).stat().st_size / 2


def test_verify_finds_files_that_changed_or_are_gone(run):
    data = bytearray((run / MANIFEST).read_bytes())
    data[50] ^= 1
    (run / MANIFEST).write_bytes(data)
    assert f"checksum {MANIFEST}" in {check.name for check in verify_run(run) if not check.ok}
    (run / QUARANTINE).unlink()
    failed = {check.name: check.detail for check in verify_run(run) if not check.ok}
    assert failed[f"checksum {QUARANTINE}"] == "missing"
    assert "tables" in failed


def test_verify_finds_records_that_point_outside_the_run(run):
    (run.parent / "secret").write_text("x")
    content = json.loads((run / "run.json").read_text())
    content["files"]["../secret"] = {"sha256": file_sha256(run.parent / "secret"), "bytes": 1}
    (run / "run.json").write_text(json.dumps(content))
    assert "checksum ../secret" in {check.name for check in verify_run(run) if not check.ok}


@pytest.mark.parametrize("change", [{"files": {}}, {"metrics": []}])
def test_a_record_that_leaves_out_what_verify_needs_is_refused(run, change):
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(DataError):
        verify_run(run)


def test_verify_holds_every_count_against_the_tables(run):
    good = read_record(run).counts
    for change in ({"text_tokens": 99}, {"image_tokens": 0}, {"quarantined_by_error": {"BadRow": 2}}, {"selected": 13}):
        record(run, counts=good.model_copy(update=change))
        assert [check.name for check in verify_run(run) if not check.ok] == ["counts"], change


def test_verify_says_that_a_stopped_run_is_not_complete(run):
    record(run, status="stopped")
    assert [check.name for check in verify_run(run) if not check.ok] == ["complete"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "Invalid JSON"), ("{}", "Field required"), ('{"schema_version": 9}', "schema_version")],
)
def test_a_damaged_record_is_named(run, text, message):
    (run / "run.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_record(run)


def test_a_record_with_unknown_fields_is_refused(run):
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**content, "surprise": 1}))
    with pytest.raises(DataError, match="surprise"):
        read_record(run)


def test_a_folder_without_a_record_says_whether_a_run_was_cut_off(tmp_path):
    with pytest.raises(DataError, match="not a run folder"):
        read_record(tmp_path)
    (tmp_path / "shards").mkdir()
    with pytest.raises(DataError, match="not finished; go on with: curate score --resume"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("rule", "rows"),
    [
        (Rule(by="cosine", ratio=Decimal("0.2")), [3, 7]),
        (Rule(by="cosine", ratio=Decimal("0.25")), [3, 7, 11]),
        (Rule(by="cosine", ratio=Decimal("0.01")), [3]),
        (Rule(by="l0", top=3), [0, 1, 2]),
        (Rule(by="l0", top=99), [0, 1, 2, 3, 4, 6, 7, 8, 10, 11]),
        (Rule(by="cosine", min_score=2), [3, 7, 11, 2, 6, 10]),
        (Rule(by="cosine", min_score=2.5), [3, 7, 11]),
    ],
)
def test_a_rule_keeps_the_best_rows_by_any_metric(run, rule, rows):
    folder, _ = select(SelectJob(run=str(run), **rule.model_dump()))
    selection = pq.read_table(folder / "selection.parquet").to_pylist()
    assert [row["source_row"] for row in selection] == rows
    assert [row["rank"] for row in selection] == list(range(1, len(rows) + 1))
    scores = {row["source_row"]: row[rule.by] for row in pq.read_table(run / MANIFEST).to_pylist()}
    assert [row["score"] for row in selection] == [scores[row] for row in rows]


@given(st.integers(1, 500), st.integers(1, 1000))
@settings(deadline=None)
def test_ratios_are_exact_decimals(n, thousandths):
    table = scored_table([scored(row, float(row)) for row in range(n)], METRICS)
    rule = Rule(by="cosine", ratio=Decimal(thousandths) / 1000)
    assert kept([table], rule) == max(1, (2 * n * thousandths + 1000) // 2000)  # halves up, in whole numbers


def test_a_selection_names_its_run_its_rule_and_its_own_hash(run):
    folder, selection = select(SelectJob(run=str(run), by="l0", ratio=Decimal("0.5")))
    assert folder == run / "selections" / "l0-ratio-0.5"
    assert selection.run_hash == file_sha256(run / MANIFEST)
    assert selection.sha256 == file_sha256(folder / "selection.parquet")
    assert (selection.selected, selection.scored) == (5, 10)
    again, same = select(SelectJob(run=str(run), by="l0", ratio=Decimal("0.5")))
    assert (again, same) == (folder, selection)
    assert [check.name for check in verify_run(run) if not check.ok] == []


def test_a_selection_is_read_only_while_it_and_its_run_are_what_they_were(run, tmp_path):
    inside, _ = select(SelectJob(run=str(run), ratio=0.5))
    outside, _ = select(SelectJob(run=str(run), ratio=0.5, output=str(tmp_path / "outside")))
    for folder in (inside, outside):
        found = read_selection(str(folder))
        assert found.record.run_hash == file_sha256(run / MANIFEST)
        assert found.rows["source_row"].to_pylist() == pq.read_table(run / MANIFEST)["source_row"].to_pylist()[:5]
    moved = run.rename(tmp_path / "moved")
    with pytest.raises(ConfigurationError, match="name the folder where it lies now with --run"):
        read_selection(str(outside))
    assert read_selection(str(outside), str(moved)).rows.num_rows == 5
    assert read_selection(str(moved / "selections" / inside.name)).rows.num_rows == 5
    rewrite(moved, MANIFEST, lambda table: table.slice(0, 9))
    with pytest.raises(DataError, match="no longer the run"):
        read_selection(str(outside), str(moved))
    pq.write_table(pq.read_table(outside / SELECTION).slice(1), outside / SELECTION)
    with pytest.raises(DataError, match="is not the file that"):
        read_selection(str(outside), str(moved))
    with pytest.raises(ConfigurationError, match="is not a selection"):
        read_selection(str(tmp_path))


def test_a_draw_with_a_seed_is_that_of_a_run_with_this_seed(tmp_path):
    """By hand: the numbers that a run with seed 7 would have computed, sorted."""
    folder = make_run(tmp_path / "run")
    manifest = pq.read_table(folder / MANIFEST)
    names = ["random" if name == "l0" else name for name in manifest.column_names]
    pq.write_table(manifest.rename_columns(names), folder / MANIFEST)
    record(folder, metrics=["cosine", "random"])
    numbers = {row: draw(7, f"{row:032x}") for row in range(12) if row not in (5, 9)}
    best = sorted(numbers, key=lambda row: -numbers[row])[:4]
    chosen, selection = select(SelectJob(run=str(folder), by="random", seed=7, top=4))
    assert pq.read_table(chosen / SELECTION)["source_row"].to_pylist() == best
    assert (selection.rule.seed, chosen.name) == (7, "random-seed-7-top-4")
    with pytest.raises(ConfigurationError, match="only --by random draws"):
        select(SelectJob(run=str(folder), by="cosine", seed=7, top=4))


def test_a_selection_is_the_same_however_it_was_sorted(run, monkeypatch, tmp_path):
    rows = pq.read_table(run / MANIFEST).sort_by([("l0", "descending")]).slice(0, 7)
    expected = {"rank": list(range(1, 8)), "score": rows["l0"]}
    names = ("rank", "sample_id", "source_row", "score")
    columns = [expected[name] if name in expected else rows[name] for name in names]
    pq.write_table(pa.table(columns, names), tmp_path / "expected", compression="zstd")
    for sizes in ({}, {"run_rows": 3, "block_rows": 1}):
        monkeypatch.setattr("curate.manifest.select.sorted_rows", partial(sorted_rows, **sizes))
        folder, _ = select(SelectJob(run=str(run), by="l0", top=7))
        assert (folder / "selection.parquet").read_bytes() == (tmp_path / "expected").read_bytes()


def test_a_selection_that_was_cut_off_can_be_made_again(run, tmp_path):
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / ".selection.parquet.4242.tmp").write_text("half")
    folder, _ = select(SelectJob(run=str(run), by="l0", top=1, output=str(tmp_path / "best")))
    assert {path.name for path in folder.iterdir()} == {"selection.parquet", "selection.json"}


def test_what_cannot_be_selected_is_refused(run, tmp_path):
    with pytest.raises(ConfigurationError, match="has cosine, l0"):
        select(SelectJob(run=str(run), by="ifd", top=1))
    with pytest.raises(ConfigurationError, match="no row"):
        select(SelectJob(run=str(run), by="cosine", min_score=99))
    with pytest.raises(ConfigurationError, match="holds something else"):
        select(SelectJob(run=str(run), by="cosine", top=1, output=str(run)))
    with pytest.raises(ValueError, match="exactly one"):
        Rule(by="cosine", top=1, min_score=1)
    (run / MANIFEST).write_bytes(b"changed")
    with pytest.raises(DataError, match="see curate verify"):
        select(SelectJob(run=str(run), by="cosine", top=1, output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_write_that_fails_leaves_what_was_there_and_no_litter(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"
