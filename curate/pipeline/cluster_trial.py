"""What a doctor finds by trying a run where Ray would run it."""

import os
from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any, NamedTuple

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from curate.pipeline.cluster import (
    actor_needs,
    nodes,
    places,
    prepare_workers,
    ray_options,
    shortage,
    unfit_nodes,
)
from curate.pipeline.connection import connected
from curate.pipeline.finding import Finding, counted
from curate.pipeline.plan import Plan
from curate.pipeline.probe import Probe, probe
from curate.pipeline.resources import FEWER
from curate.pipeline.trial import Limits, Outcome, ProbeKilled, watched

_SECONDS_TO_START = 60


class Tried(NamedTuple):
    """A trial's outcome, how many workers would prepare, and the bytes of Ray's object store."""

    outcome: Outcome
    workers: int
    store: int


def try_on_cluster(plan: Plan, positions: Sequence[int], limits: Limits, found: list[Finding]) -> Tried | None:
    """Try a run on the cluster that it names, or on a Ray of our own.

    Args:
        found: takes what is found of the cluster.

    Returns:
        None where nothing could be tried, which is found too.

    Raises:
        ConfigurationError: nobody answers.
    """
    resources, needs = plan.job.resources, actor_needs(plan)
    limits.tell("starting Ray" if resources.cluster is None else "reaching the cluster")
    with connected(resources.cluster, resources.actors * plan.cpus_per_actor):
        found += _cluster(plan)
        there = nodes()
        rooms = [room for node in there if (room := places(needs, [node]))]
        if any(finding.state == "fail" for finding in found):
            return None
        if not rooms:
            what = "no node has what an actor needs now, so nothing was measured: start one and look again"
            found.append(Finding("throughput", "warn", what))
            return None
        options = ray_options(needs)
        try:
            ray.get(ray.remote(**options)(_nothing).remote(), timeout=_SECONDS_TO_START)  # type: ignore[call-overload]  # Ray's stubs
        except GetTimeoutError:
            what = "all that an actor needs is in use now, so nothing was measured: look again later"
            found.append(Finding("throughput", "warn", what))
            return None
        outcome = run_trial(plan, positions, min(max(rooms), ceil(resources.actors / len(rooms))), options, limits)
        store = int(sum(node.get("object_store_memory", 0) for node in there))
        return Tried(outcome, prepare_workers(plan, there), store)


def run_trial(
    plan: Plan, positions: Sequence[int], actors_here: int, options: dict[str, Any], limits: Limits
) -> Outcome:
    """Probe in a process of its own, so that its peak of memory is the work's; for `limits.seconds` at most.

    Args:
        options: what of its node the process takes, as Ray's tasks are given it.
    """
    task: Any = ray.remote(**options, max_calls=1, max_retries=0)(probe)
    states = task.remote(plan, positions, actors_here)

    def next_state(seconds: float) -> Probe | None:
        if not ray.wait([states], timeout=seconds)[0]:
            return None
        try:
            now: Any = ray.get(next(states))
        except RayTaskError as error:
            # Ray gives a task's error the class of its cause, and a traceback for a message.
            raise error.cause from error
        except (WorkerCrashedError, OutOfMemoryError) as error:
            raise ProbeKilled(str(error)) from error
        return now

    outcome = watched(next_state, limits)
    if outcome.stopped:
        ray.cancel(states, force=True)
    return outcome


def _nothing() -> None:
    """What can be run once there is a place for it."""


def _cluster(plan: Plan) -> Iterator[Finding]:
    resources, there = plan.job.resources, nodes()
    cpus, gpus = (sum(node.get(name, 0) for node in there) for name in ("CPU", "GPU"))
    if resources.cluster is None:  # Ray here is told of more CPUs than there are: actors and workers share them
        have = f"Ray starts on this machine, which has {counted(os.cpu_count() or 1, 'core')}, {counted(gpus, 'GPU')}"
    else:
        where = f"the cluster at {resources.cluster} has {counted(len(there), 'node')}"
        have = f"{where}, {counted(cpus, 'CPU')}, {counted(gpus, 'GPU')}"
    if (lacks := shortage(plan, there)) is None:
        yield Finding("cluster", "ok", f"{have}: room for {counted(resources.fewest, 'actor')} and workers")
    elif resources.cluster and resources.cluster_wait:
        yield Finding(
            "cluster",
            "warn",
            f"{have}; the run needs {lacks}, and waits {resources.cluster_wait:g} seconds for an autoscaler to "
            f"add them (--cluster-wait); or {FEWER}",
        )
    else:
        yield Finding("cluster", "fail", f"{have}; the run needs {lacks}: {FEWER}")
    if resources.cluster:
        unfit = unfit_nodes(plan)
        yield from (Finding("nodes", "fail", text) for text in unfit)
        if not unfit:
            yield Finding("nodes", "ok", "every node sees the data, model and SAE, and reaches this process")
