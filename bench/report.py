"""Time, memory and size of the report of a run: `python -m bench.report --rows 100000 1000000`.

Scores are random but for the first metric, which falls with the row, so that it is known which samples are shown and
looked at for copies: these are the demo world's, and their texts and images are read. Feature weights are random, of an
SAE of 65,536 features. Each report is written by a process of its own, so that the peak memory is its own.
"""

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from upath import UPath

from curate.datasets import DatasetSpec, open_dataset
from curate.fingerprint import file_sha256
from curate.manifest.atomic import write_batches
from curate.manifest.rank import with_rank
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
from curate.manifest.rows import QUARANTINE_SCHEMA, manifest_schema, scored_schema
from curate.manifest.weights import write_weights

METRICS = ("cosine", "cooccurrence", "l0", "random", "loglik")
TOP_FEATURES, FEATURES, CHUNK = 10, 65_536, 100_000
LABELS = ("clean", "swapped image", "blank image", "noise image")
RATIO, BEST, GALLERY = 5, 2_000, 8  # the cut is after a fifth of the rows


def make_run(run: UPath, rows: int) -> None:
    """Write a run folder."""
    spec = DatasetSpec(limit=rows)
    cut = rows // RATIO
    shown = {*range(min(BEST, rows)), *range(max(0, cut - GALLERY), min(rows, cut + GALLERY))}
    shown |= set(range(max(0, rows - GALLERY), rows))
    ids = dict(open_dataset(spec).sample_ids(sorted(shown)))
    write_batches(run / MANIFEST, manifest_schema(METRICS), _tables(rows, ids))
    reasons = (QUARANTINE_SCHEMA.empty_table(), _quarantined(rows // 100, rows))
    write_batches(run / QUARANTINE, QUARANTINE_SCHEMA, reasons)
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(FEATURES, generator=rng, dtype=torch.float64) / 4
    places = {
        name: (
            torch.zeros(FEATURES, 5, dtype=torch.int64),
            torch.zeros(FEATURES, 5, dtype=torch.int64),
            torch.rand(FEATURES, 5, generator=rng) * 3,
        )
        for name in ("text", "image")
    }
    facts = {
        "model_sha256": "",
        "sae_sha256": "",
        "dataset_sha256": "",
        "text": "prompt+chosen",
        "rule": "per-modality",
    }
    numbers = {"hook_layer": 16, "top_k": 5, "seed": 0, "samples": 1_000}
    write_weights(run / "weights", weight, weight > -0.5, places, **facts, **numbers)
    files = {
        name: FileRecord(sha256=file_sha256(run / name), bytes=(run / name).stat().st_size)
        for name in (MANIFEST, QUARANTINE)
    }
    lost = rows // 100
    counts = {"selected": rows + lost, "read": rows + lost, "scored": rows, "quarantined": lost, "features": FEATURES}
    zeros = dict.fromkeys(("near_delta", "near_switch", "text_tokens", "image_tokens"), 0)
    write_record(
        run,
        RunRecord(
            package_version="0",
            status="complete",
            started="2026-01-01T00:00:00+00:00",
            arguments={"dataset": spec.model_dump(mode="json"), "model": {"name": "random"}, "sae": "random"},
            metrics=list(METRICS),
            hashes=Hashes(dataset="", model="", sae="", weights="random"),
            hook_layer=16,
            delta=1.0,
            top_k=5,
            batch_size=8192,
            device="none",
            dtype="none",
            versions={},
            counts=Counts(**counts, **zeros, quarantined_by_error={"CorruptImage": lost}),
            timings={},
            throughput={},
            notes=[],
            shards=ShardsRecord(count=0, kept=0, sha256=""),
            files=files,
        ),
    )


def _tables(rows: int, ids: dict[int, str | None]) -> Iterator[pa.Table]:
    """Rows of the manifest, best first."""
    rng = np.random.default_rng(0)
    schema = scored_schema(METRICS)
    for start in range(0, rows, CHUNK):
        n = min(CHUNK, rows - start)
        names = np.frombuffer(rng.bytes(16 * n).hex().encode(), dtype="S32").astype(str)
        for row in ids.keys() & range(start, start + n):
            names[row - start] = ids[row]
        offsets = pa.array(np.arange(0, n * TOP_FEATURES + 1, TOP_FEATURES, dtype=np.int32))
        features = rng.zipf(1.3, n * TOP_FEATURES) % FEATURES
        parts = [pa.array(features, pa.int32()), pa.array(rng.random(n * TOP_FEATURES))]
        columns = [
            names,
            np.arange(start, start + n),
            (rows - np.arange(start, start + n)) / rows,
            rng.integers(0, 300, n).astype(float),
            rng.gamma(4.0, 10.0, n),
            rng.random(n),
            -rng.gamma(2.0, 1.0, n),
            rng.integers(20, 400, n, dtype=np.int32),
            rng.integers(576, 2900, n, dtype=np.int32),
            np.zeros(n, bool),
            np.zeros(n, np.int32),
            rng.choice(LABELS, n),
            pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(parts, names=["feature", "contribution"])),
        ]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        yield with_rank(pa.Table.from_arrays(arrays, schema=schema), METRICS[0], start + 1)


def _quarantined(lost: int, rows: int) -> pa.Table:
    columns = [
        pa.array(np.arange(rows, rows + lost)),
        pa.nulls(lost, pa.string()),
        pa.array(["decode"] * lost),
        pa.array(["CorruptImage"] * lost),
        pa.array([f"image file is truncated ({row} bytes not processed)" for row in range(lost)]),
    ]
    return pa.Table.from_arrays(columns, schema=QUARANTINE_SCHEMA)


def _measure(run: UPath, compared: bool, by: str | None) -> tuple[float, int, int]:
    """Seconds of the whole command, peak memory and size of the page in bytes."""
    page = Path(str(run)) / "report.html"
    options = ["--overwrite", "--output", str(page), *(["--by", by] if by else [])]
    runs = [str(run)] * (2 if compared else 1)
    begun = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-m", "bench.report", "--child", "report", *runs, *options], capture_output=True, text=True
    )
    seconds = time.perf_counter() - begun
    if result.returncode:
        raise SystemExit(result.stderr)
    return seconds, int(result.stdout.split()[-1]) * 1024, page.stat().st_size


def _child(arguments: list[str]) -> None:
    from curate.cli.main import app

    app(arguments, standalone_mode=False)
    status = Path("/proc/self/status").read_text()
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def main() -> None:
    """Print the table."""
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="Where runs go for the time.")
    arguments = parser.parse_args()
    packages = ("pyarrow", "numpy", "matplotlib", "jinja2", "scikit-learn")
    print(f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages))
    print(f"{'rows':>12}{'':14}{'seconds':>9}{'peak MB':>9}{'page MB':>9}")
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            run = UPath(folder)
            make_run(run, rows)
            for name, compared, by in (("", False, None), ("by l0", False, "l0"), ("compared", True, None)):
                seconds, resident, size = _measure(run, compared, by)
                print(f"{rows:12,}  {name:12}{seconds:9.1f}{resident / 1e6:9,.0f}{size / 1e6:9.2f}", flush=True)


if __name__ == "__main__":
    main()
