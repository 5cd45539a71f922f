"""Runs begun, cut, damaged and resumed in this process: what is read again, what is refused, what is redone."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import demo
from curate.cli.score import stored_arguments
from curate.datasets import DatasetSpec
from curate.errors import ConfigurationError, DataError, RunStopped, Terminated
from curate.manifest import inputs as inputs_module
from curate.manifest import ledger
from curate.manifest.annotations import ANNOTATIONS
from curate.manifest.inputs import RunInputs, read_inputs, write_inputs
from curate.manifest.ledger import read_ledger, read_shard, shard_file
from curate.manifest.lock import locked
from curate.manifest.quarantine import quarantined_rows
from curate.manifest.record import MANIFEST, read_record, read_sae
from curate.manifest.weights import WEIGHTS_FILE, read_weights, write_weights
from curate.models import ModelSpec
from curate.pipeline import plan as plan_module
from curate.pipeline import score as score_module
from curate.pipeline.first_pass import FirstPass
from curate.pipeline.folder import check_output, open_folder
from curate.pipeline.job import ScoreJob
from curate.pipeline.local import LocalExecutor
from curate.pipeline.plan import inputs, plan
from curate.pipeline.retry import retry
from curate.storage import location
from tests.faults.kills import planted
from tests.pipeline.small import content, failing, job, run


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    shutil.copytree(whole, tmp_path / "copy", copy_function=shutil.copy2)
    return tmp_path / "copy"


@pytest.fixture
def no_workers(monkeypatch):
    """No process, and so no model."""

    def started(*_):
        raise AssertionError("workers were started")

    monkeypatch.setattr(score_module, "executor", started)


def running(**methods):
    """An executor that starts nothing."""
    return lambda *_: contextlib.nullcontext(SimpleNamespace(device="cpu", **methods))


def test_a_finished_run_resumed_loads_no_model_and_changes_nothing(copy, no_workers):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.name != ".lock"}
    record, (kept, _, _) = run(job(copy / "run", copy / "data"))
    assert (record, kept) == (read_record(copy / "run"), 40)
    assert before == {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.name != ".lock"}


def test_a_lost_manifest_is_ranked_again_without_workers(copy, whole, no_workers):
    (copy / "run" / MANIFEST).unlink()
    (copy / "run" / "run.json").unlink()
    run(job(copy / "run", copy / "data"))
    assert content(copy / "run") == content(whole / "run")
    assert failing(copy / "run") == {}


def test_only_missing_and_damaged_ranges_are_scored_again(copy, whole):
    shards = read_ledger(copy / "run")
    damaged = shard_file(copy / "run", shards[10])
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    (copy / "run" / "shards" / f"{shards[30].name}.json").write_text("{")
    (copy / "run" / "shards" / ".000000000000-000000000010.parquet.99.tmp").write_text("half")
    found = failing(copy / "run")["shards"]
    assert f"1 of 3 damaged ({shards[10].name})" in found
    assert "curate score --resume" in found
    untouched = shard_file(copy / "run", shards[0]).stat().st_mtime_ns
    record, rows = run(job(copy / "run", copy / "data"))
    assert rows == (20, 20, 40)
    assert record.shards.kept == 2
    assert any("damaged on disk and scored again: 1" in note for note in record.notes)
    assert shard_file(copy / "run", shards[0]).stat().st_mtime_ns == untouched
    assert content(copy / "run") == content(whole / "run")
    assert failing(copy / "run") == {}
    assert not list((copy / "run").rglob(".*.tmp"))


@pytest.mark.parametrize("left", [[".lock"], [".lock", "shards"], [".lock", ".inputs.json.7.tmp"]])
def test_a_folder_whose_beginning_was_cut_off_is_begun_again(tmp_path, left):
    (tmp_path / "run").mkdir()
    for name in left:
        if name == "shards":
            (tmp_path / "run" / name).mkdir()
        else:
            (tmp_path / "run" / name).touch()
    wanted = RunInputs(arguments={}, decides={"delta": 1.0}, versions={})
    check_output(tmp_path / "run", overwrite=False)
    assert open_folder(tmp_path / "run", wanted, overwrite=False) == wanted
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", "shards", "inputs.json"}


def test_what_people_said_of_samples_outlives_a_run_that_is_replaced(tmp_path):
    wanted = RunInputs(arguments={}, decides={"delta": 1.0}, versions={})
    folder = tmp_path / "run"
    folder.mkdir()
    open_folder(folder, wanted, overwrite=False)
    (folder / ANNOTATIONS).write_text("said\n")
    (folder / MANIFEST).write_text("of before")
    check_output(folder, overwrite=True)
    open_folder(folder, wanted, overwrite=True)
    assert (folder / ANNOTATIONS).read_text() == "said\n"
    assert not (folder / MANIFEST).exists()


def test_a_stray_file_does_not_keep_a_run_from_going_on_but_is_never_removed(copy, no_workers):
    (copy / "run" / "run.log").write_text("mine")
    run(job(copy / "run", copy / "data"))
    with pytest.raises(ConfigurationError, match="holds other files"):
        run(job(copy / "run", copy / "data"), overwrite=True)
    assert (copy / "run" / "run.log").read_text() == "mine"


def test_an_output_inside_the_data_folder_is_refused(copy, no_workers):
    inside = job(copy / "data" / "run", copy / "data", dataset=DatasetSpec(name=str(copy / "data")))
    with pytest.raises(ConfigurationError, match="lies in the data folder"):
        run(inside)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": {"delta": 0.5}}, "delta 1.0 ≠ 0.5"),
        ({"parameters": {"metrics": ("l0",), "batch_size": 99}}, r"'random'\] ≠ \['l0'\]; batch_size 3072 ≠ 99"),
        ({"shard_rows": 20}, "shard rows 10 ≠ 20"),
        ({"weights": "WEIGHTS"}, "given weights hash None ≠ "),
        ({"dataset": "LIMITED"}, "rows 40 ≠ 39; limit None ≠ 39"),
        ({"dataset": "OTHER"}, "data hash "),
        ({"model": "OTHER"}, "model hash "),
    ],
)
def test_other_inputs_are_refused_by_name(copy, whole, no_workers, change, message):
    if "weights" in change:
        change = {"weights": whole / "run"}
    elif change.get("dataset") == "LIMITED":
        change = {"dataset": DatasetSpec(name=str(copy / "data" / "data.jsonl"), limit=39)}
    elif change.get("dataset") == "OTHER":
        table = copy / "data" / "data.jsonl"
        table.write_text(table.read_text().replace("circle", "square"))
        change = {}
    elif "model" in change:
        shutil.copytree(demo.MODEL, copy / "model")
        config = json.loads((copy / "model" / "config.json").read_text())
        (copy / "model" / "config.json").write_text(json.dumps(config))
        change = {"model": ModelSpec(name=str(copy / "model")), "sae": "demo", "allow_model_mismatch": True}
    with pytest.raises(ConfigurationError, match=message) as refusal:
        run(job(copy / "run", copy / "data", **change))
    assert "choose another --output, or replace it with --overwrite" in str(refusal.value)
    assert content(copy / "run") == content(whole / "run")


def test_a_run_takes_the_device_that_it_was_begun_with(copy, no_workers, monkeypatch):
    """A cluster may have scaled its GPUs away since: that is no other run."""
    begun = read_inputs(copy / "run")
    there = {"device": "cuda", "dtype": "float32", "batch_size": 8192}
    write_inputs(copy / "run", begun.model_copy(update={"decides": {**begun.decides, **there}}))
    on_gpu = job(copy / "run", copy / "data", model=ModelSpec(name="demo", dtype="float32"))
    with pytest.raises(ConfigurationError, match="was begun on a GPU, and torch sees none here"):
        plan(on_gpu)
    assert plan(on_gpu, overwrite=True).device == "cpu"
    elsewhere = on_gpu.model_copy(update={"resources": on_gpu.resources.model_copy(update={"address": "auto"})})
    monkeypatch.setattr(plan_module, "cluster_has_gpus", lambda _: pytest.fail("the cluster was asked"))
    assert plan(elsewhere).device == "cuda"
    assert (
        begun.model_copy(update={"decides": inputs(plan(elsewhere)).decides}).differences(read_inputs(copy / "run"))
        == []
    )


def test_workers_and_limits_may_change_and_the_stored_arguments_are_the_default(copy, no_workers):
    arguments = stored_arguments(copy / "run", {"actors": 2, "sample_timeout": 7.0})
    resumed = ScoreJob.model_validate(arguments)
    assert (resumed.resources.actors, resumed.sample_timeout, resumed.shard_rows) == (2, 7.0, 10)
    run(resumed.model_copy(update={"max_error_rate": 1.0}))
    with pytest.raises(ConfigurationError, match="not a run folder"):
        stored_arguments(copy / "data", {})


def test_images_that_are_gone_cost_nothing_that_was_scored(copy, whole, no_workers):
    (copy / "data" / "13.png").rename(copy / "13.png")
    with pytest.raises(DataError, match="row 13 was scored, and has no content any more"):
        run(job(copy / "run", copy / "data"))
    assert len(read_ledger(copy / "run")) == 4
    assert content(copy / "run") == content(whole / "run")
    (copy / "13.png").rename(copy / "data" / "13.png")
    run(job(copy / "run", copy / "data"))
    assert failing(copy / "run") == {}


def test_images_that_changed_are_scored_again_with_their_range(copy, whole):
    # The table, and so the fingerprint, is the same; the images lie beside it.
    shutil.copy(copy / "data" / "3.png", copy / "data" / "33.png")
    record, rows = run(job(copy / "run", copy / "data"))
    assert rows == (30, 30, 40)
    assert any("data had changed, scored again: 1" in note for note in record.notes)
    assert content(copy / "run") != content(whole / "run")
    assert failing(copy / "run") == {}


def test_data_that_change_under_a_run_are_found_and_refused(copy, monkeypatch):
    table = copy / "data" / "data.jsonl"
    before, times = table.read_bytes(), (table.stat().st_atime_ns, table.stat().st_mtime_ns)
    score = LocalExecutor.score

    def change_data_and_score(*arguments):
        table.write_bytes(before.replace(b"circle", b"square"))
        return score(*arguments)

    for path in (copy / "run" / "shards").glob("*.json"):
        path.unlink()
    (copy / "run" / "run.json").unlink()
    monkeypatch.setattr(LocalExecutor, "score", change_data_and_score)
    with pytest.raises(DataError, match=r"input files changed during the run \(data hash") as refusal:
        run(job(copy / "run", copy / "data"))
    assert "curate score --resume" in str(refusal.value)
    assert not (copy / "run" / "run.json").exists()
    # Put back, the data look as they did, times and all; but not all that was scored is what they hold.
    table.write_bytes(before)
    os.utime(table, ns=times)
    monkeypatch.setattr(score_module, "executor", lambda *_: pytest.fail("workers"))
    with pytest.raises(pytest.fail.Exception, match="workers"):
        run(job(copy / "run", copy / "data"))
    assert len(read_ledger(copy / "run")) < 4


def test_data_that_change_and_are_put_back_within_a_session_are_found(copy, whole, monkeypatch):
    """Workers that saw the other data: what they would have scored stands in the first range."""
    table = copy / "data" / "data.jsonl"
    before, times = table.read_bytes(), (table.stat().st_atime_ns, table.stat().st_mtime_ns)
    tables = {start: read_shard(whole / "run", shard) for start, shard in read_ledger(whole / "run").items()}
    seen = pa.array(["0" * 32, *tables[0]["sample_id"].to_pylist()[1:]])
    tables[0] = tables[0].set_column(tables[0].column_names.index("sample_id"), "sample_id", seen)

    def stream(plan, dataset, ranges, weights, commit, arrived):
        table.write_bytes(before.replace(b"circle", b"square"))
        for whole_range in ranges:
            commit(whole_range, tables[whole_range[0]])
        table.write_bytes(before)
        os.utime(table, ns=times)

    for path in (copy / "run" / "shards").glob("*.json"):
        path.unlink()
    (copy / "run" / "run.json").unlink()
    monkeypatch.setattr(score_module, "executor", running(score=stream))
    with pytest.raises(DataError, match="changed during the run, and were put back; go on with: curate score --resume"):
        run(job(copy / "run", copy / "data"))
    assert not (copy / "run" / "run.json").exists()


def test_files_that_come_while_the_data_are_read_are_not_removed(tmp_path, copy, monkeypatch):
    def plan_slowly(*arguments):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").write_text("mine")
        return plan(*arguments)

    monkeypatch.setattr(score_module, "make_plan", plan_slowly)
    with pytest.raises(ConfigurationError, match="holds other files"):
        run(job(tmp_path / "out", copy / "data"))
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_what_cannot_be_read_for_a_moment_is_neither_scored_again_nor_replaced(copy, whole, monkeypatch, no_workers):
    def fails(*_):
        raise TimeoutError

    monkeypatch.setattr(ledger, "file_sha256", fails)
    with pytest.raises(DataError, match=r"000000000000-000000000010\.parquet cannot be read: TimeoutError"):
        run(job(copy / "run", copy / "data"))
    assert len(read_ledger(copy / "run")) == 4
    monkeypatch.undo()
    weights = (copy / "run" / "weights" / WEIGHTS_FILE).read_bytes()
    (copy / "run" / "run.json").unlink()
    monkeypatch.setattr(score_module, "read_weights", fails)
    with pytest.raises(RunStopped, match="the run failed: TimeoutError; 40 of 40 rows are kept"):
        run(job(copy / "run", copy / "data"))
    assert (copy / "run" / "weights" / WEIGHTS_FILE).read_bytes() == weights
    monkeypatch.undo()
    (copy / "run" / "inputs.json").rename(copy / "inputs.json")
    (copy / "run" / "inputs.json").mkdir()
    with pytest.raises(DataError, match=r"inputs\.json cannot be read: "):
        read_inputs(copy / "run")


def test_a_bad_sector_under_a_shard_is_damage(copy, monkeypatch):
    def fails(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(ledger, "file_sha256", fails)
    assert not ledger.is_whole(location(str(copy / "run")), read_ledger(copy / "run")[0])


@pytest.mark.parametrize("signal_class", [KeyboardInterrupt, Terminated])
def test_a_signal_before_any_scoring_says_how_to_go_on_too(copy, monkeypatch, signal_class):
    def interrupted(*_):
        raise signal_class

    monkeypatch.setattr(score_module, "sound_shards", interrupted)
    with pytest.raises(signal_class, match="interrupted; go on with: curate score --resume") as stop:
        run(job(copy / "run", copy / "data"))
    assert type(stop.value) is signal_class


def test_a_second_process_is_refused_while_the_first_lives_and_takes_over_when_it_is_dead(tmp_path):
    code = """
import sys, time
from pathlib import Path
from curate.manifest.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(ConfigurationError, match=f"is being written by process {holder.pid} on"),
        locked(tmp_path / "run"),
    ):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").exists()
    with locked(tmp_path / "run"):
        pass


def test_quarantined_rows_are_retried_alone_after_a_fix(copy, whole, monkeypatch):
    assert [row["source_row"] for row in quarantined_rows(copy / "run")] == [7, 25]
    lines = (copy / "data" / "data.jsonl").read_text().splitlines()
    lines[7] = lines[7].replace("no-such.png", "7.png")
    (copy / "data" / "data.jsonl").write_text("\n".join(lines) + "\n")
    announced = []
    retry_job = job(copy / "run", copy / "data", max_error_rate=1.0)
    scored_before = {row["source_row"]: row for row in pq.read_table(whole / "run" / MANIFEST).to_pylist()}
    steps: list = []
    record = retry(retry_job, steps.append, lambda plan, rows: announced.append(rows))
    assert announced == [2]
    assert [step.total for step in steps if step.stage == "score"][-1] == 2
    assert (record.counts.scored, record.counts.quarantined, record.status) == (39, 1, "complete")
    assert [row["source_row"] for row in quarantined_rows(copy / "run")] == [25]
    assert failing(copy / "run") == {}
    after = {row["source_row"]: row for row in pq.read_table(copy / "run" / MANIFEST).to_pylist()}
    assert set(after) == {*scored_before, 7}
    for row, before in scored_before.items():
        assert {**after[row], "rank": 0} == {**before, "rank": 0}
    # The mended data are now the run's own: nothing is left to do.
    monkeypatch.setattr(score_module, "executor", lambda *_: pytest.fail("workers"))
    run(retry_job)


def test_a_retry_refuses_data_whose_scored_rows_changed(copy, no_workers):
    shutil.copy(copy / "data" / "3.png", copy / "data" / "4.png")
    with pytest.raises(DataError, match="row 4 is no longer the sample that was scored"):
        retry(job(copy / "run", copy / "data"), lambda step: None, lambda plan, rows: None)
    with pytest.raises(ConfigurationError, match="not a run folder"):
        retry(job(copy / "nothing", copy / "data"), lambda step: None, lambda plan, rows: None)


def test_a_run_over_its_error_budget_goes_on_when_the_budget_is_raised(copy, monkeypatch):
    for path in sorted((copy / "run" / "shards").glob("*.json"))[1:]:
        path.unlink()
    with pytest.raises(RunStopped, match=r"1 of 10 rows read failed, more than --max-error-rate 0\.0 of 40 allows"):
        run(job(copy / "run", copy / "data", max_error_rate=0.0))
    assert read_record(copy / "run").status == "stopped"
    monkeypatch.setattr(score_module, "executor", lambda *_: pytest.fail("workers"))
    with pytest.raises(pytest.fail.Exception, match="workers"):
        run(job(copy / "run", copy / "data", max_error_rate=1.0))


def test_weights_that_were_lost_are_computed_again_and_must_be_the_same(copy, whole, monkeypatch):
    shutil.rmtree(copy / "run" / "weights")
    run(job(copy / "run", copy / "data"))
    assert content(copy / "run") == content(whole / "run")
    assert failing(copy / "run") == {}
    _, weights = read_weights(copy / "run")
    shutil.rmtree(copy / "run" / "weights")
    monkeypatch.setattr(score_module, "executor", running())
    other = weights.model_copy(update={"sha256": "other"})
    sae = read_sae(copy / "run", read_record(copy / "run").hashes.sae)
    assert sae is not None
    monkeypatch.setattr(score_module, "first_pass", lambda *_: FirstPass(sae, other, None))
    with pytest.raises(DataError, match="were lost or replaced"):
        run(job(copy / "run", copy / "data"))


def test_weights_that_were_replaced_are_refused_while_they_are_whole(copy, no_workers):
    weight, record = read_weights(copy / "run")
    facts = record.model_dump(exclude={"sha256", "features", "features_without_weight"})
    write_weights(copy / "run" / "weights", weight + 1, weight != 0, {}, **facts)
    (copy / "run" / "run.json").unlink()
    with pytest.raises(DataError, match="were lost or replaced: the run was begun with others"):
        run(job(copy / "run", copy / "data"))


def test_a_run_that_was_given_weights_has_its_own_copy_and_goes_on_without_theirs(copy, whole, no_workers):
    shutil.copytree(whole / "run" / "weights", copy / "given")
    given = job(copy / "run", copy / "data", weights=copy / "given")
    (copy / "run" / "run.json").unlink()
    write_inputs(copy / "run", inputs(plan(given)))
    shutil.rmtree(copy / "given")
    record, _ = run(given)
    assert record.status == "complete"
    with pytest.raises(ConfigurationError, match="given/weights does not hold whole feature weights"):
        run(given, overwrite=True)
    assert content(copy / "run") == content(whole / "run")


def test_other_versions_are_noted(copy, monkeypatch):
    monkeypatch.setattr(inputs_module, "__version__", "9.9")
    (copy / "run" / "run.json").unlink()
    with monkeypatch.context() as killed:
        killed.setattr(score_module, "sound_shards", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception, match="killed"):
            run(job(copy / "run", copy / "data"))
    monkeypatch.undo()
    record, _ = run(job(copy / "run", copy / "data"))
    assert any("resumed with other versions: curate" in note and "→ 9.9" in note for note in record.notes)


CLOCK = """
import itertools, os, time
true, calls = time.time, itertools.count()
open(f"{os.environ['SEEN']}/{os.getpid()}", "w").close()

def backwards():
    return true() - 3600 * (next(calls) // 50)

time.time = backwards
"""


@pytest.mark.parametrize(("executor", "processes"), [("local", 2), pytest.param("ray", 4, marks=pytest.mark.slow)])
def test_a_clock_that_goes_backwards_decides_nothing(tmp_path, whole, executor, processes):
    """In the driver and in each process below it, it goes back by an hour, again and again."""
    data, run = str(whole / "data" / "data.jsonl"), str(tmp_path / "run")
    options = ["--model", "demo", "--shard-rows", "10", "--weight-samples", "20", "--max-error-rate", "0.1"]
    options += ["--executor", executor]
    command = [str(Path(sys.executable).parent / "curate"), "score", "--dataset", data, "--output", run, *options]
    (tmp_path / "seen").mkdir()
    done = subprocess.run(
        command,
        env={**planted(tmp_path, CLOCK), "SEEN": str(tmp_path / "seen")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "run") == content(whole / "run")
    assert failing(tmp_path / "run") == {}
    assert all(seconds >= 0 for seconds in read_record(tmp_path / "run").timings.values())
    # The driver, and the server that others are forked from; or two workers and Ray's own.
    assert len(list((tmp_path / "seen").iterdir())) >= processes
