"""What would go wrong with a run, and how long it would take: found before it is paid for."""

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from math import ceil
from typing import Literal, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from rich.filesize import decimal

from curate.datasets import Dataset, open_dataset
from curate.errors import ConfigurationError, CurateError, SampleError, first_line
from curate.manifest import fitness
from curate.manifest.ledger import read_ledger
from curate.manifest.record import SAERecord
from curate.manifest.weights import read_weights
from curate.pipeline.cluster import (
    FEWER,
    actor_needs,
    nodes,
    places,
    prepare_workers,
    ray_options,
    shortage,
    unfit_nodes,
)
from curate.pipeline.connection import connected
from curate.pipeline.cost import DEVICES, UTILISATION, gpu_hours
from curate.pipeline.estimate import Estimate, estimate
from curate.pipeline.folder import check_output
from curate.pipeline.job import Pair, Plan, ScoreJob, agreeing, fitted
from curate.pipeline.probe import Probe
from curate.pipeline.resources import Amounts
from curate.pipeline.trial import Limits, Outcome, run_trial
from curate.storage import location

SAMPLES = 16
# Of the data that the paper ranks; computed costs are said for as many, too.
PAPER_SAMPLES = 40_000
# Above these, warn: longer samples need more memory, others use the store too, and a slow disk holds up the driver.
_MEMORY_SHARE, _STORE_SHARE, _COMMIT_SECONDS = 0.9, 0.5, 1.0
_SECONDS_TO_START = 60
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True)
class Finding:
    """One line of a preflight. Where the state is not `ok`, the text says what to do.

    Attributes:
        numbers: what was measured, for machines: seconds, bytes, samples.
    """

    check: str
    state: Literal["ok", "warn", "fail"]
    text: str
    numbers: Mapping[str, float] | None = None


T = TypeVar("T")


def tried(check: str, do: Callable[[], T], say: Callable[[T], str]) -> Generator[Finding, None, T | None]:
    """What `do` returns and a line about it; or None, and a line with the error, which says what to do."""
    try:
        value = do()
    # A store's client, a damaged file: each has errors of its own, and none may end the looking.
    except Exception as error:
        yield _failed(check, error)
        return None
    yield Finding(check, "ok", say(value))
    return value


def looked(check: str, look: Iterator[Finding]) -> Iterator[Finding]:
    """What a look finds, and a line with the error that ends it, if one does."""
    try:
        yield from look
    except Exception as error:
        yield _failed(check, error)


def _failed(check: str, error: Exception) -> Finding:
    return Finding(
        check, "fail", str(error) if isinstance(error, CurateError) else f"{type(error).__name__}: {first_line(error)}"
    )


def examine(
    job: ScoreJob,
    price: float | None = None,
    samples: int | None = None,
    overwrite: bool = False,
    limits: Limits = Limits(),
) -> Iterator[Finding]:
    """Try all that a scoring run rests on; what depends on something that failed is left out.

    Args:
        price: of a GPU hour.
        samples: how many are to be scored, if not all.
        overwrite: as for `score`.
        limits: how the trial is watched.
    """
    job = job.absolute()
    limits.tell("looking at the data")
    dataset = yield from tried("data", lambda: open_dataset(job.dataset), _data)
    positions: list[int] = []
    if dataset is not None:
        positions = _spread(len(dataset))
        yield from looked("sample", _sample(dataset, positions))
    limits.tell("reading model and SAE for their hashes")
    pair = yield from tried("model and SAE", lambda: agreeing(job), lambda pair: _pair(job, pair))
    limits.tell("trying the output folder")
    done = yield from tried(
        "output", lambda: _done(job.output, overwrite), lambda rows: _output(job.output, rows, overwrite)
    )
    yield from storage(job.output, 0 if dataset is None else len(dataset))
    if dataset is None or pair is None:
        return
    plan = yield from tried("settings", lambda: fitted(job, dataset, pair, overwrite), _settings)
    if plan is not None:
        for note in plan.notes:
            yield Finding("note", "warn", note)
        left = len(dataset) - (0 if overwrite or done is None else done) if samples is None else samples
        weighed = not overwrite and _has_weights(plan)
        yield from looked("cluster", iter(_on_the_cluster(plan, positions, left, weighed, price, limits)))


def _spread(n_rows: int) -> list[int]:
    """Positions from all over the data."""
    count = min(SAMPLES, n_rows)
    return [index * n_rows // count for index in range(count)]


def _count(number: float, what: str) -> str:
    return f"{number:,.12g} {what}{'' if number == 1 else 's'}"


def _data(dataset: Dataset) -> str:
    columns = ", ".join(dataset.layout.columns)
    return f"{len(dataset):,} rows of {dataset.name}, with the columns {columns}"


def _sample(dataset: Dataset, positions: list[int]) -> Iterator[Finding]:
    rows = list(dataset.samples(positions))
    good = [sample for _, sample in rows if not isinstance(sample, SampleError)]
    bad = [(row, error) for row, error in rows if isinstance(error, SampleError)]
    if good:
        first = good[0]
        texts = (f"“{_short(text)}”" for text in (first.question, first.chosen, first.rejected))
        what = "row {}: {} × {} pixels; question {}, chosen {}, rejected {}".format(
            first.source_row, first.image.width, first.image.height, *texts
        )
        yield Finding("sample", "ok", what)
    if bad:
        row, error = bad[0]
        what = f"{len(bad)} of {len(rows)} samples would be quarantined; row {row:,}: {type(error).__name__}, {error}"
        yield Finding("sample", "warn" if good else "fail", f"{what}; mend the data, or see --columns and --data-dir")


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"


def _pair(job: ScoreJob, pair: Pair) -> str:
    model, sae, layer, _ = pair
    return (
        f"{job.model.name} is cut after layer {layer} of {model.n_layers}; the SAE reads its width {sae.d_model} and "
        f"has {sae.d_sae:,} features"
    )


def _settings(plan: Plan) -> str:
    metrics = ", ".join(plan.job.parameters.metrics)
    text = {"both": "prompt+chosen, and of prompt+rejected,"}.get(plan.job.parameters.text, plan.job.parameters.text)
    return f"{metrics} of {text} on {plan.device} in {str(plan.dtype).removeprefix('torch.')}"


def _done(output: str, overwrite: bool) -> int:
    """Rows that the run at `output` has already."""
    run = location(output)
    check_output(run, overwrite)
    return sum(shard.rows for shard in read_ledger(run).values())


def _output(output: str, rows: int, overwrite: bool) -> str:
    if not rows:
        return f"{output} is free for a run"
    return f"{output} holds a run with {rows:,} rows, which {'is replaced' if overwrite else 'goes on'}"


def storage(output: str, rows: int) -> Iterator[Finding]:
    """Whether files can be kept at `output` as a run needs it: renames, syncs, locks and room for so many rows."""
    return looked("storage", _storage(output, rows))


def _storage(output: str, rows: int) -> Iterator[Finding]:
    run = location(output)
    if (why := fitness.unfit(run)) is not None:
        yield Finding("storage", "fail", why)
        return
    seconds, room = fitness.commit_seconds(run), fitness.room(run, rows)
    numbers = {"commit_seconds": seconds, "needed_bytes": room.needed, "free_bytes": room.free}
    what = f"replaces, syncs and locks files, one in {1000 * seconds:.1f} ms"
    disk = f"{decimal(room.needed)} needed in {room.folder}, {decimal(room.free)} free"
    if room.free < room.needed:
        yield Finding("storage", "fail", f"too little room ({disk}): choose another --output, or TMPDIR", numbers)
    elif seconds > _COMMIT_SECONDS:
        yield Finding("storage", "warn", f"{what}: slow; raise --shard-rows, so that fewer are written", numbers)
    else:
        yield Finding("storage", "ok", f"{what}; {disk}", numbers)


def _on_the_cluster(
    plan: Plan, positions: list[int], samples: int, weighed: bool, price: float | None, limits: Limits
) -> list[Finding]:
    resources, needs = plan.job.resources, actor_needs(plan)
    found: list[Finding] = []
    limits.tell("starting Ray" if resources.cluster is None else "reaching the cluster")
    try:
        with connected(resources.cluster, resources.actors * plan.cpus_per_actor):
            found += _cluster(plan)
            there = nodes()
            rooms = [room for node in there if (room := places(needs, [node]))]
            if any(finding.state == "fail" for finding in found):
                return found
            if not rooms:
                what = "no node has what an actor needs now, so nothing was measured: start one and look again"
                return [*found, Finding("throughput", "warn", what)]
            options = ray_options(needs)
            try:
                ray.get(ray.remote(**options)(_nothing).remote(), timeout=_SECONDS_TO_START)  # type: ignore[call-overload]  # Ray's stubs
            except GetTimeoutError:
                what = "all that an actor needs is in use now, so nothing was measured: look again later"
                return [*found, Finding("throughput", "warn", what)]
            actors_here = min(max(rooms), ceil(resources.actors / len(rooms)))
            outcome = run_trial(plan, positions, actors_here, options, limits)
            store = int(sum(node.get("object_store_memory", 0) for node in there))
    except (CurateError, RayError) as error:
        return [*found, _failed("throughput" if found else "cluster", error)]
    return [*found, *_tried(plan, outcome, there, store, samples, weighed, price, limits.seconds)]


def _tried(
    plan: Plan,
    outcome: Outcome,
    there: list[Amounts],
    store: int,
    samples: int,
    weighed: bool,
    price: float | None,
    limit: float,
) -> Iterator[Finding]:
    """What a trial found; where it did not measure a GPU, what GPUs are computed to take."""
    seen = outcome.seen
    if seen is not None and seen.memory:
        yield from _memory(plan, seen)
    if outcome.error is not None:
        yield _ended(seen, outcome.error)
    elif seen is None or not seen.scored:
        what = f"{_stopped(seen, limit)}, so nothing was measured: give it more with --trial-seconds"
        yield Finding("throughput", "warn", what)
    else:
        workers = prepare_workers(plan, there)
        cores = os.cpu_count() if plan.job.resources.cluster is None else None
        measured, notes = _whole(plan, seen, weighed)
        time_needed = estimate(plan, measured, samples, workers, cores)
        yield _store(measured, workers, plan.job.resources.actors, store)
        yield _throughput(measured, workers, time_needed, _stopped(seen, limit) if outcome.stopped else None)
        yield _time(plan, time_needed, workers, price, notes)
    if seen is not None and seen.sae is not None:
        yield _fit(plan, seen.sae)
    if seen is not None and seen.tokens and (plan.device == "cpu" or not seen.scored):
        yield _computed(plan, seen, samples, weighed, price)


def _fit(plan: Plan, sae: SAERecord) -> Finding:
    """How well the SAE fits, by which the run stops or goes on."""
    what = f"the SAE explains {sae.summary} of {_count(sae.samples, 'sample')}"
    what = what if sae.reading is None else f"{what}; {sae.reading}"
    if not sae.poor:
        return Finding("SAE's fit", "ok", what)
    more = f"below 0 it explains less than their mean does: see curate saes --model {plan.job.model.name}"
    if plan.job.allow_poor_fit:
        return Finding("SAE's fit", "warn", f"{what}; {more}")
    return Finding("SAE's fit", "fail", f"{what}; {more}, or score all the same with --allow-poor-fit")


def _ended(seen: Probe | None, error: Exception) -> Finding:
    """Why a trial ended by itself."""
    # Ray gives a task's error the class of its cause, and a traceback for a message.
    if isinstance(error, RayTaskError):
        return _failed("throughput", error.cause)
    doing = "starting" if seen is None else seen.doing
    killed = f"the process that tried it was killed while {doing}; probably it ran out of memory"
    return Finding("throughput", "fail", f"{killed} ({first_line(error)}): {FEWER}, or --batch-size")


def _stopped(seen: Probe | None, limit: float) -> str:
    """What a trial had done when its limit stopped it."""
    if seen is None:
        return f"the trial did not start within {limit:g} seconds"
    parts = [] if seen.load_seconds is None else [f"loaded the model in {seen.load_seconds:.0f} s"]
    if seen.scored:
        parts.append(f"{seen.scored} of {_count(seen.samples, 'sample')} scored")
    parts.append(f"then {seen.doing}" if parts else seen.doing)
    return f"the trial was stopped after {limit:g} seconds: {', '.join(parts)}"


def _whole(plan: Plan, seen: Probe, weighed: bool) -> tuple[Probe, list[str]]:
    """What was measured, with an assumption for what a stopped trial did not reach."""
    if weighed or not plan.job.parameters.needs_weights or plan.weights is not None:
        return replace(seen, weights_seconds=0.0), []
    if seen.weights_seconds:
        return seen, []
    return replace(seen, weights_seconds=seen.score_seconds), ["feature weights taken to cost what scores do"]


def _computed(plan: Plan, seen: Probe, samples: int, weighed: bool, price: float | None) -> Finding:
    """GPU hours on devices that were not tried."""
    numbers, parts = {}, []
    for count in dict.fromkeys((samples, PAPER_SAMPLES)):
        hours = {each.name: gpu_hours(plan, seen.tokens, seen.pictures, count, each, weighed) for each in DEVICES}
        numbers |= {f"gpu_hours_{name}_{count}": found for name, found in hours.items()}
        takes = ", ".join(f"{found:,.2f} on {name}" for name, found in hours.items())
        if price is not None:
            takes += f" (at {price:g} an hour {', '.join(f'{found * price:,.2f}' for found in hours.values())})"
        parts.append(f"{_count(count, 'sample')}: {takes}")
    what = f"of {seen.tokens:,.0f} tokens each, at {UTILISATION:.0%} of a device's peak, not measured"
    return Finding("computed GPU hours", "ok", f"{'; '.join(parts)}; {what}", numbers)


def _nothing() -> None:
    """What can be run once there is a place for it."""


def _has_weights(plan: Plan) -> bool:
    try:
        read_weights(location(plan.job.output))
    except (ConfigurationError, OSError):  # there is no run yet, or no way to it, which `output` says
        return False
    return True


def _cluster(plan: Plan) -> Iterator[Finding]:
    resources, there = plan.job.resources, nodes()
    cpus, gpus = (sum(node.get(name, 0) for node in there) for name in ("CPU", "GPU"))
    if resources.cluster is None:  # Ray here is told of more CPUs than there are: actors and workers share them
        have = f"Ray starts on this machine, which has {_count(os.cpu_count() or 1, 'core')}, {_count(gpus, 'GPU')}"
    else:
        where = f"the cluster at {resources.cluster} has {_count(len(there), 'node')}"
        have = f"{where}, {_count(cpus, 'CPU')}, {_count(gpus, 'GPU')}"
    if (lacks := shortage(plan, there)) is None:
        yield Finding("cluster", "ok", f"{have}: room for {_count(resources.fewest, 'actor')} and workers")
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


def _memory(plan: Plan, measured: Probe) -> Iterator[Finding]:
    if measured.batch_fits is False:
        budget = plan.job.parameters.tokens_per_pass(plan.device)
        what = f"a batch of --batch-size {budget:,} tokens does not fit, and is split each time"
        yield Finding("memory", "warn", f"{what}: lower it")
    for memory in measured.memory:
        numbers = {"peak_bytes": memory.peak, "room_bytes": memory.room}
        so_far = ", without a full batch" if measured.batch_fits is None else ""
        what = f"an actor takes {decimal(memory.peak)} of the {decimal(memory.room)} that it may on {memory.device}"
        what += so_far
        if memory.peak <= _MEMORY_SHARE * memory.room:
            yield Finding("memory", "ok", what, numbers)
        else:
            state = "warn" if memory.peak <= memory.room else "fail"
            mend = "lower --batch-size, or the actors on one node, or give each more with --gpus-per-actor"
            yield Finding("memory", state, f"{what}: {mend}", numbers)


def _store(measured: Probe, workers: int, actors: int, store: int) -> Finding:
    """Ray holds back workers whose batches nobody takes; each has two in hand, and each actor takes two ahead."""
    under_way = 2 * (workers + actors) * measured.batch_bytes
    what = (
        f"batches of {decimal(measured.batch_bytes)}; {decimal(under_way)} under way, the object store has "
        f"{decimal(store)}"
    )
    numbers = {"batch_bytes": measured.batch_bytes, "store_bytes": store}
    if under_way <= _STORE_SHARE * store:
        return Finding("object store", "ok", what, numbers)
    return Finding("object store", "warn", f"{what}: lower --batch-size, or give Ray a larger one", numbers)


def _throughput(measured: Probe, workers: int, time_needed: Estimate, stopped: str | None = None) -> Finding:
    actor, n = 1 / measured.score_seconds, _count(measured.scored, "sample")
    threads = _count(measured.threads, "thread")
    what = (
        f"measured on {n} of {measured.tokens:,.0f} tokens on {measured.node}: an actor with {threads} scores "
        f"{_rate(actor)} a second ({actor * measured.tokens:,.0f} tokens), a worker prepares "
        f"{_rate(1 / measured.prepare_seconds)}"
    )
    if stopped is not None:
        what = f"{stopped}; {what}"
    numbers = {
        "actor_samples_per_second": actor,
        "worker_samples_per_second": 1 / measured.prepare_seconds,
        "tokens_per_sample": measured.tokens,
    }
    if measured.unfit:
        bad = f"{len(measured.unfit)} of {len(measured.unfit) + measured.samples} samples would be quarantined"
        return Finding("throughput", "warn", f"{what}; {bad}, which is what to mend: {measured.unfit[0]}", numbers)
    if time_needed.actors_wait:
        more = f"the actors wait for their {workers} workers: give more CPUs and --prepare-workers"
        return Finding("throughput", "warn", f"{what}; {more}", numbers)
    return Finding("throughput", "ok", what, numbers)


def _rate(rate: float) -> str:
    """A rate with digits that say something, also where one sample takes minutes."""
    return f"{rate:,.1f}" if rate >= 1 else f"{rate:.2g}"


def _time(plan: Plan, time_needed: Estimate, workers: int, price: float | None, notes: Sequence[str] = ()) -> Finding:
    numbers = {
        "samples": time_needed.samples,
        "seconds": time_needed.seconds,
        "samples_per_second": time_needed.samples_per_second,
        "gpu_hours": time_needed.gpu_hours,
    }
    actors = plan.job.resources.actors
    what = (
        f"about {timedelta(seconds=ceil(time_needed.seconds))} of work for {_count(time_needed.samples, 'sample')} "
        f"with {_count(actors, 'actor')} and {_count(workers, 'worker')} that prepare "
        f"({_rate(time_needed.samples_per_second)} samples/s)"
    )
    what = "; ".join([what, *notes])
    if time_needed.gpu_hours:
        what += f"; {time_needed.gpu_hours:,.2f} GPU hours"
    if price is not None:
        numbers["cost"] = time_needed.gpu_hours * price
        cost = (
            f"{numbers['cost']:,.2f} at {price:g} for each" if time_needed.gpu_hours else "no GPU is used, so no cost"
        )
        what += f"; {cost}"
    return Finding("time", "ok", what, numbers)
