"""What one actor would do, tried on a few samples where it would do it: its speed and its memory."""

import contextlib
import gc
import resource
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from socket import gethostname

import psutil
import torch
from rich.filesize import decimal

from curate.errors import ConfigurationError, SampleError
from curate.manifest.record import SAERecord
from curate.manifest.rows import QuarantineRow
from curate.models.family import CutModel
from curate.models.inputs import ModelInputs
from curate.pipeline.files_here import dictionary_here, model_here
from curate.pipeline.first_pass import sae_record
from curate.pipeline.plan import Plan
from curate.pipeline.transport import batch_to_bytes
from curate.pipeline.workers import load_cut, load_scorer
from curate.sae.dictionary import Dictionary, known_scale
from curate.sae.reading import Reading
from curate.scoring.fit import FitPass, Text, reading_of
from curate.scoring.hidden import hidden_alone
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
    """What was measured so far, on one node.

    Attributes:
        doing: what it does next; empty once all is measured.
        samples: prepared successfully.
        unfit: reasons of the others.
        tokens, pictures: of a sample, on average; a picture is an image or a tile of one.
        prepare_seconds: of a sample, on one core; score_seconds, weights_seconds: of a sample, on one actor; weights
            are 0 if the run computes none.
        load_seconds: of model and SAE; None until they are there.
        threads: that compute on a CPU.
        scored: samples behind `score_seconds`.
        batch_fits: whether a batch of --batch-size tokens went through whole; None if none was tried.
        batch_bytes: of such a batch, prepared.
        sae: how the SAE was read, and how well it fits these samples; None until one was reconstructed.
        memory: by device.
    """

    node: str
    doing: str = ""
    samples: int = 0
    unfit: tuple[str, ...] = ()
    tokens: float = 0.0
    pictures: float = 0.0
    prepare_seconds: float = 0.0
    load_seconds: float | None = None
    threads: int = 0
    scored: int = 0
    score_seconds: float = 0.0
    weights_seconds: float = 0.0
    batch_fits: bool | None = None
    batch_bytes: int = 0
    sae: SAERecord | None = None
    memory: tuple[Memory, ...] = ()


# Yields what is known before each step, which may be the last that there is time for; returns what is known after all.
Steps = Generator[Probe, None, Probe]


def probe(plan: Plan, positions: Sequence[int], actors_here: int) -> Iterator[Probe]:
    """Prepare and run the samples at these positions as a run would, in this process.

    Args:
        actors_here: how many actors will share this node's memory.

    Yields:
        what is known so far, before each step and at the end.

    Raises:
        ConfigurationError: the model does not fit, or cannot be loaded.
    """
    seen = Probe(gethostname())
    samples, seen = yield from _prepared(plan, positions, seen)
    _refuse_too_large(plan, actors_here)
    memory: tuple[Memory, ...] = ()
    for now in _run(plan, samples, seen):
        if now.load_seconds is not None:
            found = tuple(_memory(plan, actors_here))
            # Each model that is loaded starts a peak of its own.
            memory = tuple(max(pair, key=lambda each: each.peak) for pair in zip(memory or found, found, strict=True))
        yield replace(now, memory=memory)


def _prepared(
    plan: Plan, positions: Sequence[int], seen: Probe
) -> Generator[Probe, None, tuple[list[Prepared], Probe]]:
    """The samples that can be scored."""
    torch.set_num_threads(1)  # as a worker that prepares
    parameters = plan.job.parameters
    yield replace(seen, doing="loading the tokenizer")
    builder = plan.model.family.load_builder(model_here(plan.model, plan.job.model.name))
    yield replace(seen, doing=f"preparing {len(positions)} samples")
    started = time.monotonic()
    prepared = list(prepare(plan.dataset.samples(positions), builder, parameters.text, parameters.likelihood_of))
    seconds = (time.monotonic() - started) / len(prepared)
    samples = [sample for sample in prepared if isinstance(sample, Prepared)]
    unfit = tuple(sample.reason for sample in prepared if isinstance(sample, QuarantineRow))
    if not samples:
        raise ConfigurationError(f"none of {len(prepared)} samples can be scored: {unfit[0]}")
    return samples, replace(
        seen,
        samples=len(samples),
        unfit=unfit,
        tokens=sum(map(len, samples)) / len(samples),
        pictures=sum(len(sample.inputs.tensors.get("pixel_values", ())) for sample in samples) / len(samples),
        prepare_seconds=seconds,
        batch_bytes=len(batch_to_bytes(samples)) * len(_full(plan, samples)) // len(samples),
    )


def _run(plan: Plan, samples: Sequence[Prepared], seen: Probe) -> Iterator[Probe]:
    """What actors do: never are two models in memory, as no actor has two."""
    yield (seen := replace(seen, doing="loading the model"))
    started, parameters = time.monotonic(), plan.job.parameters
    reading = cut = None
    if plan.sae.scale is None:
        cut = load_cut(plan)
        yield (seen := replace(seen, doing="trying both readings of the SAE"))
        reading = _reading(plan, cut, samples)
        plan = plan.read_with(reading.scale)
        if parameters.likelihood_of:
            cut = None
            _free_memory()
    # Weights of zero cost as much as others.
    zeros = torch.zeros(plan.sae.d_sae, dtype=torch.float64) if parameters.needs_weights else None
    scorer = load_scorer(plan, zeros, cut)  # which computes with the threads of an actor from here on
    seen = replace(seen, doing="", load_seconds=_since(started), threads=torch.get_num_threads())
    forget_peak()
    seen = yield from _scores(plan, scorer, samples, seen)
    if parameters.reads_activations:
        cut, dictionary = scorer.model, scorer.dictionary
        if cut is None:
            yield replace(seen, doing="loading the model for the first pass")
            del scorer
            _free_memory()
            cut = load_cut(plan)
            forget_peak()
        if parameters.needs_weights and plan.weights is None:
            seen = yield from _weights(plan, cut, dictionary, samples, seen)
        seen = yield from _fit(plan, cut, dictionary, samples, seen, reading)
    yield seen


def _free_memory() -> None:
    """Free a model that was dropped."""
    gc.collect()
    torch.cuda.empty_cache()


def _reading(plan: Plan, cut: CutModel, samples: Sequence[Prepared]) -> Reading:
    texts: list[Text] = []
    lost: list[str] = []
    for sample in samples:
        try:
            texts.append((hidden_alone(cut.hidden_states, sample.inputs), sample.inputs.is_image))
        except SampleError as error:
            lost.append(str(error))
    return reading_of(dictionary_here(plan), texts, plan.device, lost)


def _fit(
    plan: Plan,
    model: CutModel,
    dictionary: Dictionary,
    samples: Sequence[Prepared],
    seen: Probe,
    reading: Reading | None,
) -> Steps:
    """How well the SAE reconstructs the samples."""
    yield replace(seen, doing="loading the SAE's decoder")
    sae = dictionary_here(plan)
    fit, note = FitPass(sae, dictionary), None if reading is None else reading.note
    for number, sample in enumerate(samples, start=1):
        yield replace(seen, doing=f"reconstructing sample {number} of {len(samples)}")
        with contextlib.suppress(SampleError):
            fit.take(hidden_alone(model.hidden_states, sample.inputs), sample.inputs.is_image)
        if fit.samples or number == len(samples):
            fits = [(fit.quality, fit.samples, fit.overflowed)]
            seen = replace(seen, sae=sae_record(sae, known_scale(sae), fits, note))
    return seen


def _scores(plan: Plan, scorer: Scorer, samples: Sequence[Prepared], seen: Probe) -> Steps:
    """One sample, so that something is known soon; a full batch, for its memory; then all samples, timed."""
    fitting, n = FittingScorer(scorer), len(samples)
    yield replace(seen, doing=f"scoring sample 1 of {n}")
    started = time.monotonic()
    fitting.score(samples[:1])
    seen = replace(seen, scored=1, score_seconds=_since(started))
    yield replace(seen, doing="scoring a full batch")
    full, started = _full(plan, samples), time.monotonic()
    seen = replace(seen, batch_fits=_fits(scorer, full))
    if seen.batch_fits:  # it may be all that there is time for
        seen = replace(seen, scored=min(len(full), n), score_seconds=_since(started) / len(full))
    done, seconds = 0, 0.0
    for batch in token_batches(samples, plan.job.parameters.tokens_per_pass(plan.device)):
        yield replace(seen, doing=f"scoring sample {done + 1} of {n}")
        started = time.monotonic()
        fitting.score(batch)
        seconds, done = seconds + _since(started), done + len(batch)
        seen = replace(seen, scored=done, score_seconds=seconds / done)
    return seen


def _weights(plan: Plan, model: CutModel, dictionary: Dictionary, samples: Sequence[Prepared], seen: Probe) -> Steps:
    """The weights pass over the samples. The first one makes room for the strongest tokens, so the others count."""
    rows = [sample.source_row for sample in samples]
    share = WeightsPass(model, dictionary, plan.job.parameters, rows, plan.model.context)
    seconds: list[float] = []
    for number, sample in enumerate(samples, start=1):
        yield replace(seen, doing=f"weighing features on sample {number} of {len(samples)}")
        started = time.monotonic()
        share.add(sample)
        seconds.append(_since(started))
        counted = seconds[1:] or seconds
        seen = replace(seen, weights_seconds=sum(counted) / len(counted))
    return seen


def _full(plan: Plan, samples: Sequence[Prepared]) -> list[Prepared]:
    """A batch of as many tokens as a pass may have."""
    return next(token_batches(_again_and_again(samples), plan.job.parameters.tokens_per_pass(plan.device)))


def _again_and_again(samples: Sequence[Prepared]) -> Iterator[Prepared]:
    """The samples over and over, each time as if about other images, or they would share all that is run."""
    for turn in count():
        for sample in samples:

            def other(inputs: ModelInputs, turn: int = turn) -> ModelInputs:
                return replace(inputs, image=inputs.image and f"{inputs.image} {turn}")

            others = {name: other(inputs) for name, inputs in sample.others.items()}
            yield replace(sample, inputs=other(sample.inputs), others=others)


def _fits(scorer: Scorer, batch: Sequence[Prepared]) -> bool:
    """Whether the device has memory for the batch."""
    try:
        scorer.score(batch)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _since(started: float) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic() - started


def forget_peak() -> None:
    """Forget the peak of loading: pages of a file that is read are counted, though the kernel takes them back."""
    with contextlib.suppress(OSError):  # only Linux can
        Path("/proc/self/clear_refs").write_text("5")


def _refuse_too_large(plan: Plan, actors_here: int) -> None:
    """Before the model is loaded: a process that takes too much memory is killed without a word."""
    last = plan.model.n_layers - 1 if plan.job.parameters.likelihood_of else plan.hook_layer
    n_parameters = plan.model.family.n_parameters(plan.model, last)
    halves = 2 if plan.job.parameters.reads_activations else 1  # the fit takes the SAE's decoder, too
    needed = n_parameters * plan.dtype.itemsize + 4 * halves * plan.model.d_model * plan.sae.d_sae
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
