"""What one actor would do, tried on a few samples where it would do it: its speed and its memory."""

import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from socket import gethostname

import psutil
import torch
from rich.filesize import decimal

from curate.errors import ConfigurationError
from curate.manifest.rows import QuarantineRow
from curate.models.family import CutModel
from curate.models.inputs import ModelInputs
from curate.pipeline.files_here import model_here
from curate.pipeline.job import Plan
from curate.pipeline.transport import batch_to_bytes
from curate.pipeline.workers import load, load_scorer
from curate.sae.dictionary import Dictionary
from curate.scoring.memory import FittingScorer, is_out_of_memory
from curate.scoring.prepare import Prepared, prepare, token_batches
from curate.scoring.scorer import Scorer
from curate.scoring.weights_pass import WeightsPass

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Memory:
    """Of one device: what the work took at its peak, and what an actor may take, in bytes."""

    device: str
    peak: int
    room: int


@dataclass(frozen=True)
class Probe:
    """What was measured, on one node.

    Attributes:
        samples: that could be prepared; unfit: the reasons of those that could not.
        tokens: of a sample, on average.
        prepare_seconds: of a sample, on one core; score_seconds, weights_seconds: of a sample, on one actor; weights
            are 0 if the run computes none.
        batch_fits: whether a batch of --batch-size tokens went through whole.
        batch_bytes: of such a batch, prepared.
        memory: by device.
    """

    node: str
    samples: int
    unfit: tuple[str, ...]
    tokens: float
    prepare_seconds: float
    score_seconds: float
    weights_seconds: float
    batch_fits: bool
    batch_bytes: int
    memory: tuple[Memory, ...]


def probe(plan: Plan, positions: Sequence[int], actors_here: int) -> Probe:
    """Prepare and run the samples at these positions as a run would, in this process.

    Args:
        actors_here: how many actors will share this node's memory.

    Raises:
        ConfigurationError: the model does not fit, or cannot be loaded.
    """
    torch.set_num_threads(1)  # as a worker that prepares
    builder = plan.model.family.load_builder(model_here(plan.model, plan.job.model.name))
    begun = time.monotonic()
    parameters = plan.job.parameters
    samples_here = plan.dataset.samples(positions)
    prepared = list(prepare(samples_here, builder, parameters.text, parameters.likelihood_of))
    prepare_seconds = (time.monotonic() - begun) / len(prepared)
    samples = [sample for sample in prepared if isinstance(sample, Prepared)]
    unfit = tuple(sample.reason for sample in prepared if isinstance(sample, QuarantineRow))
    if not samples:
        raise ConfigurationError(f"none of {len(prepared)} samples can be scored: {unfit[0]}")
    _refuse_too_large(plan, actors_here)
    # Weights of zero cost as much as others.
    weights = torch.zeros(plan.sae.d_sae, dtype=torch.float64) if parameters.needs_weights else None
    scorer = load_scorer(plan, weights)
    fitting = FittingScorer(scorer)
    budget = parameters.tokens_per_pass(plan.device)
    full = next(token_batches(_again_and_again(samples), budget))
    batch_fits = _fits(scorer, full)
    begun = time.monotonic()
    for batch in token_batches(samples, budget):
        fitting.score(batch)
    score_seconds = _since(begun) / len(samples)
    weights_seconds = 0.0
    if parameters.needs_weights and plan.weights is None:
        model = scorer.model or load(plan)[0]
        weights_seconds = _weights_seconds(plan, model, scorer.dictionary, samples)
    return Probe(
        node=gethostname(),
        samples=len(samples),
        unfit=unfit,
        tokens=sum(map(len, samples)) / len(samples),
        prepare_seconds=prepare_seconds,
        score_seconds=score_seconds,
        weights_seconds=weights_seconds,
        batch_fits=batch_fits,
        batch_bytes=len(batch_to_bytes(samples)) * len(full) // len(samples),
        memory=tuple(_memory(plan, actors_here)),
    )


def _again_and_again(samples: Sequence[Prepared]) -> Iterator[Prepared]:
    """The samples over and over, each time as if about other images, or they would share all that is run."""
    for turn in count():
        for sample in samples:

            def other(inputs: ModelInputs, turn: int = turn) -> ModelInputs:
                return replace(inputs, image=inputs.image and f"{inputs.image} {turn}")

            others = {name: other(inputs) for name, inputs in sample.others.items()}
            yield replace(sample, inputs=other(sample.inputs), others=others)


def _fits(scorer: Scorer, batch: Sequence[Prepared]) -> bool:
    """Whether the device has memory for the batch. The first pass, too, is slower than those that follow."""
    try:
        scorer.score(batch)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _weights_seconds(plan: Plan, model: CutModel, dictionary: Dictionary, samples: Sequence[Prepared]) -> float:
    rows = [sample.source_row for sample in samples]
    share = WeightsPass(model, dictionary, plan.job.parameters, rows, plan.model.context)
    share.add(samples[0])  # makes room for the strongest tokens
    timed = samples[1:] or samples
    begun = time.monotonic()
    for sample in timed:
        share.add(sample)
    return _since(begun) / len(timed)


def _since(begun: float) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic() - begun


def _refuse_too_large(plan: Plan, actors_here: int) -> None:
    """Before the model is loaded: a process that takes too much memory is killed without a word."""
    last = plan.model.n_layers - 1 if plan.job.parameters.likelihood_of else plan.hook_layer
    n_parameters = plan.model.family.n_parameters(plan.model, last)
    needed = n_parameters * plan.dtype.itemsize + 4 * plan.model.d_model * plan.sae.d_sae
    room = sum(memory.room for memory in _memory(plan, actors_here))
    if needed > room:
        raise ConfigurationError(
            f"the model's {n_parameters / 1e9:.1f} billion parameters up to layer {last} and the SAE take "
            f"{decimal(int(needed))}, and an actor has {decimal(room)} on {gethostname()}: give it more GPUs with "
            "--gpus-per-actor, or lower --actors on one node"
        )


def _memory(plan: Plan, actors_here: int) -> Iterator[Memory]:
    """What is taken now on a GPU, where freed memory stays with the process; and at the peak on a CPU."""
    if plan.device == "cuda":
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = f"cuda:{index} ({torch.cuda.get_device_name(index)})"
            yield Memory(name, total - free, int(total * min(1.0, plan.gpus_per_actor)))
        return
    machine = psutil.virtual_memory()
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.exists() else "max"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    # What this process has is part of what is free for it.
    free = machine.available + psutil.Process().memory_info().rss
    room = min(free, machine.total if limit == "max" else int(limit))
    yield Memory("cpu", peak, room // actors_here)
