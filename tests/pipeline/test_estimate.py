"""The estimate of a run's time against a simulation, event by event."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.pipeline.estimate import estimate
from curate.pipeline.first_pass import weight_actors
from curate.pipeline.job import ScoreJob
from curate.pipeline.plan import plan
from curate.pipeline.probe import Probe

PROBE = Probe("node", samples=16, tokens=100.0, prepare_seconds=0.5, scored=16, score_seconds=2.0)


def simulated(samples: int, prepare: float, workers: int, score: float, actors: int) -> float:
    """When the last sample is scored, if each goes to the first worker, then the first actor, that is free."""
    free_workers, free_actors = [0.0] * workers, [0.0] * actors
    for _ in range(samples):
        free_workers.sort()
        free_workers[0] += prepare
        ready = free_workers[0]
        free_actors.sort()
        free_actors[0] = max(free_actors[0], ready) + score
    return max(free_actors)


@pytest.fixture(scope="module")
def the_plan(tmp_path_factory):
    return plan(ScoreJob.model_validate({"output": tmp_path_factory.mktemp("run"), "resources": {"actors": 1}}))


def with_actors(the_plan, actors: int, **changes):
    resources = the_plan.job.resources.model_copy(update={"actors": actors})
    return replace(the_plan, job=the_plan.job.model_copy(update={"resources": resources}), **changes)


seconds = st.floats(min_value=0.01, max_value=3)


@given(st.integers(200, 600), seconds, st.integers(1, 9), seconds, st.integers(1, 9))
def test_on_a_cluster_it_is_as_simulated(the_plan, samples, prepare, workers, score, actors):
    probe = replace(PROBE, prepare_seconds=prepare, score_seconds=score)
    found = estimate(with_actors(the_plan, actors), probe, samples, workers, cores=None)
    expected = simulated(samples, prepare, workers, score, actors)
    # It leaves out what is under way at the two ends.
    assert expected - 2 * (prepare + score) <= found.seconds <= expected + 1e-6
    assert found.actors_wait == (prepare / workers > score / actors)
    assert found.gpu_hours == 0


def test_weights_come_first_from_as_many_actors_as_have_enough_to_do(the_plan):
    probe = replace(PROBE, prepare_seconds=0.001, score_seconds=1.0, weights_seconds=4.0)
    four = with_actors(the_plan, 4)
    assert weight_actors(four, 1000) == 4
    alone = estimate(four, replace(probe, weights_seconds=0.0), 1000, 9, None).seconds
    assert estimate(four, probe, 1000, 9, None).seconds == pytest.approx(alone + 1000 * 4.0 / 4)


def test_cores_that_are_shared_bear_both(the_plan):
    """Two actors of one thread and a worker, on two cores: 2 + 0.5 core seconds a sample."""
    probe = replace(PROBE, prepare_seconds=0.5, score_seconds=2.0)
    one_thread = with_actors(the_plan, 2, cpus_per_actor=1)
    assert estimate(one_thread, probe, 100, 1, 2).seconds == pytest.approx(100 * 2.5 / 2)
    # Where a GPU computes, the cores prepare only.
    assert estimate(replace(one_thread, device="cuda"), probe, 100, 1, 2).seconds == pytest.approx(100 * 1.0)


def test_gpu_hours_are_of_all_actors(the_plan):
    probe = replace(PROBE, prepare_seconds=0.001, score_seconds=3.6)
    halves = with_actors(the_plan, 4, device="cuda")
    resources = halves.job.resources.model_copy(update={"gpus_per_actor": 0.5})
    halves = replace(halves, job=halves.job.model_copy(update={"resources": resources}))
    found = estimate(halves, probe, 4000, 100, None)
    assert found.seconds == pytest.approx(3600)
    assert found.gpu_hours == pytest.approx(2.0)
    assert found.samples_per_second == pytest.approx(4 / 3.6)
