"""Job files on the command line: printed, run, and run again."""

import json
import re

import pytest
import yaml

from tests.command import curate, refused
from tests.manifest.test_run_folder import make_run


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_verb_that_does_work_prints_its_own_job(tmp_path):
    make_run(tmp_path / "run")
    for arguments, expected in (
        (("score", "--limit", 7, "--output", "r", "--actors", 2), {"kind": "score", "output": "r"}),
        (("select", "run", "--ratio", "0.25"), {"kind": "select", "run": "run", "ratio": 0.25}),
        (("retry", "run", "--actors", 2), {"kind": "retry", "run": "run", "actors": 2}),
    ):
        result = curate(*arguments, "--print-job")
        assert result.exit_code == 0, result.stderr
        assert result.stdout.startswith("# yaml-language-server: $schema=/")
        assert expected.items() <= yaml.safe_load(result.stdout).items()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_job_file_never_replaces_a_run(tmp_path):
    refused("--overwrite does not go into a job file", "score", "--overwrite", "--print-job", codes=(2,))


def test_a_printed_job_does_what_the_command_does(tmp_path):
    make_run(tmp_path / "run")
    printed = curate("select", "run", "--top", 3, "--by", "l0", "--output", "best", "--print-job")
    (tmp_path / "job.yaml").write_text(printed.stdout)
    by_job = curate("run", "job.yaml", "--json")
    assert json.loads(by_job.stdout)["selected"] == 3
    before = (tmp_path / "best" / "selection.parquet").stat().st_mtime_ns
    by_verb = curate("select", "run", "--top", 3, "--by", "l0", "--output", "best", "--json")
    assert by_verb.stdout == by_job.stdout
    # It stood as it would be written, and was left alone.
    assert (tmp_path / "best" / "selection.parquet").stat().st_mtime_ns == before


def test_a_pipeline_runs_in_order_and_does_nothing_twice(tmp_path):
    text = """
kind: pipeline
stages:
  best: {kind: select, run: '${scores}', ratio: 0.5, output: best}
  scores:
    kind: score
    output: scores
    dataset: {name: demo, limit: 12}
    parameters: {metrics: [l0]}
"""
    (tmp_path / "job.yaml").write_text(text)
    first = curate("run", "job.yaml")
    assert first.exit_code == 0, first.stderr
    assert "stage scores" in first.stderr
    assert "6 of 12 samples kept by l0-ratio-0.5" in first.stdout
    record, selection = (tmp_path / "scores" / "run.json").read_bytes(), tmp_path / "best" / "selection.json"
    times = selection.stat().st_mtime_ns
    again = curate("run", "job.yaml")
    assert "all rows are done already" in again.stderr
    assert (tmp_path / "scores" / "run.json").read_bytes() == record
    assert selection.stat().st_mtime_ns == times
    throughput = json.loads(record)["throughput"]["score"]
    assert throughput["samples"] == 12
    assert throughput["quarantined"] == 0
    assert 0 < throughput["busy_share"] <= 1
    assert 0 <= throughput["shared_share"] < 1


def test_wrong_job_files_and_wrong_clusters_are_refused_in_one_line(tmp_path):
    (tmp_path / "job.yaml").write_text("kind: score\noutput: r\nactors: 2\n")
    refused("job.yaml:3: actors: there is no such field", "run", "job.yaml", codes=(2,))
    nowhere = ("--address", "http://127.0.0.1:1")
    refused("job.yaml:3: actors: there is no such field", "submit", "job.yaml", *nowhere, codes=(2,))
    result = curate("jobs", "--address", "nonsense")
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.fullmatch("error: --address nonsense: .*; it is http://HOST:8265\n", result.stderr)
    (tmp_path / "good.yaml").write_text("kind: score\noutput: r\n")
    for verb in ("submit", "logs", "status", "stop", "jobs"):
        what = {"submit": ("good.yaml",), "jobs": ()}.get(verb, ("score-1",))
        refused("--address http://127.0.0.1:1: no Ray dashboard answers there", verb, *what, *nowhere, codes=(2,))
