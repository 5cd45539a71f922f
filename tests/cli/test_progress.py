"""Rates are those of work that was done: none before a sample is finished, none from reports that come late."""

import pytest

from curate.cli import progress
from curate.cli.progress import Rates
from curate.pipeline.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_stage_with_workers_goes_by_the_seconds_of_their_work(clock):
    rates = Rates()
    assert rates.of(Progress("weights", 0, 40)) == ""
    # Two reports that waited for the reader, and come at once.
    assert rates.of(Progress("weights", 10, 40, seconds=2.0)) == "5.0 samples/s, 0:00:06 left"
    assert rates.of(Progress("weights", 20, 40, seconds=4.0)) == "5.0 samples/s, 0:00:04 left"
    assert rates.of(Progress("weights", 40, 40, seconds=8.0)) == "5.0 samples/s"
    # The next stage begins late, and on a run that has rows already.
    clock[0] += 1000
    assert rates.of(Progress("score", 20, 40)) == ""
    said = rates.of(Progress("score", 30, 40, tokens=1000, quarantined=1, seconds=2.0))
    assert said == "5.0 samples/s, 500 tokens/s, 1 quarantined, 0:00:02 left"


def test_rows_that_were_lost_with_their_worker_slow_no_later_rate(clock):
    rates = Rates()
    rates.of(Progress("score", 0, 40))
    assert rates.of(Progress("score", 20, 40, seconds=4.0)).startswith("5.0 samples/s")
    assert rates.of(Progress("score", 10, 40, seconds=100.0)) == ""
    assert rates.of(Progress("score", 30, 40, seconds=104.0)) == "5.0 samples/s, 0:00:02 left"


@pytest.mark.parametrize("stage", ["fit", "weights", "score"])
def test_samples_that_took_no_work_have_no_rate(clock, stage):
    """A first block of quarantined samples comes as soon as someone looks."""
    rates = Rates()
    rates.of(Progress(stage, 0, 40))
    clock[0] += 1e-4
    assert rates.of(Progress(stage, 10, 40, quarantined=10)) == ""
    assert rates.of(Progress(stage, 20, 40, seconds=4.0)) == "5.0 samples/s, 0:00:04 left"


def test_other_stages_begin_with_their_first_report(clock):
    rates = Rates()
    assert rates.of(Progress("samples", 100, 300)) == ""
    clock[0] += 10
    assert rates.of(Progress("samples", 200, 300)) == "10.0 samples/s, 0:00:10 left"
    assert rates.of(Progress("load", 5, 10)) == ""
    # Another run's stage of this name.
    assert rates.of(Progress("samples", 0, 300)) == ""
    clock[0] += 5
    assert rates.of(Progress("samples", 100, 300)) == "20.0 samples/s, 0:00:10 left"
