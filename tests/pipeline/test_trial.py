"""A trial that is stopped at its limit says what it saw by then, and estimates from that."""

import re
from dataclasses import replace
from inspect import signature

import pytest
import torch

from curate.cli.doctor import doctor, report
from curate.datasets import DatasetSpec
from curate.pipeline import preflight
from curate.pipeline.connection import connected
from curate.pipeline.job import ScoreJob, plan
from curate.pipeline.probe import Memory, Probe, probe
from curate.pipeline.trial import TRIAL_SECONDS, Limits, Outcome, run_trial

READY = Probe("node", "loading the model", samples=16, tokens=1200.0, pictures=3.0, prepare_seconds=0.1, batch_bytes=9)
LOADED = replace(READY, doing="scoring sample 1 of 16", load_seconds=40.0, threads=2, memory=(Memory("cpu", 10, 100),))
SCORED = replace(LOADED, doing="scoring sample 3 of 16", scored=2, score_seconds=8.0, batch_fits=True)


@pytest.fixture
def the_plan(tmp_path):
    return plan(ScoreJob(output=tmp_path / "run", dataset=DatasetSpec(limit=40)))


def tried(the_plan, outcome: Outcome, price: float | None = None) -> dict[str, tuple[str, str]]:
    there = [{"CPU": 4, "object_store_memory": 2e9}]
    findings = preflight._tried(the_plan, outcome, there, 10**9, 1000, weighed=False, price=price, limit=60)
    return {finding.check: (finding.state, finding.text) for finding in findings}


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_few_samples_are_enough(the_plan, samples):
    *steps, whole = probe(the_plan, range(samples), actors_here=1)
    assert (whole.doing, whole.samples, whole.scored, whole.batch_fits) == ("", samples, samples, True)
    assert min(whole.score_seconds, whole.weights_seconds, whole.load_seconds, whole.pictures) > 0
    weighed = [step.doing for step in steps if step.doing.startswith("weighing")]
    assert weighed == [f"weighing features on sample {number} of {samples}" for number in range(1, samples + 1)]


def test_the_model_computes_with_the_threads_of_an_actor(the_plan):
    threads = torch.get_num_threads()
    try:
        *_, whole = probe(replace(the_plan, cpus_per_actor=2), range(1), actors_here=1)
    finally:
        torch.set_num_threads(threads)
    assert whole.threads == 2


def test_each_step_says_what_comes_and_what_is_known(the_plan):
    steps = list(probe(the_plan, range(4), actors_here=1))
    assert [step.doing for step in steps[:7]] == [
        "loading the tokenizer",
        "preparing 4 samples",
        "loading the model",
        "scoring sample 1 of 4",
        "scoring a full batch",
        "scoring sample 1 of 4",
        "weighing features on sample 1 of 4",
    ]
    assert [step.scored for step in steps[:7]] == [0, 0, 0, 0, 1, 4, 4]
    assert steps[2].tokens > 0
    assert steps[2].load_seconds is None
    assert steps[3].memory


def test_a_trial_tells_what_it_does_and_is_stopped(the_plan):
    told: list[str] = []
    with connected(None, 1):
        whole = run_trial(the_plan, range(3), 1, {"num_cpus": 1}, Limits(600, told.append))
        stopped = run_trial(the_plan, range(3), 1, {"num_cpus": 1}, Limits(0.001))
        # A plan whose data are gone.
        lost = replace(the_plan, model=replace(the_plan.model, path=the_plan.model.path / "none"))
        lost = replace(
            lost, job=lost.job.model_copy(update={"model": lost.job.model.model_copy(update={"name": "/x"})})
        )
        failed = run_trial(lost, range(3), 1, {"num_cpus": 1}, Limits(600))
    assert whole.seen is not None
    assert (whole.stopped, whole.seen.doing, whole.seen.scored) == (False, "", 3)
    assert told[:3] == ["loading the tokenizer", "preparing 3 samples", "loading the model"]
    assert stopped.stopped
    assert stopped.seen is None or stopped.seen.doing
    assert failed.seen is not None
    assert "the model" in str(getattr(failed.error, "cause", None))


def test_what_was_seen_is_said_and_estimated_from(the_plan):
    lines = tried(the_plan, Outcome(SCORED, stopped=True))
    text = lines["throughput"][1]
    assert text.startswith(
        "the trial was stopped after 60 seconds: loaded the model in 40 s, 2 of 16 samples scored, then scoring sample "
        "3 of 16; measured on 2 samples of 1,200 tokens on node: an actor with 2 threads scores 0.12 a second"
    )
    assert "feature weights taken to cost what scores do" in lines["time"][1]
    # 1,000 scores and 40 weight samples, eight seconds each, on cores that prepare, too.
    assert "about 2:19:32 of work for 1,000 samples" in lines["time"][1]
    assert lines["memory"] == ("ok", "an actor takes 10 bytes of the 100 bytes that it may on cpu")


def test_where_no_sample_was_scored_the_cost_is_computed(the_plan):
    lines = tried(the_plan, Outcome(LOADED, stopped=True), price=2.0)
    assert lines["throughput"] == (
        "warn",
        "the trial was stopped after 60 seconds: loaded the model in 40 s, then scoring sample 1 of 16, so nothing was "
        "measured: give it more with --trial-seconds",
    )
    assert lines["memory"][1].endswith("on cpu, without a full batch")
    assert "time" not in lines
    number = r"\d+\.\d\d"
    devices = rf"{number} on A100, {number} on H100, {number} on H200 \(at 2 an hour {number}, {number}, {number}\)"
    assert re.fullmatch(
        rf"1,000 samples: {devices}; 40,000 samples: {devices}; of 1,200 tokens each, at 40% of a device's peak, not "
        "measured",
        lines["computed GPU hours"][1],
    )
    # Even before the model is there, and on a GPU, too.
    lines = tried(replace(the_plan, device="cuda"), Outcome(READY, stopped=True))
    assert "after 60 seconds: loading the model, so nothing was measured" in lines["throughput"][1]
    assert "computed GPU hours" in lines
    assert list(tried(the_plan, Outcome(None, stopped=True))) == ["throughput"]


def test_a_trial_on_a_gpu_replaces_what_is_computed(the_plan):
    lines = tried(replace(the_plan, device="cuda"), Outcome(replace(SCORED, doing="", weights_seconds=1.0)))
    assert not [check for check in lines if check.startswith("computed")]
    assert "stopped" not in lines["throughput"][1]


def test_the_command_has_the_same_limit():
    assert signature(doctor).parameters["trial_seconds"].default == TRIAL_SECONDS
    assert signature(report).parameters["trial_seconds"].default == TRIAL_SECONDS
