"""A scored run of demo samples and a selection from it, made without a model and without Ray."""

from pathlib import Path

import pyarrow as pa

from curate.datasets import DatasetSpec, open_dataset
from curate.fingerprint import file_sha256
from curate.manifest.atomic import write_batches
from curate.manifest.rank import write_manifest
from curate.manifest.record import (
    MANIFEST,
    QUARANTINE,
    Counts,
    FileRecord,
    Hashes,
    RunRecord,
    ShardsRecord,
    write_record,
)
from curate.manifest.rows import QUARANTINE_SCHEMA, ScoredRow, scored_schema, scored_table
from curate.manifest.select import SelectJob, select
from curate.models import ModelSpec
from curate.training.fit import Step
from curate.training.job import TrainJob
from curate.training.plan import plan
from curate.training.train import TrainingRecord, train

METRICS = ["random"]
PARAMETERS = {
    "batch_size": 2,
    "gradient_accumulation_steps": 2,
    "lr": 5e-4,
    "lr_warm_up_steps": 0,
    "epochs": 1,
    "evaluate_every": 2,
    "checkpoint_every": 2,
}


def scored_run(folder: Path, dataset: DatasetSpec) -> Path:
    """A run whose manifest ranks the rows by a number that has no order among them."""
    opened = open_dataset(dataset)
    rows = [
        ScoredRow(str(sample_id), row, {"random": (row * 7919 % 101) / 101}, 10, 20, False, 0, None, [])
        for row, sample_id in opened.sample_ids(range(len(opened)))
    ]
    folder.mkdir(parents=True)
    shard = folder / "shard.parquet"
    write_batches(shard, scored_schema(METRICS), [scored_table(rows, METRICS)])
    write_manifest(folder, METRICS, [shard])
    write_batches(folder / QUARANTINE, QUARANTINE_SCHEMA, [pa.Table.from_pylist([], schema=QUARANTINE_SCHEMA)])
    shard.unlink()
    files = {
        name: FileRecord(sha256=file_sha256(folder / name), bytes=(folder / name).stat().st_size)
        for name in (MANIFEST, QUARANTINE)
    }
    n = len(rows)
    counts = {name: 0 for name in Counts.model_fields if name != "quarantined_by_error"}
    record = {
        "package_version": "0",
        "status": "complete",
        "started": "2026-01-01T00:00:00+00:00",
        "arguments": {"dataset": dataset.model_dump(mode="json"), "model": {"name": "demo"}},
        "metrics": METRICS,
        "hashes": Hashes(dataset=opened.fingerprint(), model="m", sae="s", weights=None),
        "hook_layer": 2,
        "delta": 1.0,
        "top_k": 5,
        "batch_size": 3072,
        "device": "cpu",
        "dtype": "float32",
        "versions": {},
        "counts": {**counts, "selected": n, "read": n, "scored": n, "quarantined_by_error": {}},
        "timings": {},
        "throughput": {},
        "notes": [],
        "shards": ShardsRecord(count=1, kept=0, sha256="0"),
        "files": files,
    }
    write_record(folder, RunRecord.model_validate(record))  # type: ignore[arg-type]
    return folder


def selection(run: Path, ratio: str = "0.5") -> Path:
    folder, _ = select(SelectJob.model_validate({"run": str(run), "ratio": ratio}))
    return Path(str(folder))


def job(data: Path, output: Path, method: str = "sft", **changes) -> TrainJob:
    fields = {"method": method, "data": str(data), "output": str(output), "model": ModelSpec(name="demo", device="cpu")}
    parameters = PARAMETERS | changes.pop("parameters", {})
    return TrainJob.model_validate({**fields, **changes, "parameters": parameters})


def run_job(the_job: TrainJob, report=lambda step: None, overwrite: bool = False) -> TrainingRecord:
    return train(plan(the_job), report, overwrite)


def steps_until(done: int, act):
    """A report that acts after a step."""

    def report(step: Step) -> None:
        if (step.stage, step.done) == ("train", done):
            act()

    return report
