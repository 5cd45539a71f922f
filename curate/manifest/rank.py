"""Shards in, ranked manifest and quarantine out."""

import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curate.manifest.atomic import write_table
from curate.manifest.record import MANIFEST, QUARANTINE, SHARDS_FOLDER
from curate.manifest.rows import QUARANTINE_SCHEMA, manifest_schema, scored_schema


def ranked(rows: pa.Table, metric: str) -> pa.Table:
    """The rows in order of a metric, best first, with `rank` 1..N and `score`.

    Ties are broken by `sample_id`; copies of one sample, which share it, by `source_row`.
    """
    rows = rows.sort_by([(metric, "descending"), ("sample_id", "ascending"), ("source_row", "ascending")])
    rank = pa.array(range(1, rows.num_rows + 1), pa.int64())
    names = ["rank", "score", *(name for name in rows.column_names if name not in ("rank", "score"))]
    columns = [rank, rows[metric], *(rows[name] for name in names[2:])]
    return pa.Table.from_arrays(columns, names=names)


SHARD_NAME = re.compile(r"(\.?)\d{12}-\d{12}\.parquet(\.\d+\.tmp)?")


def shard_path(run: Path, start: int, stop: int) -> Path:
    """The file of the range of positions [start, stop)."""
    return run / SHARDS_FOLDER / f"{start:012d}-{stop:012d}.parquet"


def write_shard(run: Path, start: int, stop: int, rows: pa.Table) -> None:
    """Commit a range's rows as one file: scored rows, and where `error` is not null quarantined ones."""
    write_table(shard_path(run, start, stop), rows.sort_by("source_row"))


def write_manifest(run: Path, metrics: Sequence[str]) -> tuple[pa.Table, pa.Table]:
    """Rank all committed shards by the first metric and write `manifest.parquet` and `quarantine.parquet`.

    Returns:
        both tables.
    """
    empty = [scored_schema(metrics).empty_table(), QUARANTINE_SCHEMA.empty_table()]
    shards = [pq.read_table(path) for path in sorted((run / SHARDS_FOLDER).glob("*.parquet"))]
    rows = pa.concat_tables([*empty, *shards], promote_options="permissive")
    failed = rows["error"].is_valid()
    quarantine = rows.filter(failed).select(QUARANTINE_SCHEMA.names).sort_by("source_row").cast(QUARANTINE_SCHEMA)
    scored = rows.filter(rows["error"].is_null()).select(scored_schema(metrics).names)
    manifest = ranked(scored, metrics[0]).cast(manifest_schema(metrics))
    write_table(run / MANIFEST, manifest)
    write_table(run / QUARANTINE, quarantine)
    return manifest, quarantine
