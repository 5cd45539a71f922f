"""What a trial says of a run, also where it was stopped at its limit."""

import re
from dataclasses import replace

import pytest
import torch

from curate.datasets import DatasetSpec
from curate.pipeline import forecast
from curate.pipeline.estimate import Estimate, estimate
from curate.pipeline.finding import counted
from curate.pipeline.job import ScoreJob
from curate.pipeline.plan import plan
from curate.pipeline.probe import Memory, Probe, probe
from curate.pipeline.trial import Outcome
from curate.scoring.memory import batch_tokens
from curate.scoring.scorer import Scorer

READY = Probe("node", "loading the model", samples=16, tokens=1200.0, pictures=3.0, prepare_seconds=0.1, batch_bytes=9)
LOADED = replace(READY, doing="scoring sample 1 of 16", load_seconds=40.0, threads=2, memory=(Memory("cpu", 10, 100),))
SCORED = replace(LOADED, doing="scoring sample 3 of 16", scored=2, score_seconds=8.0, batch_fits=True)


@pytest.fixture
def demo_plan(tmp_path):
    return plan(ScoreJob(output=tmp_path / "run", dataset=DatasetSpec(limit=40)))


def probed(*arguments, **options) -> Probe:
    """All that a probe measures."""
    *_, seen = probe(*arguments, **options)
    return seen


def seconds_of(clock: str) -> int:
    hours, minutes, seconds = map(int, clock.split(":"))
    return 3600 * hours + 60 * minutes + seconds


def tried(demo_plan, outcome: Outcome, price: float | None = None) -> dict[str, tuple[str, str]]:
    findings = forecast.forecast(
        demo_plan, outcome, workers=3, store=10**9, samples=1000, weighed=False, price=price, limit=60
    )
    return {finding.check: (finding.state, finding.text) for finding in findings}


def test_what_was_seen_is_said_and_estimated_from(demo_plan):
    lines = tried(demo_plan, Outcome(SCORED, stopped=True))
    text = lines["throughput"][1]
    assert text.startswith(
        "the trial was stopped after 60 seconds: loaded the model in 40 s, 2 of 16 samples scored, then scoring sample "
        "3 of 16; measured on 2 samples of 1,200 tokens on node: an actor with 2 threads scores 0.12 a second"
    )
    assert "feature weights taken to cost what scores do" in lines["time"][1]
    # 1,000 scores and 40 weight samples, eight seconds each and a little more, on cores that prepare, too.
    said = re.fullmatch(
        r"about (.+) of work: (.+) for feature weights of 40 samples \+ (.+) for scores of 1,000 samples "
        r"\(0\.12 samples/s\), with 1 actor, and 3 workers preparing; .+",
        lines["time"][1],
    )
    assert said is not None, lines["time"][1]
    whole, weights, scores = map(seconds_of, said.groups())
    assert whole == weights + scores
    assert 320 < weights < 330
    assert 8000 < scores < 8110
    assert lines["memory"] == ("ok", "an actor takes 10 bytes of the 100 bytes that it may on cpu")


def test_where_no_sample_was_scored_the_cost_is_computed(demo_plan):
    lines = tried(demo_plan, Outcome(LOADED, stopped=True), price=2.0)
    assert lines["throughput"] == (
        "warn",
        "the trial was stopped after 60 seconds: loaded the model in 40 s, then scoring sample 1 of 16, so nothing was "
        "measured: give it more with --trial-seconds",
    )
    assert lines["memory"][1].endswith("on cpu, without a full batch")
    assert "time" not in lines
    number = r"\d+\.\d\d"
    devices = rf"{number} on A100, {number} on H100, {number} on H200 \({number}, {number} and {number} at 2 an hour\)"
    assert re.fullmatch(
        rf"1,000 samples: {devices}; 40,000 samples: {devices}; of 1,200 tokens each, at 40% of a device's peak, not "
        "measured",
        lines["computed GPU hours"][1],
    )
    # Even before the model is there, and on a GPU, too.
    lines = tried(replace(demo_plan, device="cuda"), Outcome(READY, stopped=True))
    assert "after 60 seconds: loading the model, so nothing was measured" in lines["throughput"][1]
    assert "computed GPU hours" in lines
    assert list(tried(demo_plan, Outcome(None, stopped=True))) == ["throughput"]


def test_a_trial_on_a_gpu_replaces_what_is_computed(demo_plan):
    lines = tried(replace(demo_plan, device="cuda"), Outcome(replace(SCORED, doing="", weights_seconds=1.0)))
    assert not [check for check in lines if check.startswith("computed")]
    assert "stopped" not in lines["throughput"][1]


def test_a_batch_that_does_not_fit_is_told_of(demo_plan, monkeypatch):
    score = Scorer.score

    tokens: list[int] = []

    def small_device(self, batch):
        tokens.append(batch_tokens(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return score(self, batch)

    assert probed(demo_plan, range(16), actors_here=1).batch_fits
    monkeypatch.setattr(Scorer, "score", small_device)
    measured = probed(demo_plan, range(16), actors_here=1)
    assert not measured.batch_fits
    # After one sample: sixteen over and over, and still a whole batch's work.
    assert 0.9 * 3072 < tokens[1] <= 3072
    [split, _] = forecast._memory(demo_plan, measured, local=False)
    assert split.state == "warn"
    assert "--batch-size 3,072 tokens does not fit, and is split each time: lower it" in split.text


def test_a_share_of_memory_that_is_taken_or_nearly_is_told_of(demo_plan):
    measured = probed(demo_plan, range(4), actors_here=1)
    alone = measured.memory[0].room
    for room, state in ((alone, "ok"), (measured.memory[0].peak * 1.05, "warn"), (measured.memory[0].peak - 1, "fail")):
        tight = replace(measured, memory=(replace(measured.memory[0], room=int(room)),))
        assert [finding.state for finding in forecast._memory(demo_plan, tight, local=False)] == [state]
    shared = probed(demo_plan, range(4), actors_here=1000).memory[0]
    assert shared.room < alone / 900


def test_cost_is_gpu_hours_times_price_and_the_parts_of_the_time_add_up(demo_plan):
    found = Estimate(10, 7200.4, 4, 600.2, samples_per_second=1.0, gpu_hours=8.0, actors_wait=False)
    finding = forecast._time(demo_plan, found, workers=3, price=2.5)
    assert finding.text == (
        "about 2:00:02 of work: 0:10:01 for feature weights of 4 samples + 1:50:01 for scores of 10 samples "
        "(1.0 samples/s), with 1 actor, and 3 workers preparing; 8.00 GPU hours; 20.00 at 2.5 for each"
    )
    assert finding.numbers["cost"] == 20.0
    unweighed = replace(found, weight_samples=0, weights_seconds=0.0)
    text = forecast._time(demo_plan, unweighed, workers=3, price=None).text
    assert text.startswith("about 2:00:01 of work: 2:00:01 for scores of 10 samples (1.0")


@pytest.mark.parametrize(
    ("number", "said"),
    [(1, "1 node"), (0.5, "0.5 nodes"), (40_000, "40,000 nodes"), (104_123_456, "104,123,456 nodes")],
)
def test_numbers_are_said_whole(number, said):
    assert counted(number, "node") == said


def test_samples_that_cannot_be_prepared_are_to_be_fixed_first(demo_plan):
    state, text = tried(demo_plan, Outcome(replace(SCORED, unfit=("no image", "no text"))))["throughput"]
    assert state == "warn"
    assert text.endswith("; 2 of 18 samples would be quarantined; fix these first: no image")


def test_actors_that_would_wait_are_told_of(demo_plan):
    measured = replace(probed(demo_plan, range(4), actors_here=1), prepare_seconds=1.0, score_seconds=0.1)
    time_needed = estimate(demo_plan, measured, 10, 2, None)
    finding = forecast._throughput(measured, 2, time_needed)
    assert finding.state == "warn"
    assert "the actors wait for 2 workers" in finding.text
