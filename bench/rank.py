"""Time, memory and disk of ranking a run's shards: `python -m bench.rank --rows 1000000`.

Each way writes a manifest in a process of its own, so that the peak memory is its own; ways are taken in turn, several
times over, and the table gives the median of seconds and the largest of the rest. DuckDB and Polars take part when
they are asked for, and must then be installed: `--ways memory external duckdb polars`.
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.fingerprint import file_sha256
from curate.manifest.atomic import write_batches
from curate.manifest.rank import rank_order, with_rank, write_manifest
from curate.manifest.record import MANIFEST, SHARDS_FOLDER
from curate.manifest.rows import manifest_schema, scored_schema
from curate.storage import location

METRICS = ("cosine", "cooccurrence", "l0", "random")
SCHEMA = scored_schema(METRICS)
TOP_FEATURES, FEATURES = 10, 65_536


def make_shards(run: Path, rows: int, shard_rows: int) -> None:
    """Write shards of seeded random rows; one in a hundred scores exactly 0, so there are ties."""
    (run / SHARDS_FOLDER).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for start in range(0, rows, shard_rows):
        n = min(shard_rows, rows - start)
        offsets = pa.array(np.arange(0, n * TOP_FEATURES + 1, TOP_FEATURES, dtype=np.int32))
        features = rng.integers(0, FEATURES, n * TOP_FEATURES, dtype=np.int32)
        contributions = rng.normal(size=n * TOP_FEATURES)
        columns = [
            np.frombuffer(rng.bytes(16 * n).hex().encode(), dtype="S32").astype(str),
            np.arange(start, start + n),
            np.where(rng.random(n) < 0.01, 0.0, rng.normal(2.0, 1.0, n)),
            rng.integers(0, 300, n).astype(float),
            rng.gamma(4.0, 10.0, n),
            rng.random(n),
            rng.integers(20, 400, n, dtype=np.int32),
            rng.integers(576, 2900, n, dtype=np.int32),
            rng.random(n) < 0.001,
            (rng.random(n) < 0.01).astype(np.int32),
            pa.nulls(n, pa.string()),
            pa.ListArray.from_arrays(
                offsets, pa.StructArray.from_arrays([features, contributions], names=["feature", "contribution"])
            ),
        ]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        table = pa.Table.from_arrays(arrays, schema=SCHEMA)
        pq.write_table(table, run / SHARDS_FOLDER / f"{start:012d}-{start + n:012d}.parquet", compression="zstd")


def _batches(shards: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    for shard in shards:
        with shard.open("rb") as file, pq.ParquetFile(file) as parquet:
            yield from parquet.iter_batches(columns=SCHEMA.names)


def _numbered(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    first = 1
    for batch in batches:
        yield with_rank(pa.Table.from_batches([batch]).cast(SCHEMA), METRICS[0], first)
        first += batch.num_rows


def _write(run: Path, tables: Iterator[pa.Table]) -> None:
    write_batches(location(str(run / MANIFEST)), manifest_schema(METRICS), tables)


def memory(run: Path, shards: Sequence[Path], threads: int) -> None:
    """The reference: everything in memory."""
    pa.set_cpu_count(threads)
    rows = pa.Table.from_batches(_batches(shards), SCHEMA).sort_by(rank_order(METRICS[0]))
    _write(run, iter([with_rank(rows, METRICS[0], 1)]))


def external(run: Path, shards: Sequence[Path], threads: int) -> None:
    """What `curate` does."""
    pa.set_cpu_count(threads)
    write_manifest(location(str(run)), METRICS, [location(str(shard)) for shard in shards])


def duckdb(run: Path, shards: Sequence[Path], threads: int, memory_limit: str = "1GB") -> None:
    """DuckDB, fed with the shards' record batches."""
    import duckdb  # pyright: ignore[reportMissingImports]

    pa.set_cpu_count(threads)
    config = {"threads": threads, "memory_limit": memory_limit, "temp_directory": str(run / ".sort")}
    order = ", ".join(f"{name} {'desc' if way == 'descending' else 'asc'}" for name, way in rank_order(METRICS[0]))
    with duckdb.connect(config=config) as connection:
        rows = pa.RecordBatchReader.from_batches(SCHEMA, _batches(shards))
        connection.register("rows", rows)
        ordered = connection.sql(f"select * from rows order by {order}").to_arrow_reader(1 << 16)
        _write(run, _numbered(iter(ordered)))


def polars(run: Path, shards: Sequence[Path], threads: int) -> None:
    """Polars, streaming, from the parquet files."""
    os.environ["POLARS_MAX_THREADS"] = str(threads)
    os.environ["POLARS_TEMP_DIR"] = str(run / ".sort")
    import polars  # pyright: ignore[reportMissingImports]

    pa.set_cpu_count(threads)
    names, ways = zip(*rank_order(METRICS[0]), strict=True)
    rows = polars.scan_parquet(shards).sort(names, descending=[way == "descending" for way in ways])
    batches = rows.collect_batches(maintain_order=True, chunk_size=1 << 16, engine="streaming")
    _write(run, _numbered(batch for frame in batches for batch in frame.to_arrow().to_batches()))


WAYS = {way.__name__: way for way in (memory, external, duckdb, polars)}


@dataclass(frozen=True)
class Result:
    """Of one process; bytes are peaks."""

    seconds: float
    resident: int
    disk: int
    sha256: str


def _measure(way: str, run: Path, threads: int) -> Result:
    start = time.perf_counter()
    command = [sys.executable, "-m", "bench.rank", "--child", way, str(run), str(threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        disk = 0
        while process.poll() is None:
            disk = max(disk, _scratch_bytes(run, process.pid))
            time.sleep(0.05)
        assert process.stdout is not None
        seconds, resident = process.stdout.read().split() if process.returncode == 0 else ("nan", "0")
    print(f"{way}: exit {process.returncode} after {time.perf_counter() - start:.1f} s", file=sys.stderr)
    sha256 = file_sha256(run / MANIFEST) if process.returncode == 0 else "failed"
    (run / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(run / ".sort", ignore_errors=True)
    return Result(float(seconds), int(resident) * 1024, disk, sha256)


def _scratch_bytes(run: Path, pid: int) -> int:
    """Disk used by `.sort`, and by the process's open files that have no name."""
    total = 0
    files = {path for path in (run / ".sort").rglob("*") if path.is_file()}
    try:
        for path in (*files, *Path(f"/proc/{pid}/fd").iterdir()):
            stat = path.stat()
            if path in files or (stat.st_nlink == 0 and stat.st_size):
                total += stat.st_blocks * 512
    except OSError:  # A file or the process went away meanwhile.
        pass
    return total


def _child(way: str, run: Path, threads: int) -> None:
    shards = sorted((run / SHARDS_FOLDER).iterdir())
    start = time.perf_counter()
    WAYS[way](run, shards, threads)
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()
    print(seconds, next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shard-rows", type=int, default=100_000)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["memory", "external"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="Where shards and temporary files go.")
    parser.add_argument("--child", nargs=3, metavar=("WAY", "RUN", "THREADS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        way, run, threads = arguments.child
        _child(way, Path(run), int(threads))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        run = Path(folder)
        make_shards(run, arguments.rows, arguments.shard_rows)
        size = sum(path.stat().st_size for path in (run / SHARDS_FOLDER).iterdir())
        print(f"{arguments.rows:,} rows in shards of {arguments.shard_rows:,}, {size / 1e6:,.0f} MB of parquet")
        packages = {"pyarrow", *arguments.ways} & {"pyarrow", "duckdb", "polars"}
        print(f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in sorted(packages)))
        cases = [(way, threads) for way in arguments.ways for threads in arguments.threads]
        results: dict[tuple[str, int], list[Result]] = {case: [] for case in cases}
        for _ in range(arguments.rounds):
            for case in cases:
                results[case].append(_measure(case[0], run, case[1]))
    print(f"{'':10}{'threads':>8}{'seconds':>9}{'peak MB':>9}{'disk MB':>9}  sha256 of the manifest")
    for (way, threads), runs in results.items():
        seconds = statistics.median(result.seconds for result in runs)
        resident, disk = (max(getattr(result, name) for result in runs) / 1e6 for name in ("resident", "disk"))
        hashes = " ".join(sorted({result.sha256[:12] for result in runs}))
        print(f"{way:10}{threads:8}{seconds:9.1f}{resident:9,.0f}{disk:9,.0f}  {hashes}")


if __name__ == "__main__":
    main()
