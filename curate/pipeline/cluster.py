"""A cluster that can do a run: connected, large enough, and with the run's files on every node."""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import ray
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from curate.errors import ConfigurationError
from curate.models import DEFAULT_MODEL
from curate.pipeline.connection import connected
from curate.pipeline.job import Plan
from curate.pipeline.session import Progress, Report
from curate.storage import local_path

_BLOCK_BYTES = 32 * 2**20
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_LOOK_AT_FILES = 60

Amounts = Mapping[str, float]


@contextlib.contextmanager
def local_or_remote_ray(the_plan: Plan, report: Report) -> Iterator[None]:
    """A connection to the cluster named, or a Ray of our own on this machine, with the resources that a run needs.

    Raises:
        ConfigurationError: nobody answers, the cluster stays too small, or a node does not see the run's files.
    """
    resources = the_plan.job.resources
    with connected(resources.cluster, resources.actors * the_plan.cpus_per_actor):
        _wait_for_resources(the_plan, report)
        if resources.cluster is not None:
            _check_files_on_nodes(the_plan)
        context = ray.data.DataContext.get_current()
        context.raise_original_map_exception = True
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.target_max_block_size = _BLOCK_BYTES
        # It logs the traceback of what it raises.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        yield


def actor_needs(the_plan: Plan) -> dict[str, float]:
    """What one scoring actor occupies of its node."""
    gpus = {"GPU": the_plan.gpus_per_actor} if the_plan.gpus_per_actor else {}
    return {"CPU": the_plan.cpus_per_actor, **gpus, **the_plan.job.resources.actor_resources}


def prepare_needs(the_plan: Plan) -> dict[str, float]:
    """What one preparing worker occupies of its node."""
    return {"CPU": 1, **the_plan.job.resources.prepare_resources}


def shortage(the_plan: Plan, have: Amounts) -> dict[str, tuple[float, float]]:
    """What the fewest actors and the workers need and the cluster has too little of: needed and there, by name."""
    resources = the_plan.job.resources
    need: dict[str, float] = {}
    for count, each in (
        (resources.fewest, actor_needs(the_plan)),
        (resources.prepare_workers or 1, prepare_needs(the_plan)),
    ):
        for name, amount in each.items():
            need[name] = need.get(name, 0) + count * amount
    return {name: (amount, have.get(name, 0)) for name, amount in need.items() if have.get(name, 0) < amount}


def _wait_for_resources(the_plan: Plan, report: Report) -> None:
    """Until the cluster has them; an autoscaler, where there is one, adds nodes for what is asked for."""
    resources = the_plan.job.resources
    until = time.monotonic() + (resources.cluster_wait if resources.cluster else 0)
    asked = False
    try:
        while short := shortage(the_plan, ray.cluster_resources()):
            lacks = ", ".join(f"{amount:g} {name}s, and there are {there:g}" for name, (amount, there) in short.items())
            if time.monotonic() >= until:
                raise ConfigurationError(
                    f"the actors and workers need {lacks}; lower --actors, --min-actors, --prepare-workers or "
                    "--gpus-per-actor"
                )
            if not asked:
                workers = [prepare_needs(the_plan)] * (resources.prepare_workers or 1)
                request_resources(bundles=[actor_needs(the_plan)] * resources.fewest + workers)
                asked = True
            report(Progress("cluster", lacks=f"{lacks} (--cluster-wait {resources.cluster_wait:g})"))
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    finally:
        if asked:
            request_resources(bundles=[])


def files_of(the_plan: Plan) -> list[Path]:
    """The local files that workers read and cannot fetch by themselves."""
    dataset, job = the_plan.dataset, the_plan.job
    paths = [local_path(path) for path in (dataset.root, *dataset.files[:1]) if path is not None]
    paths += [Path(name) for name in (job.model.name, job.sae) if Path(name).is_absolute()]
    return [path for path in paths if path is not None]


def nodes_without(paths: list[Path]) -> dict[str, str]:
    """The first path that each node does not see, by node."""

    def missing() -> str | None:
        return next((str(path) for path in paths if not path.exists()), None)

    look = ray.remote(num_cpus=0)(missing)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    looks = [look.options(scheduling_strategy=strategy).remote() for strategy in strategies]
    found = ray.get(looks, timeout=_SECONDS_TO_LOOK_AT_FILES)
    return {node["NodeManagerAddress"]: path for node, path in zip(nodes, found, strict=True) if path is not None}


def _check_files_on_nodes(the_plan: Plan) -> None:
    for node, path in nodes_without(files_of(the_plan)).items():
        raise ConfigurationError(
            f"the node {node} does not see {path}: put it on storage that every node has at the same path, or give a "
            f"URL such as s3://bucket/data, or for a model its hub id, such as {DEFAULT_MODEL}"
        )
