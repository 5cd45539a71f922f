"""The scoring run: read → prepare on CPU workers → score on actors → shards → manifest."""

import contextlib
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import torch
from ray.exceptions import RayError

from curate import __version__
from curate.datasets import Dataset
from curate.errors import ConfigurationError, CurateError, RunStopped
from curate.fingerprint import file_sha256
from curate.manifest.rank import SHARD_NAME, write_manifest, write_shard
from curate.manifest.record import (
    MANIFEST,
    QUARANTINE,
    RUN_FILE,
    SHARDS_FOLDER,
    WEIGHTS_FOLDER,
    Counts,
    FileRecord,
    Hashes,
    RunRecord,
    write_record,
)
from curate.manifest.weights import WEIGHTS_FILE, WEIGHTS_RECORD, WeightsRecord, weights_folder, write_weights
from curate.pipeline.cluster import local_or_remote_ray
from curate.pipeline.job import Plan, ScoreJob, plan
from curate.pipeline.workers import PrepareWorker, ScoreActor, WeightsActor, check, from_bytes


@dataclass(frozen=True)
class Progress:
    """How far a stage is: `weights` or `score`."""

    stage: str
    done: int
    total: int
    tokens: int = 0
    quarantined: int = 0


Report = Callable[[Progress], None]


def score(job: ScoreJob, report: Report, announce: Callable[[Plan], None], overwrite: bool = False) -> RunRecord:
    """Execute a scoring run and write its folder.

    Args:
        report: called as samples are done.
        announce: called once with what was found, before anything is loaded.
        overwrite: replace an existing run folder.

    Raises:
        ConfigurationError, DataError: before any work is done.
        RunStopped: too many rows failed; what was scored is kept.
    """
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), _Clock()
    the_plan = plan(job)
    clock.lap("plan")
    announce(the_plan)
    run = job.output
    _check_folder(run, overwrite)
    error_budget = job.max_error_rate * len(the_plan.dataset)
    with _one_line(run):
        with local_or_remote_ray(job, the_plan):
            _make_folder(run)
            clock.lap("start")
            weights = None
            if job.parameters.needs_weights:
                weights = _weights(the_plan, run, report)
                clock.lap("weights")
            failed = _score_ranges(the_plan, run, report, error_budget)
            clock.lap("score")
        manifest, quarantine = write_manifest(run, job.parameters.metrics)
        clock.lap("rank")
        record = _record(the_plan, run, manifest, quarantine, weights, started, clock.laps)
        write_record(run, record)
        shutil.rmtree(run / SHARDS_FOLDER)
    if failed <= error_budget and record.status != "complete":
        raise RunStopped(
            f"{record.counts.selected - record.counts.read:,} of {record.counts.selected:,} rows came back from no "
            f"worker; what was scored is in {run}"
        )
    if failed > error_budget:
        raise RunStopped(
            f"{failed:,} of {record.counts.read:,} rows read failed, more than --max-error-rate "
            f"{job.max_error_rate} of {len(the_plan.dataset):,} allows ({_commonest(record)}); "
            f"what was scored is in {run}"
        )
    return record


@contextlib.contextmanager
def _one_line(run: Path) -> Iterator[None]:
    """Failures of Ray, of a worker or of the disk, as an error of ours that says where the work so far is."""
    try:
        yield
    except (RayError, OSError) as error:
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, CurateError):
            raise cause from error
        last = [line.strip() for line in str(cause).splitlines() if line.strip()][-1:] or [type(cause).__name__]
        advice = "; lower --batch-size" if "out of memory" in str(cause) else ""
        raise RunStopped(f"the run failed: {last[0]}{advice} (ranges committed so far are in {run})") from error


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 3)
        self._last = now


def _check_folder(run: Path, overwrite: bool) -> None:
    if not run.exists() or (run.is_dir() and not any(run.iterdir())):
        return
    if not overwrite:
        raise ConfigurationError(f"{run} exists; choose another --output, or replace it with --overwrite")
    if not _is_run(run):
        raise ConfigurationError(f"{run} is not a run folder; --overwrite replaces nothing else")


def _is_run(run: Path) -> bool:
    """Whether a folder is a run's, finished or cut off, and holds nothing else."""
    own = {RUN_FILE, MANIFEST, QUARANTINE, SHARDS_FOLDER, WEIGHTS_FOLDER, "selections"}
    if not run.is_dir() or any(path.name not in own for path in run.iterdir()):
        return False
    if (run / RUN_FILE).exists():
        return True
    shards = run / SHARDS_FOLDER
    return shards.is_dir() and all(SHARD_NAME.fullmatch(path.name) for path in shards.iterdir())


def _make_folder(run: Path) -> None:
    try:
        if run.exists():
            shutil.rmtree(run)
        (run / SHARDS_FOLDER).mkdir(parents=True)
    except OSError as error:
        raise ConfigurationError(f"--output {run} cannot be made: {error.strerror}") from error


def _prepared(the_plan: Plan, dataset: Dataset) -> ray.data.Dataset:
    """The stream of packed batches: one row a batch, made by a pool of CPU workers."""
    step = the_plan.job.shard_rows
    ranges = [{"start": start, "stop": min(start + step, len(dataset))} for start in range(0, len(dataset), step)]
    # What the scoring actors leave; `_check_resources` has seen to it that this is one CPU at least.
    free = int(ray.cluster_resources()["CPU"]) - the_plan.job.actors
    workers = min(the_plan.job.prepare_workers or max(1, free - the_plan.job.actors), free, len(ranges))
    return ray.data.from_items(ranges, override_num_blocks=len(ranges)).map_batches(
        PrepareWorker,
        fn_constructor_args=(the_plan, dataset),
        compute=ray.data.ActorPoolStrategy(size=workers),
        batch_size=1,
        num_cpus=1,
    )


def _weights(the_plan: Plan, run: Path, report: Report) -> WeightsRecord:
    """Compute feature weights over a seeded sample of the data, or copy those to reuse; write `weights/`."""
    job = the_plan.job
    if the_plan.weights is not None and job.weights is not None:
        source = weights_folder(job.weights)
        (run / WEIGHTS_FOLDER).mkdir()
        for name in (WEIGHTS_FILE, WEIGHTS_RECORD):
            shutil.copyfile(source / name, run / WEIGHTS_FOLDER / name)
        return the_plan.weights
    dataset = weight_dataset(the_plan.dataset, job.parameters.weight_samples, job.parameters.seed)
    # A second thread answers for the progress while the first computes.
    options = {"num_cpus": 1, "num_gpus": the_plan.gpus_per_actor, "max_concurrency": 2}
    actors = [WeightsActor.options(**options).remote(the_plan, dataset.rows) for _ in range(job.actors)]
    splits = _prepared(the_plan, dataset).streaming_split(len(actors))
    pending = [actor.consume.remote(split) for actor, split in zip(actors, splits, strict=True)]
    while pending:
        finished, pending = ray.wait(pending, num_returns=len(pending), timeout=0.5)
        ray.get(finished)
        done = sum(ray.get([actor.progress.remote() for actor in actors]))
        report(Progress("weights", done, len(dataset)))
    first, *others = actors
    for other in others:
        ray.get(first.merge.remote(other.kept.remote()))
    weights, n_samples = ray.get(first.weights.remote(the_plan))
    for actor in actors:
        ray.kill(actor)  # type: ignore[arg-type]  # Ray's own stubs disagree
    return write_weights(
        run / WEIGHTS_FOLDER,
        weights.weight,
        weights.has_weight,
        model_sha256=the_plan.model.sha256,
        sae_sha256=the_plan.sae.sha256,
        dataset_sha256=the_plan.dataset_sha256,
        hook_layer=job.parameters.hook_layer,
        text=job.parameters.text,
        rule=job.parameters.weight_rule,
        top_k=job.parameters.top_k,
        seed=job.parameters.seed,
        samples=n_samples,
    )


def weight_dataset(dataset: Dataset, samples: int, seed: int) -> Dataset:
    """The rows that feature weights are computed from: all, or a seeded draw."""
    if samples >= len(dataset):
        return dataset
    positions = sorted(random.Random(f"weights:{seed}").sample(range(len(dataset)), samples))
    return replace(dataset, rows=[dataset.rows[position] for position in positions])


def _score_ranges(the_plan: Plan, run: Path, report: Report, error_budget: float) -> int:
    """Score every range and commit each as a shard when its last row is in; returns how many rows failed."""
    job, total = the_plan.job, len(the_plan.dataset)
    folder = str(run / WEIGHTS_FOLDER) if job.parameters.needs_weights else None
    results = _prepared(the_plan, the_plan.dataset).map_batches(
        ScoreActor,
        fn_constructor_args=(the_plan, folder),
        compute=ray.data.ActorPoolStrategy(size=job.actors),
        batch_size=None,
        num_cpus=1,
        num_gpus=the_plan.gpus_per_actor or None,
    )
    report(Progress("score", 0, total))
    open_ranges: dict[int, list[pa.Table]] = {}
    done = tokens = failed = 0
    blocks: Iterator[Any] = iter(results.iter_batches(batch_size=None, batch_format="pyarrow"))
    for block in blocks:
        for row in block.to_pylist():
            check(row["kind"], row["payload"])
            start, rows = row["start"], from_bytes(row["payload"])
            open_ranges.setdefault(start, []).append(rows)
            done += rows.num_rows
            if "error" in rows.column_names:
                failed += rows.num_rows - rows["error"].null_count
            if "n_text_tokens" in rows.column_names:
                tokens += _total(rows, "n_text_tokens")
                tokens += _total(rows, "n_image_tokens")
            _commit_if_whole(run, job, total, start, open_ranges)
        report(Progress("score", done, total, tokens, failed))
        if failed > error_budget:
            for start in list(open_ranges):
                _commit(run, start, min(start + job.shard_rows, total), open_ranges.pop(start))
            break
    return failed


def _total(rows: pa.Table, column: str) -> int:
    """Sum of a column of counts or flags, over the rows that have it."""
    return int(rows[column].drop_null().to_numpy().sum())


def _commit_if_whole(run: Path, job: ScoreJob, total: int, start: int, open_ranges: dict[int, list[pa.Table]]) -> None:
    stop = min(start + job.shard_rows, total)
    if sum(rows.num_rows for rows in open_ranges[start]) == stop - start:
        _commit(run, start, stop, open_ranges.pop(start))


def _commit(run: Path, start: int, stop: int, tables: list[pa.Table]) -> None:
    write_shard(run, start, stop, pa.concat_tables(tables, promote_options="default"))


def _record(
    the_plan: Plan,
    run: Path,
    manifest: pa.Table,
    quarantine: pa.Table,
    weights: WeightsRecord | None,
    started: str,
    timings: dict[str, float],
) -> RunRecord:
    job, parameters = the_plan.job, the_plan.job.parameters
    read = manifest.num_rows + quarantine.num_rows
    files = {name: table.num_rows for name, table in ((MANIFEST, manifest), (QUARANTINE, quarantine))}
    names: dict[str, int | None] = {**files}
    if weights is not None:
        names |= {f"{WEIGHTS_FOLDER}/{WEIGHTS_FILE}": None, f"{WEIGHTS_FOLDER}/{WEIGHTS_RECORD}": None}
    return RunRecord(
        package_version=__version__,
        status="complete" if read == len(the_plan.dataset) else "stopped",
        started=started,
        arguments=job.model_dump(mode="json"),
        metrics=list(parameters.metrics),
        hashes=Hashes(
            dataset=the_plan.dataset_sha256,
            model=the_plan.model.sha256,
            sae=the_plan.sae.sha256,
            weights=None if weights is None else weights.sha256,
        ),
        hook_layer=parameters.hook_layer,
        delta=parameters.delta,
        top_k=parameters.top_k,
        device=torch.cuda.get_device_name() if the_plan.device == "cuda" else the_plan.device,
        dtype=str(the_plan.dtype).removeprefix("torch."),
        versions={name: version(name) for name in ("torch", "transformers", "ray", "pyarrow")},
        counts=Counts(
            selected=len(the_plan.dataset),
            read=read,
            scored=manifest.num_rows,
            quarantined=quarantine.num_rows,
            quarantined_by_error={
                entry["values"]: entry["counts"] for entry in quarantine["error"].value_counts().to_pylist()
            },
            near_delta=_total(manifest, "near_delta"),
            near_switch=int((manifest["near_switch"].to_numpy() > 0).sum()),
            text_tokens=_total(manifest, "n_text_tokens"),
            image_tokens=_total(manifest, "n_image_tokens"),
            features=the_plan.sae.d_sae,
            features_without_weight=None if weights is None else weights.features_without_weight,
        ),
        timings=timings,
        notes=list(the_plan.notes),
        files={
            name: FileRecord(sha256=file_sha256(run / name), bytes=(run / name).stat().st_size, rows=rows)
            for name, rows in names.items()
        },
    )


def _commonest(record: RunRecord) -> str:
    by_error = sorted(record.counts.quarantined_by_error.items(), key=lambda entry: -entry[1])
    return ", ".join(f"{count:,} {error}" for error, count in by_error[:3])
