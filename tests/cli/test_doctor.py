"""`curate doctor` and every --dry-run, as a user meets them."""

import json
from pathlib import Path

import pytest

from tests.command import curate, refused
from tests.manifest.test_run_folder import make_run

PIPELINE = """
kind: pipeline
stages:
  scores: {kind: score, output: scores, dataset: {name: demo, limit: 20}, parameters: {metrics: [l0]}}
  again: {kind: score, output: again, dataset: {name: demo, limit: 20}, weights: '${scores}'}
  best: {kind: select, run: '${scores}', ratio: 0.5, output: best, by: BY}
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow  # what it finds of a stage is tested in tests/pipeline
def test_a_doctor_looks_at_every_stage_and_leaves_nothing(tmp_path):
    (tmp_path / "job.yaml").write_text(PIPELINE.replace("BY", "l0"))
    result = curate("doctor", "job.yaml", "--price-per-gpu-hour", 3)
    assert result.exit_code == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("ok   scores: data: 20 rows of demo")
    assert lines[-1] == "ok   best: selection: by l0, once scores is there"
    assert not any(line.startswith("FAIL") for line in lines)
    assert any(line.startswith("ok   again: time: ") for line in lines)
    assert any("no GPU is used, so no cost" in line for line in lines if line.startswith("ok   scores: time: "))
    assert left(tmp_path) == ["job.yaml"]


TRAINED = """
kind: pipeline
stages:
  best: {kind: select, run: run, ratio: 0.5, output: best, by: l0}
  tuned: {kind: train, method: sft, data: '${best}', output: tuned}
  judged: {kind: evaluate, model: {name: '${tuned}/model'}, output: judged}
"""


def test_a_doctor_knows_what_is_not_there_yet(tmp_path):
    make_run(tmp_path / "run")
    (tmp_path / "job.yaml").write_text(TRAINED)
    result = curate("doctor", "job.yaml")
    assert result.exit_code == 0, result.output
    assert "ok   tuned: training: by sft on best, once it is there" in result.stdout
    assert "ok   judged: evaluation: of tuned/model, once it is there" in result.stdout


@pytest.mark.slow
def test_a_dry_run_of_score_says_what_a_doctor_says(tmp_path):
    result = curate("score", "--limit", 20, "--metric", "l0", "-o", "run", "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    findings = {finding["check"]: finding for finding in json.loads(result.stdout)}
    assert findings["time"]["numbers"]["samples"] == 20
    assert findings["time"]["numbers"]["seconds"] > 0
    assert left(tmp_path) == []


def test_what_fails_is_said_and_the_exit_code_is_1(tmp_path):
    result = curate("score", "--dataset", "none.parquet", "--sae", "x", "-o", "run", "--dry-run")
    assert result.exit_code == 1
    assert result.stdout.startswith("FAIL data: --dataset none.parquet: neither a known data set")
    assert "ok   storage: " in result.stdout
    assert "Traceback" not in result.stderr
    (tmp_path / "job.yaml").write_text(
        PIPELINE.replace("BY", "cosine").replace("demo, limit: 20}", "none.jsonl}, model: {name: some/model}")
    )
    result = curate("run", "job.yaml", "--dry-run")
    assert result.exit_code == 2  # a stage without an SAE is no job
    refused("job.yaml:4: stages.scores.sae: no SAE is named for ", "doctor", "job.yaml", codes=(2,))
    (tmp_path / "job.yaml").write_text(PIPELINE.replace("BY", "cosine").replace("limit: 20", "split: test"))
    result = curate("doctor", "job.yaml")
    assert result.exit_code == 1
    assert "FAIL scores: data: --data-dir, --columns and --split do not go with the demo" in result.stdout
    assert "FAIL best: selection: by: cosine: the run will have l0" in result.stdout


def test_dry_runs_of_select_and_retry_change_nothing(tmp_path):
    make_run(tmp_path / "run")
    before = sorted(path for path in tmp_path.rglob("*"))
    result = curate("select", "run", "--ratio", "0.5", "--by", "l0", "--dry-run")
    assert result.exit_code == 0, result.stdout
    assert result.stdout.startswith("ok   selection: would keep 5 of 10 samples by l0-ratio-0.5\nok   storage: ")
    result = curate("select", "run", "--top", 1, "--by", "cosines", "--dry-run")
    assert (result.exit_code, result.stdout) == (1, f"FAIL selection: --by cosines: {tmp_path}/run has cosine, l0\n")
    # A run that was not begun by curate score cannot be tried again.
    result = curate("retry", "run", "--dry-run")
    assert (result.exit_code, result.stdout) == (1, "FAIL run: run is not a run folder: there is nothing to retry\n")
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_wrong_files_are_refused_in_a_line(tmp_path):
    refused("none.yaml cannot be read", "doctor", "none.yaml", codes=(2,))
    (tmp_path / "job.yaml").write_text("kind: score\n")
    refused("job.yaml:1: output: this field is needed", "doctor", "job.yaml", codes=(2,))
