"""Is a run folder what its record says? Every promise of the contract, checked from the files alone."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from curate.errors import DataError, first_line
from curate.fingerprint import file_sha256
from curate.manifest.ledger import is_whole, ledger_sha256, read_ledger
from curate.manifest.rank import READ_ROWS, rank_order, with_rank
from curate.manifest.record import MANIFEST, QUARANTINE, RunRecord, read_record
from curate.manifest.rows import QUARANTINE_SCHEMA, manifest_schema, scored_schema


@dataclass(frozen=True)
class Check:
    """One promise: kept or not, and what was found."""

    name: str
    ok: bool
    detail: str


def read_table(run: UPath, name: str) -> pa.Table:
    """A parquet file of the run.

    Raises:
        DataError: missing or damaged.
    """
    with _readable(run / name), (run / name).open("rb") as file:
        return pq.read_table(file)


def read_tables(run: UPath, name: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a parquet file of the run, or some of their columns, `READ_ROWS` at a time; errors as above."""
    # Buffering ahead, which is the default, would end up with the whole file in memory.
    with _readable(run / name), (run / name).open("rb") as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
        for batch in parquet.iter_batches(READ_ROWS, columns=columns):
            yield pa.Table.from_batches([batch])


@contextlib.contextmanager
def _readable(path: UPath) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}") from error


def verify_run(run: UPath) -> list[Check]:
    """Check checksums, schema, counts, ranks and values of a run folder.

    Raises:
        DataError: there is no readable `run.json`.
    """
    record = read_record(run)
    checks = [*_files(run, record), _shards(run, record)]
    try:
        schemas = [
            _schema(run, MANIFEST, manifest_schema(record.metrics)),
            _schema(run, QUARANTINE, QUARANTINE_SCHEMA),
        ]
        checks += [Check("complete", record.status == "complete", f"the run is {record.status}"), *schemas]
        if all(check.ok for check in schemas):
            checks += [_counts(run, record), _once(run), _ranks(run, record), _values(run, record)]
    except DataError as error:
        checks.append(Check("tables", False, str(error)))
    return checks


def _files(run: UPath, record: RunRecord) -> list[Check]:
    checks = []
    for name, expected in record.files.items():
        path = run / name
        if not path.resolve().is_relative_to(run.resolve()) or not path.is_file():
            checks.append(Check(f"checksum {name}", False, "missing"))
        else:
            same = file_sha256(path) == expected.sha256
            checks.append(Check(f"checksum {name}", same, "matches run.json" if same else "differs from run.json"))
    return checks


def _shards(run: UPath, record: RunRecord) -> Check:
    shards = list(read_ledger(run).values())
    damaged = [shard.name for shard in shards if not is_whole(run, shard)]
    again = f"; curate score --resume {run} scores what is missing again"
    if damaged:
        return Check("shards", False, f"{len(damaged):,} of {len(shards):,} damaged ({', '.join(damaged[:3])}){again}")
    if ledger_sha256(shards) != record.shards.sha256:
        return Check("shards", False, f"the ledger is not the one that was ranked{again}")
    return Check("shards", True, f"{len(shards):,} as committed")


def _schema(run: UPath, name: str, expected: pa.Schema) -> Check:
    with _readable(run / name), (run / name).open("rb") as file:
        found = pq.read_schema(file)
    ok = found.equals(expected)
    wrong = [field.name for field in expected if field.name not in found.names or found.field(field.name) != field]
    wrong += [column for column in found.names if column not in expected.names]
    detail = f"{len(expected)} columns" if ok else f"differs in {', '.join(wrong) or 'the order of columns'}"
    return Check(f"schema {name}", ok, detail)


def _counts(run: UPath, record: RunRecord) -> Check:
    counts = record.counts
    names = ("n_text_tokens", "n_image_tokens")
    scored, tokens, by_error = 0, Counter[str](), Counter[str]()
    for rows in read_tables(run, MANIFEST, list(names)):
        scored += rows.num_rows
        tokens.update({name: int(rows[name].drop_null().to_numpy().sum()) for name in names})
    for rows in read_tables(run, QUARANTINE, ["error"]):
        by_error.update(rows["error"].to_pylist())
    quarantined = by_error.total()
    ok = (
        (scored, quarantined) == (counts.scored, counts.quarantined)
        and scored + quarantined == counts.read
        and (counts.read == counts.selected or record.status != "complete")
        and by_error == counts.quarantined_by_error
        and [tokens[name] for name in names] == [counts.text_tokens, counts.image_tokens]
    )
    return Check("counts", ok, f"{scored:,} scored + {quarantined:,} quarantined, {counts.read:,} read")


def _once(run: UPath) -> Check:
    """Holds 8 bytes a row, twice over while they are sorted."""
    tables = (rows for name in (MANIFEST, QUARANTINE) for rows in read_tables(run, name, ["source_row"]))
    found = np.concatenate([np.empty(0, np.int64), *(rows["source_row"].drop_null().to_numpy() for rows in tables)])
    found.sort()
    distinct = len(found) - int((found[1:] == found[:-1]).sum())
    return Check("each row once", distinct == len(found), f"{distinct:,} distinct source rows in {len(found):,}")


def _ranks(run: UPath, record: RunRecord) -> Check:
    """Every row's score and rank, and its place after the row before, which may be in another batch."""
    metric = record.metrics[0]
    ok, seen = True, 0
    keys = scored_schema(record.metrics).empty_table().select([name for name, _ in rank_order(metric)])
    for rows in read_tables(run, MANIFEST, ["rank", "score", *keys.column_names]):
        keys = pa.concat_tables([keys.slice(max(0, keys.num_rows - 1)), rows.select(keys.column_names)])
        ok &= keys.sort_by(rank_order(metric)).equals(keys)
        ok &= with_rank(rows, metric, seen + 1).select(rows.column_names).cast(rows.schema).equals(rows)
        seen += rows.num_rows
    detail = f"1 to {seen:,} by {metric}"
    return Check("ranks", ok, detail if ok else f"not {detail}, ties by sample_id")


def _values(run: UPath, record: RunRecord) -> Check:
    bad: dict[str, None] = {}  # names, once each, in the order found
    for name, may_be_null in ((MANIFEST, "quality"), (QUARANTINE, "sample_id")):
        for rows in read_tables(run, name):
            null = [column for column in rows.column_names if rows[column].null_count and column != may_be_null]
            numbers = [column for column in ("score", *record.metrics) if column in rows.column_names]
            infinite = [column for column in numbers if not np.isfinite(rows[column].drop_null().to_numpy()).all()]
            bad |= dict.fromkeys([*null, *infinite])
    return Check(
        "values", not bad, "no null, NaN or infinity" if not bad else f"null, NaN or infinity in {', '.join(bad)}"
    )
