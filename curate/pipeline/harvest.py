"""Hidden states from Ray actors, for one process that trains on them.

One trainer, and not data-parallel ones: at the paper's size a token costs the model about 2.5 times what it costs the
SAE (8 against 3 GFLOP), so the model is what there must be more of, and an SAE with its optimizer fits one
GPU. A step stays what it is on one machine: whoever made the hidden states, they come in the same order, and differ by
rounding at most.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from curate.errors import ConfigurationError, CurateError, RunStopped
from curate.harvest.activations import Chunk, Harvest, Place, chunks, read_block
from curate.harvest.plan import TrainPlan
from curate.harvest.train import ChunksFrom, local_chunks
from curate.pipeline.connection import connected
from curate.pipeline.files_here import model_here
from curate.pipeline.resources import cluster_address

_AHEAD = 2
_ATTEMPTS = 3


@contextmanager
def chunks_of(the_plan: TrainPlan) -> Iterator[ChunksFrom]:
    """Where a plan's hidden states come from: this process, or as many actors as the job names."""
    job, harvest = the_plan.job, the_plan.harvest
    if job.harvesters == 0:
        yield local_chunks(the_plan)
        return
    with connected(cluster_address(job.address), job.harvesters):
        _check_room(job.harvesters, harvest.device, job.model.device)
        yield lambda place: _from_actors(harvest, job.harvesters, place)


def _check_room(actors: int, device: str, asked: str) -> None:
    """Rather than wait for ever for what the cluster does not have.

    Raises:
        ConfigurationError: too few GPUs or CPUs, or GPUs that would stand idle.
    """
    there = ray.cluster_resources()
    if device == "cpu" and asked == "auto" and there.get("GPU", 0) > 0:
        raise ConfigurationError(
            "the cluster has GPUs, but the machine that trains has none: begin on one that has, or say --device cpu"
        )
    kind = "GPU" if device == "cuda" else "CPU"
    if there.get(kind, 0) < actors:
        raise ConfigurationError(f"--harvesters {actors}: each takes a {kind}, and there are {there.get(kind, 0):g}")


class Harvester:
    """An actor with the model: a block's ordinal in, its hidden states out."""

    def __init__(self, harvest: Harvest) -> None:
        torch.set_num_threads(1)
        harvest = replace(harvest, model=model_here(harvest.model, harvest.model.name))
        self.harvest, self.builder, self.model = harvest, harvest.load_builder(), harvest.load_model()

    def block(self, ordinal: int) -> list[tuple[Chunk, "np.ndarray"]]:
        """The chunks of a block, their hidden states apart, as bytes that Ray need not copy."""
        block = read_block(self.harvest, ordinal, self.builder)
        made = chunks(self.harvest, self.model, block, self.builder.bos_token_id)
        return [(replace(each, hidden=torch.empty(0)), _bytes(each.hidden)) for each in made]


def _bytes(hidden: torch.Tensor) -> "np.ndarray":
    return hidden.contiguous().cpu().view(torch.uint8).numpy()


def _from_actors(harvest: Harvest, actors: int, place: Place) -> Iterator[Chunk]:
    """Blocks in order, each by whichever actor its turn falls on; a few are made ahead."""
    gpus = {"num_gpus": 1} if harvest.device == "cuda" else {}
    remote = ray.remote(Harvester).options(num_cpus=1, max_restarts=_ATTEMPTS, max_task_retries=_ATTEMPTS, **gpus)
    pool: list[Any] = [remote.remote(harvest) for _ in range(actors)]
    pending: deque[ray.ObjectRef] = deque()
    try:
        for ordinal in count(place[0]):
            pending.append(pool[ordinal % actors].block.remote(ordinal))
            if len(pending) == actors * _AHEAD:
                yield from (chunk for chunk in _fetched(harvest, pending.popleft()) if chunk.place >= place)
    finally:
        if ray.is_initialized():  # or to kill would start a new one
            for actor in pool:
                ray.kill(actor)


def _cause(error: RayActorError) -> str:
    """The last line of Ray's report, which is the actor's own error where it had one."""
    return str(error).strip().splitlines()[-1][:200]


def _fetched(harvest: Harvest, block: ray.ObjectRef) -> Iterator[Chunk]:
    try:
        found = ray.get(block)
    except RayTaskError as error:
        if isinstance(error.cause, CurateError):
            raise error.cause from None
        raise
    except RayActorError as error:
        raise RunStopped(
            f"the actors that run the model could not start, or died {_ATTEMPTS} times ({_cause(error)}); the same "
            "command goes on from the last checkpoint"
        ) from error
    for chunk, data in found:
        # Ray's memory is read-only, and goes when the next block comes.
        hidden = torch.from_numpy(data.copy()).view(harvest.dtype).reshape(-1, harvest.model.d_model)
        yield replace(chunk, hidden=hidden.to(harvest.device))
