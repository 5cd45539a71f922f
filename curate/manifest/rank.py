"""Shards in, ranked manifest and quarantine out, in memory that does not grow with the rows."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from curate.manifest.atomic import write_batches
from curate.manifest.record import MANIFEST, QUARANTINE
from curate.manifest.rows import QUARANTINE_SCHEMA, manifest_schema, scored_schema
from curate.manifest.sort import Order, sorted_rows
from curate.storage import local_path

READ_ROWS = 1 << 16


def rank_order(metric: str) -> Order:
    """Best first; ties by `sample_id`; copies of one sample, which share it, by `source_row`."""
    return [(metric, "descending"), ("sample_id", "ascending"), ("source_row", "ascending")]


def with_rank(rows: pa.Table, metric: str, first: int) -> pa.Table:
    """Sorted rows with `rank` from `first` on and `score` before their other columns."""
    rank = pa.array(np.arange(first, first + rows.num_rows))
    others = [name for name in rows.column_names if name not in ("rank", "score")]
    columns = [rank, rows[metric], *(rows[name] for name in others)]
    return pa.Table.from_arrays(columns, names=["rank", "score", *others])


@dataclass(frozen=True)
class Totals:
    """What the rows of a run add up to; the fields are those of `Counts`."""

    scored: int
    quarantined: int
    quarantined_by_error: dict[str, int]
    near_delta: int
    near_switch: int
    text_tokens: int
    image_tokens: int


def write_manifest(run: UPath, metrics: Sequence[str], shards: Iterable[UPath]) -> Totals:
    """Rank committed shards by the first metric and write `manifest.parquet` and `quarantine.parquet`.

    The bytes depend on the rows alone, not on how shards divide or order them. Sorting takes room for all rows: in
    the run's folder, or for a run elsewhere in the folder for temporary files.
    """
    shards, scratch = list(shards), local_path(run) or Path(gettempdir())
    scored, errors = Counter[str](), Counter[str]()
    schema = scored_schema(metrics)
    rows = sorted_rows(_rows(shards, schema, failed=False), schema, rank_order(metrics[0]), scratch)
    write_batches(run / MANIFEST, manifest_schema(metrics), _numbered(rows, metrics[0], scored))
    rows = _rows(shards, QUARANTINE_SCHEMA, failed=True)
    rows = sorted_rows(rows, QUARANTINE_SCHEMA, [("source_row", "ascending")], scratch)
    write_batches(run / QUARANTINE, QUARANTINE_SCHEMA, _counted(rows, errors))
    names = ("near_delta", "near_switch", "text_tokens", "image_tokens")
    return Totals(
        scored=scored["rows"],
        quarantined=errors.total(),
        quarantined_by_error=dict(sorted(errors.items())),
        **{name: scored[name] for name in names},
    )


def _rows(shards: Iterable[UPath], schema: pa.Schema, failed: bool) -> Iterator[pa.Table]:
    """The scored rows of shards, or those that failed: where `error`, if the shard has it, is not null."""
    columns = list({*schema.names, "error"})
    for shard in shards:
        with shard.open("rb") as file, pq.ParquetFile(file) as parquet:
            mixed = "error" in parquet.schema_arrow.names
            if failed and not mixed:
                continue
            # Without threads: for a few hundred rows, handing columns to them takes longer than reading.
            for batch in parquet.iter_batches(READ_ROWS, columns=columns, use_threads=False):
                rows = pa.Table.from_batches([batch])
                if mixed:
                    rows = rows.filter(rows["error"].is_valid() if failed else rows["error"].is_null())
                if rows.num_rows:
                    yield rows.select(schema.names)


def _counted(tables: Iterable[pa.Table], errors: Counter[str]) -> Iterator[pa.Table]:
    """Quarantined rows; the classes of their errors are added to `errors`."""
    for rows in tables:
        errors.update(rows["error"].to_pylist())
        yield rows


def _numbered(tables: Iterable[pa.Table], metric: str, totals: Counter[str]) -> Iterator[pa.Table]:
    """Sorted rows as those of the manifest; what they add up to is added to `totals`."""
    for rows in tables:
        yield with_rank(rows, metric, totals["rows"] + 1)
        totals["rows"] += rows.num_rows
        totals["near_delta"] += int(rows["near_delta"].to_numpy().sum())
        totals["near_switch"] += int((rows["near_switch"].to_numpy() > 0).sum())
        totals["text_tokens"] += int(rows["n_text_tokens"].to_numpy().sum())
        totals["image_tokens"] += int(rows["n_image_tokens"].to_numpy().sum())
