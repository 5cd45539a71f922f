"""What verbs import before they refuse wrong options or say what they know: seconds of it would be waited for."""

import json
import subprocess
import sys

import pytest

from tests.test_house import HEAVY

RUN_AND_SAY = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted(set({heavy}) & set(sys.modules)))))
sys.argv[0] = "curate"
from curate.cli.main import main
main()
"""


def curate(*arguments: object, folder) -> tuple[int, str, list[str]]:
    """Exit code, what was said on both streams, and the heavy libraries that were imported."""
    command = [sys.executable, "-c", RUN_AND_SAY.format(heavy=HEAVY), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    *said, imported = done.stdout.splitlines()
    return done.returncode, "\n".join([*said, done.stderr]), json.loads(imported)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("score", "--limit", 0), "--limit: Input should be greater than 0"),
        (("score", "--metric", "nosuch"), "--metric: no metric nosuch; there are: cosine, "),
        (("score", "--dataset", "nosuch"), "--dataset nosuch: neither a known data set (demo, "),
        (("score", "--dataset", "the-pile"), "the-pile holds documents, not preferences"),
        (("show", "nosuch"), "nosuch has no run.json: it is not a run folder"),
        (("select", "nosuch", "--ratio", 0.2), "nosuch has no run.json: it is not a run folder"),
        (("report", "nosuch"), "nosuch has no run.json: it is not a run folder"),
        (("explain", "nosuch", "#1"), "nosuch has no run.json: it is not a run folder"),
        (("explain", "--image", "cat.png", "--model", "demo"), "--image: name a --question"),
        (("retry", "nosuch"), "nosuch is not a run folder: there is nothing to retry"),
        (("sweep", "--seeds", 0, "--output", "sweep"), "--seeds: Input should be greater than or equal to 1"),
        (("sae", "train", "--preset", "demo", "--steps", 0, "--output", "sae"), "--steps: Input should be greater"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_wrong_options_are_refused_before_anything_heavy_is_imported(tmp_path, arguments, error):
    code, said, imported = curate(*arguments, folder=tmp_path)
    assert code in (1, 2)
    assert f"error: {error}" in said
    assert imported == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("score", "--help"),
        ("score", "--print-job"),
        ("sweep", "--print-job"),
        ("metrics",),
        ("datasets",),
        ("saes",),
    ],
    ids=" ".join,
)
def test_what_needs_no_model_imports_nothing_heavy(tmp_path, arguments):
    code, _, imported = curate(*arguments, folder=tmp_path)
    assert (code, imported) == (0, [])


def test_a_sample_that_the_run_does_not_have_is_looked_up_before_the_model_is_loaded(scored_run):
    code, said, imported = curate("explain", scored_run, "nosuch", folder=scored_run)
    assert (code, imported) == (1, [])
    assert "has no sample nosuch; curate show lists ids and ranks" in said


def test_a_retry_of_a_run_without_quarantined_rows_does_nothing(scored_run):
    before = {file.name: file.stat().st_mtime_ns for file in scored_run.iterdir()}
    code, said, imported = curate("retry", scored_run, folder=scored_run)
    assert (code, imported) == (0, [])
    assert " ".join(said.split()) == f"no quarantined rows in {scored_run}: nothing to retry"
    code, said, _ = curate("retry", scored_run, "--json", folder=scored_run)
    assert json.loads(said[: said.rindex("}") + 1])["status"] == "complete"
    assert {file.name: file.stat().st_mtime_ns for file in scored_run.iterdir()} == before
