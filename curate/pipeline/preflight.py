"""What would go wrong with a run, found before it is paid for: data, model, SAE, output, disk, cluster, trial."""

from collections.abc import Iterator

from rich.filesize import decimal

from curate.datasets import Dataset, open_dataset, spread
from curate.errors import ConfigurationError, SampleError
from curate.manifest import fitness
from curate.manifest.ledger import read_ledger
from curate.manifest.weights import read_weights
from curate.pipeline.executor import is_local
from curate.pipeline.finding import Finding, failed, looked, tried
from curate.pipeline.folder import check_output
from curate.pipeline.forecast import forecast
from curate.pipeline.job import ScoreJob
from curate.pipeline.local import preparers
from curate.pipeline.local_trial import machine, try_here
from curate.pipeline.plan import Plan, agreeing, fitted
from curate.pipeline.trial import Limits
from curate.scoring.pair import Pair
from curate.storage import location

SAMPLES = 16
_COMMIT_SECONDS = 1.0  # above it, warn: a slow disk holds up the driver
_SHOWN_CHARACTERS = 40


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
        positions = spread(range(len(dataset)), SAMPLES)
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
        yield from _trial(plan, positions, left, weighed, price, limits)


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


def _trial(
    plan: Plan, positions: list[int], samples: int, weighed: bool, price: float | None, limits: Limits
) -> list[Finding]:
    """What the run would compute with, and what a trial of it says."""
    found, local = list[Finding](), is_local(plan, samples)
    try:
        if local:
            found += machine(plan, workers := preparers(plan, samples))
            outcome, store = try_here(plan, positions, limits), None
        else:
            from curate.pipeline.cluster_trial import try_on_cluster  # Ray is imported only where it is needed

            tried_there = try_on_cluster(plan, positions, limits, found)
            if tried_there is None:
                return found
            outcome, workers, store = tried_there
        return [*found, *forecast(plan, outcome, workers, store, samples, weighed, price, limits.seconds)]
    except Exception as error:
        return [*found, failed("throughput" if found else "machine" if local else "cluster", error)]


def _has_weights(plan: Plan) -> bool:
    try:
        read_weights(location(plan.job.output))
    except (ConfigurationError, OSError):  # there is no run yet, or no way to it, which `output` says
        return False
    return True
