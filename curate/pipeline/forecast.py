"""What a trial says of a run: memory, speed, time, cost, and how well the SAE fits."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from math import ceil

from rich.filesize import decimal

from curate.errors import first_line
from curate.manifest.record import SAERecord
from curate.pipeline.cost import DEVICES, UTILISATION, gpu_hours
from curate.pipeline.estimate import Estimate, estimate
from curate.pipeline.finding import Finding, counted, failed
from curate.pipeline.plan import Plan
from curate.pipeline.probe import Probe
from curate.pipeline.resources import FEWER
from curate.pipeline.trial import Outcome

# The paper ranks about this many; computed costs name them beside the run's own.
PAPER_SAMPLES = 40_000
# Above these, warn: longer samples need more memory, and others use the store too.
_MEMORY_SHARE, _STORE_SHARE = 0.9, 0.5


def forecast(
    plan: Plan,
    outcome: Outcome,
    workers: int,
    store: int | None,
    samples: int,
    weighed: bool,
    price: float | None,
    limit: float,
) -> Iterator[Finding]:
    """What a trial found; where it did not measure a GPU, what GPUs are computed to take.

    Args:
        workers: how many would prepare.
        store: bytes of Ray's object store; None without Ray.
        samples: how many are to be scored.
        weighed: whether the run has its feature weights already.
        price: of a GPU hour.
        limit: seconds after which the trial was stopped.
    """
    seen = outcome.seen
    if seen is not None and seen.memory:
        yield from _memory(plan, seen, store is None)
    if outcome.error is not None:
        yield _ended(seen, outcome.error, outcome.killed, store is None)
    elif seen is None or not seen.scored:
        what = f"{_stopped(seen, limit)}, so nothing was measured: give it more with --trial-seconds"
        yield Finding("throughput", "warn", what)
    else:
        cores = os.cpu_count() if plan.job.resources.cluster is None else None
        measured, notes = _whole(plan, seen, weighed)
        time_needed = estimate(plan, measured, samples, workers, cores)
        if store is not None:
            yield _store(measured, workers, plan.job.resources.actors, store)
        yield _throughput(measured, workers, time_needed, _stopped(seen, limit) if outcome.stopped else None)
        yield _time(plan, time_needed, workers, price, notes)
    if seen is not None and seen.sae is not None:
        yield _fit(plan, seen.sae)
    if seen is not None and seen.tokens and (plan.device == "cpu" or not seen.scored):
        yield _computed(plan, seen, samples, weighed, price)


def _fit(plan: Plan, sae: SAERecord) -> Finding:
    """How well the SAE fits; a poor fit stops the run."""
    what = f"the SAE {sae.summary}"
    what = what if sae.reading is None else f"{what}; {sae.reading}"
    if not sae.poor:
        return Finding("SAE's fit", "ok", what)
    more = f"see curate saes --model {plan.job.model.name}"
    if plan.job.allow_poor_fit:
        return Finding("SAE's fit", "warn", f"{what}; {more}")
    return Finding("SAE's fit", "fail", f"{what}; {more}, or score all the same with --allow-poor-fit")


def _ended(seen: Probe | None, error: Exception, killed: bool, local: bool) -> Finding:
    """Why a trial ended by itself."""
    if not killed:
        return failed("throughput", error)
    doing = "starting" if seen is None else seen.doing
    what = f"the process that tried it was killed while {doing}; probably it ran out of memory"
    remedy = "lower --batch-size, or take a machine with more memory" if local else f"{FEWER}, or --batch-size"
    return Finding("throughput", "fail", f"{what} ({first_line(error)}): {remedy}")


def _stopped(seen: Probe | None, limit: float) -> str:
    """What a trial had done when its limit stopped it."""
    if seen is None:
        return f"the trial did not start within {limit:g} seconds"
    parts = [] if seen.load_seconds is None else [f"loaded the model in {seen.load_seconds:.0f} s"]
    if seen.scored:
        parts.append(f"{seen.scored} of {counted(seen.samples, 'sample')} scored")
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
            *others, last = (f"{found * price:,.2f}" for found in hours.values())
            takes += f" ({', '.join(others)} and {last} at {price:g} an hour)"
        parts.append(f"{counted(count, 'sample')}: {takes}")
    what = f"of {seen.tokens:,.0f} tokens each, at {UTILISATION:.0%} of a device's peak, not measured"
    return Finding("computed GPU hours", "ok", f"{'; '.join(parts)}; {what}", numbers)


def _memory(plan: Plan, measured: Probe, local: bool) -> Iterator[Finding]:
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
            more = "take a machine with more"
            if not local:
                more = "the actors on one node, or give each more with --gpus-per-actor"
            remedy = f"lower --batch-size, or {more}"
            yield Finding("memory", state, f"{what}: {remedy}", numbers)


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
    actor, n = 1 / measured.score_seconds, counted(measured.scored, "sample")
    threads = counted(measured.threads, "thread")
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
        return Finding("throughput", "warn", f"{what}; {bad}; fix these first: {measured.unfit[0]}", numbers)
    if time_needed.actors_wait:
        more = f"the actors wait for {counted(workers, 'worker')}: give more CPUs and --prepare-workers"
        return Finding("throughput", "warn", f"{what}; {more}", numbers)
    return Finding("throughput", "ok", what, numbers)


def _rate(rate: float) -> str:
    """A rate with digits that say something, also where one sample takes minutes."""
    return f"{rate:,.1f}" if rate >= 1 else f"{rate:.2g}"


def _clock(seconds: int) -> str:
    return str(timedelta(seconds=seconds))


def _time(plan: Plan, time_needed: Estimate, workers: int, price: float | None, notes: Sequence[str] = ()) -> Finding:
    numbers = {
        "samples": time_needed.samples,
        "seconds": time_needed.seconds,
        "weights_seconds": time_needed.weights_seconds,
        "samples_per_second": time_needed.samples_per_second,
        "gpu_hours": time_needed.gpu_hours,
    }
    actors = plan.job.resources.actors
    # Whole seconds first, so that the parts add up.
    weights = ceil(time_needed.weights_seconds)
    scores = ceil(time_needed.seconds - time_needed.weights_seconds)
    parts = [f"{_clock(scores)} for scores of {counted(time_needed.samples, 'sample')}"]
    if weights:
        weighed = counted(time_needed.weight_samples, "sample")
        parts.insert(0, f"{_clock(weights)} for feature weights of {weighed}")
    what = (
        f"about {_clock(weights + scores)} of work: {' + '.join(parts)} "
        f"({_rate(time_needed.samples_per_second)} samples/s), with {counted(actors, 'actor')}, and "
        f"{counted(workers, 'worker')} preparing"
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
