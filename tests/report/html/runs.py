"""Runs to report on, made without a model: a table of samples, and a manifest with the scores that a test wants."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from upath import UPath

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
from curate.manifest.rows import QuarantineRow, ScoredRow, quarantine_table, scored_table
from curate.manifest.weights import write_weights
from curate.sample import content_id

METRICS = ["cosine", "l0"]


class Sample(NamedTuple):
    """What a test says of a sample."""

    question: str
    image: bytes
    chosen: str = "a chosen answer"
    rejected: str = "a rejected answer"
    label: str | None = None
    scores: tuple[float, ...] | None = None  # by default falling with the row
    text_tokens: int = 20
    features: tuple[tuple[int, float], ...] = ((3, 0.5), (1, -0.25))


def png(colour: tuple[int, int, int] = (200, 30, 30), size: int = 24, kind: str = "PNG") -> bytes:
    """An image of two halves: above the colour, below its opposite, so that it has something to hash."""
    image = Image.new("RGB", (size, size), colour)
    red, green, blue = colour
    image.paste((255 - red, 255 - green, 255 - blue), (0, size // 2, size, size))
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def write_run(
    folder: Path,
    samples: Sequence[Sample],
    quarantined: Sequence[QuarantineRow] = (),
    metrics: Sequence[str] = METRICS,
    data: Path | None = None,
    **changes: Any,
) -> UPath:
    """A run over a table of these samples; `changes` are fields of its record."""
    data = data or folder.parent / f"{folder.name}-data.parquet"
    columns = ("question", "image", "chosen", "rejected")
    schema = pa.schema([(name, pa.binary() if name == "image" else pa.string()) for name in columns])
    pq.write_table(
        pa.Table.from_pylist([{name: getattr(each, name) for name in columns} for each in samples], schema), data
    )
    rows = []
    for row, each in enumerate(samples):
        scores = each.scores or tuple(float(len(samples) - row) for _ in metrics)
        name = content_id(each.question, each.image, each.chosen, each.rejected)
        by_metric = dict(zip(metrics, scores, strict=True))
        features = list(each.features)
        rows.append(ScoredRow(name, row, by_metric, each.text_tokens, 40, False, 0, each.label, features))
    return write_rows(folder, scored_table(rows, metrics), quarantined, metrics, {"name": str(data)}, **changes)


def write_rows(
    folder: Path,
    rows: pa.Table,
    quarantined: Sequence[QuarantineRow] = (),
    metrics: Sequence[str] = METRICS,
    dataset: dict[str, Any] | None = None,
    **changes: Any,
) -> UPath:
    """A run of these rows of `scored_schema`."""
    folder.mkdir(parents=True)
    run = UPath(folder)
    parts = {"shard.parquet": rows}
    if quarantined:
        failed = [rows.schema.empty_table(), quarantine_table(quarantined)]
        parts["failed.parquet"] = pa.concat_tables(failed, promote_options="default")
    shards = [run / name for name in parts]
    for shard, part in zip(shards, parts.values(), strict=True):
        write_batches(shard, part.schema, [part])
    totals = write_manifest(run, metrics, shards)
    for each in shards:
        each.unlink()
    files = {
        name: FileRecord(sha256=file_sha256(run / name), bytes=(run / name).stat().st_size)
        for name in (MANIFEST, QUARANTINE)
    }
    read = totals.scored + totals.quarantined
    counts = Counts(selected=read, read=read, features=8, **vars(totals))
    facts = {
        "package_version": "0",
        "status": "complete",
        "started": "2026-01-01T00:00:00+00:00",
        "arguments": {
            "dataset": dataset or {"name": "/nowhere/at/all.parquet"},
            "model": {"name": "demo"},
            "sae": "demo",
        },
        "metrics": list(metrics),
        "hashes": Hashes(dataset="d" * 64, model="m" * 64, sae="s" * 64, weights=None),
        "hook_layer": 2,
        "delta": 1.0,
        "top_k": 2,
        "batch_size": 3072,
        "device": "cpu",
        "dtype": "float32",
        "versions": {},
        "counts": counts,
        "timings": {},
        "throughput": {},
        "notes": [],
        "shards": ShardsRecord(count=1, kept=0, sha256="0" * 64),
        "files": files,
    }
    write_record(run, RunRecord.model_validate({**facts, **changes}))
    return run


# Of eight features: on text and image, on text, on image, on neither; the last two have no weight.
WEIGHTS = torch.tensor([0.5, -0.25, 0.75, 0.125, 0.25, 0.375, 0.0, 0.0], dtype=torch.float64)
TEXT_PEAKS = torch.tensor([2.0, 2.0, 0.5, 0.5, 3.0, 1.0, 4.0, 0.0])
IMAGE_PEAKS = torch.tensor([2.0, 0.5, 2.0, 0.5, 3.0, 1.5, 0.0, 0.0])
LIVE = {"cross_modal": [0, 4], "text_only": [1, 6], "image_only": [2, 5], "inactive": 2}


def add_weights(run: UPath) -> None:
    """Feature weights of eight features, K = 2, each strongest token twice as strong as the other."""
    places = {
        name: (
            torch.zeros(8, 2, dtype=torch.int64),
            torch.zeros(8, 2, dtype=torch.int64),
            torch.stack([peaks / 2, peaks], dim=1),
        )
        for name, peaks in (("text", TEXT_PEAKS), ("image", IMAGE_PEAKS))
    }
    facts = {"model_sha256": "m", "sae_sha256": "s", "dataset_sha256": "d", "hook_layer": 2, "text": "prompt+chosen"}
    write_weights(
        run / "weights", WEIGHTS, WEIGHTS != 0, places, rule="per-modality", top_k=2, seed=0, samples=5, **facts
    )


def of_weights() -> Hashes:
    """The hashes of a run that has feature weights."""
    return Hashes(dataset="d" * 64, model="m" * 64, sae="s" * 64, weights="w" * 64)
