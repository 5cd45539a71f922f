"""A cluster that can do a run: connected, large enough, and with the run's files on every node."""

import contextlib
import logging
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from curate.errors import ConfigurationError
from curate.models import DEFAULT_MODEL
from curate.pipeline.connection import connected
from curate.pipeline.plan import Plan
from curate.pipeline.progress import Progress, Report
from curate.pipeline.resources import FEWER, Amounts
from curate.storage import local_path

# Batches are put together to blocks of so much, since each block costs the driver; larger batches are blocks by
# themselves. What Ray holds back, it holds back by the block, so blocks must be small against its store.
_LARGEST_BLOCK, _BLOCKS_IN_STORE = 32 * 2**20, 100
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_LOOK_AT_FILES = 60
_SECONDS_TO_REACH = 10


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
            for why in unfit_nodes(the_plan):
                raise ConfigurationError(why)
        context = ray.data.DataContext.get_current()
        context.raise_original_map_exception = True
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.target_max_block_size = _block_bytes(nodes())
        # It logs the traceback of what it raises.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        yield


def _block_bytes(there: Sequence[Amounts]) -> int:
    smallest_store = min(node["object_store_memory"] for node in there if "object_store_memory" in node)
    return max(1, min(_LARGEST_BLOCK, int(smallest_store) // _BLOCKS_IN_STORE))


def device_name(the_plan: Plan) -> str:
    """What computes: on GPUs the kinds that the cluster has, since the driver's own machine may have none."""
    if the_plan.device != "cuda":
        return the_plan.device
    marks = {name for node in nodes() for name in node if name.startswith("accelerator_type:")}
    kinds = ", ".join(sorted(mark.partition(":")[2] for mark in marks))
    return f"cuda ({kinds})" if kinds else the_plan.device


def ray_options(needs: Amounts) -> dict[str, Any]:
    """Needs as Ray's tasks, actors and maps take them."""
    custom = {name: amount for name, amount in needs.items() if name not in ("CPU", "GPU")}
    return {"num_cpus": needs["CPU"], "num_gpus": needs.get("GPU", 0), "resources": custom}


def actor_needs(the_plan: Plan) -> Amounts:
    """What one scoring actor occupies of its node."""
    gpus = {"GPU": the_plan.gpus_per_actor} if the_plan.gpus_per_actor else {}
    return {"CPU": the_plan.cpus_per_actor, **gpus, **the_plan.job.resources.actor_resources}


def prepare_needs(the_plan: Plan) -> Amounts:
    """What one preparing worker occupies of its node."""
    return {"CPU": 1, **the_plan.job.resources.prepare_resources}


def prepare_workers(the_plan: Plan, there: Sequence[Amounts]) -> int:
    """How many workers prepare on these nodes, one CPU each.

    At most one for each CPU that the actors leave, all that may come and have room; unasked one fewer for each actor.
    """
    resources = the_plan.job.resources
    actors = min(resources.actors, places(actor_needs(the_plan), there))
    free = max(1, int(sum(node.get("CPU", 0) for node in there)) - actors * the_plan.cpus_per_actor)
    most = max(1, min(free, places(prepare_needs(the_plan), there)))
    return min(resources.prepare_workers or max(1, free - actors), most)


def nodes() -> list[Amounts]:
    """What each node of the cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def places(needs: Amounts, there: Sequence[Amounts]) -> int:
    """How many actors with these needs the nodes have room for; one actor does not stretch over two nodes."""

    def times(name: str, amount: float, have: float) -> int:
        if name == "GPU" and amount < 1:  # a part is of one GPU
            return int(have) * int(1 / amount + 1e-6)
        return int(have / amount + 1e-6)

    return sum(min(times(name, amount, node.get(name, 0)) for name, amount in needs.items()) for node in there)


def shortage(the_plan: Plan, there: Sequence[Amounts]) -> str | None:
    """What the fewest actors and the workers need and the nodes have too little of, in words."""
    resources, needs = the_plan.job.resources, actor_needs(the_plan)
    need: dict[str, float] = {}
    for count, each in ((resources.fewest, needs), (resources.prepare_workers or 1, prepare_needs(the_plan))):
        for name, amount in each.items():
            need[name] = need.get(name, 0) + count * amount
    have = {name: sum(node.get(name, 0) for node in there) for name in need}
    short = [
        f"{amount:g} {name}s, and there are {have[name]:g}" for name, amount in need.items() if have[name] < amount
    ]
    if short:
        return ", ".join(short)
    for count, each in ((resources.fewest, needs), (resources.prepare_workers or 1, prepare_needs(the_plan))):
        if (room := places(each, there)) < count:
            what = " and ".join(f"{amount:g} {name}s" for name, amount in each.items())
            return f"{count} × {what} on one node, and there is room for {room}"
    return None


def _wait_for_resources(the_plan: Plan, report: Report) -> None:
    """Until the cluster has them; an autoscaler, where there is one, adds nodes for what is asked for."""
    resources = the_plan.job.resources
    until = time.monotonic() + (resources.cluster_wait if resources.cluster else 0)
    asked = False
    try:
        while (lacks := shortage(the_plan, nodes())) is not None:
            if time.monotonic() >= until:
                raise ConfigurationError(f"the actors and workers need {lacks}; {FEWER}")
            # At every look, since whoever else asks takes the place of what was asked for before.
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


def unfit_nodes(the_plan: Plan) -> list[str]:
    """What nodes do not see of what they are to read, and whether they reach this process, each with what to do.

    Workers tell this process of every batch; where they cannot, Ray waits without a word and without an end.
    """
    paths, resources = files_of(the_plan), the_plan.job.resources
    alive = [node for node in ray.nodes() if node["Alive"]]
    strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in alive]
    here = ray.util.get_node_ip_address()
    try:
        server = socket.create_server((here, 0), backlog=len(alive))
    except OSError:  # Ray took this machine for one that it is not
        return [_apart(resources.cluster, here)]
    with server:
        look = ray.remote(num_cpus=0)(_look)
        options = [look.options(scheduling_strategy=strategy) for strategy in strategies]
        looks = [option.remote(paths, server.getsockname()[:2]) for option in options]
        found = ray.get(looks, timeout=_SECONDS_TO_LOOK_AT_FILES)
    if not all(reached for _, reached in found):
        return [_apart(resources.cluster, here)]
    return [
        f"the node {node['NodeManagerAddress']} does not see {path}: put it on storage that every node has at the same "
        f"path, or give a URL such as s3://bucket/data, or for a model its hub id, such as {DEFAULT_MODEL}"
        for node, (path, _) in zip(alive, found, strict=True)
        if path is not None
    ]


def _look(paths: list[Path], driver: tuple[str, int]) -> tuple[str | None, bool]:
    """On a node: the first path that is not there, and whether the driver can be reached."""
    missing = next((str(path) for path in paths if not path.exists()), None)
    try:
        socket.create_connection(driver, timeout=_SECONDS_TO_REACH).close()
    except OSError:
        return missing, False
    return missing, True


def _apart(cluster: str | None, here: str) -> str:
    return (
        f"--address {cluster}: its nodes cannot reach this machine, at {here}, as workers must: run this in the "
        "cluster's network, or give the job to the cluster with curate submit"
    )
