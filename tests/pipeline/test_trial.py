"""A trial says what it does, works on few samples, and is stopped at its limit."""

import weakref
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain, repeat

import pytest
import torch

from curate.datasets import DatasetSpec
from curate.pipeline import probe as probe_module
from curate.pipeline.cluster_trial import run_trial
from curate.pipeline.connection import connected
from curate.pipeline.job import ScoreJob
from curate.pipeline.local_trial import try_here
from curate.pipeline.plan import plan
from curate.pipeline.probe import Memory, probe
from curate.pipeline.trial import Limits
from curate.scoring.parameters import ScoringParameters
from tests.pipeline.test_first_pass import OPEN, sae_folder


@pytest.fixture
def demo_plan(tmp_path):
    return plan(ScoreJob(output=tmp_path / "run", dataset=DatasetSpec(limit=40)))


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_few_samples_are_enough(demo_plan, samples):
    *steps, whole = probe(demo_plan, range(samples), actors_here=1)
    assert (whole.doing, whole.samples, whole.scored, whole.batch_fits) == ("", samples, samples, True)
    assert min(whole.score_seconds, whole.weights_seconds, whole.load_seconds, whole.pictures) > 0
    weighed = [step.doing for step in steps if step.doing.startswith("weighing")]
    assert weighed == [f"weighing features on sample {number} of {samples}" for number in range(1, samples + 1)]


def test_no_more_is_in_memory_than_an_actor_has(tmp_path):
    """Both an open scale and a metric of likelihood: three models in turn, each gone before the next is loaded."""
    sae = str(sae_folder(tmp_path / "sae", **OPEN))
    parameters = ScoringParameters(metrics=("cosine", "ifd"))
    found = plan(ScoreJob(output=str(tmp_path / "run"), dataset=DatasetSpec(limit=40), sae=sae, parameters=parameters))
    loaded: list[weakref.ref] = []

    def alone(load):
        def load_alone(*arguments):
            assert [ref for ref in loaded if ref() is not None] == []
            loaded.append(weakref.ref(model := load(*arguments)))
            return model

        return load_alone

    family = found.model.family
    family = replace(family, load_model=alone(family.load_model), load_whole=alone(family.load_whole))
    *_, whole = probe(replace(found, model=replace(found.model, family=family)), range(3), actors_here=1)
    assert len(loaded) == 3
    assert whole.sae is not None
    assert min(whole.score_seconds, whole.weights_seconds) > 0


def test_the_highest_peak_of_all_models_counts(demo_plan, monkeypatch):
    peaks = chain([1, 1, 9], repeat(2))
    monkeypatch.setattr(probe_module, "_memory", lambda *_: [Memory("cpu", next(peaks), 10**12)])
    *_, whole = probe(demo_plan, range(2), actors_here=1)
    assert whole.memory == (Memory("cpu", 9, 10**12),)


def test_the_model_computes_with_the_threads_of_an_actor(demo_plan):
    threads = torch.get_num_threads()
    try:
        *_, whole = probe(replace(demo_plan, cpus_per_actor=2), range(1), actors_here=1)
    finally:
        torch.set_num_threads(threads)
    assert whole.threads == 2


def test_each_step_says_what_comes_and_what_is_known(demo_plan):
    steps = list(probe(demo_plan, range(4), actors_here=1))
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


@pytest.mark.parametrize("where", ["here", "in Ray"])
def test_a_trial_tells_what_it_does_and_is_stopped(demo_plan, where):
    told: list[str] = []

    def tried(found, limits):
        if where == "here":
            return try_here(found, range(3), limits)
        return run_trial(found, range(3), 1, {"num_cpus": 1}, limits)

    with nullcontext() if where == "here" else connected(None, 1):
        whole = tried(demo_plan, Limits(600, told.append))
        stopped = tried(demo_plan, Limits(0.001))
        # A plan whose data are gone.
        lost = replace(demo_plan, model=replace(demo_plan.model, path=demo_plan.model.path / "none"))
        lost = replace(
            lost, job=lost.job.model_copy(update={"model": lost.job.model.model_copy(update={"name": "/x"})})
        )
        failed = tried(lost, Limits(600))
    assert whole.seen is not None
    assert (whole.stopped, whole.seen.doing, whole.seen.scored) == (False, "", 3)
    started = ["starting a process"] if where == "here" else []
    assert told[: len(started) + 3] == [*started, "loading the tokenizer", "preparing 3 samples", "loading the model"]
    assert stopped.stopped
    assert stopped.seen is None or stopped.seen.doing
    assert failed.seen is not None
    assert not failed.killed
    assert "the model" in str(failed.error)
