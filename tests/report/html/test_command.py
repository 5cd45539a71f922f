"""`curate report`: what it writes, what it says, and what it refuses."""

import json
import sys

import pytest

from curate.manifest import atomic
from tests.command import curate, refused
from tests.report.html.elements import read
from tests.report.html.runs import write_run
from tests.report.html.test_page import plain


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path / "run", plain())


def test_a_page_is_written_and_described(run, tmp_path):
    result = curate("report", run)
    assert result.exit_code == 0, result.output
    assert "10 samples, 2 kept; 0." in result.stdout
    assert "report: report.html" in result.stdout
    assert read(tmp_path / "report.html").section("galleries")
    assert [path.name for path in tmp_path.glob("*tmp*")] == []


def test_json_says_what_the_page_holds(run, tmp_path):
    result = curate(
        "report", run, run, "-o", tmp_path / "a.html", "--ratio", "0.35", "--gallery", 2, "--by", "l0", "--json"
    )
    held = json.loads(result.stdout)
    assert held["bytes"] == (tmp_path / "a.html").stat().st_size
    assert held["galleries"] == {"best": [1, 2], "above": [3, 4], "below": [5, 6], "worst": [10, 9]}
    assert (held["by"], held["scored"], held["sampled"], held["kept"], held["cut"]) == ("l0", 10, 10, 4, 7.0)
    assert held["compared"][0]["spearman"] == 1
    assert (held["shown"], held["unavailable"]) == (8, None)


def test_a_file_that_is_there_is_kept_unless_it_may_go(run, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    refused("--overwrite replaces it", "report", run)
    assert (tmp_path / "report.html").read_text() == "mine"
    assert curate("report", run, "--overwrite").exit_code == 0
    assert (tmp_path / "report.html").read_text() != "mine"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--ratio", "0"], "--ratio: Input should be greater than 0"),
        (["--ratio", "1.5"], "--ratio: Input should be less than or equal to 1"),
        (["--ratio", "half"], "--ratio: "),
        (["--by", "ifd"], "--by ifd: "),
        (["--output", "nowhere/a.html"], "there is no folder nowhere"),
        (["--output", "run"], "run is a folder"),
        (["--labels", "none.json"], "--labels none.json cannot be read"),
        (["--calibration", "run"], "--calibration run: there is no calibration.json"),
        (["--sweep", "run"], "--sweep run: there is no sweep.json"),
        (["nothing"], "nothing has no run.json"),
    ],
)
def test_what_cannot_be_reported_is_refused(run, tmp_path, options, error):
    refused(error, "report", run, *options)
    assert not (tmp_path / "report.html").exists()


def test_a_report_that_is_interrupted_leaves_no_half_page(run, tmp_path, monkeypatch):
    def stopped(path, text):
        atomic.write_atomically(path, lambda temporary: (temporary.write_text(text[: len(text) // 2]), stop()))

    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "write_text", stopped)
    assert curate("report", run).exit_code == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run-data.parquet"]


@pytest.mark.parametrize("missing", ["jinja2", "imagehash"])
def test_without_its_libraries_it_says_what_to_install(run, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    refused(f"{missing} is not installed: pip install 'curate[report]'", "report", run)
