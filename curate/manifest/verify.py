"""Is a run folder what its record says? Every promise of the contract, checked from the files alone."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import DataError
from curate.fingerprint import file_sha256
from curate.manifest.rank import ranked
from curate.manifest.record import MANIFEST, QUARANTINE, RunRecord, read_record
from curate.manifest.rows import QUARANTINE_SCHEMA, manifest_schema


@dataclass(frozen=True)
class Check:
    """One promise: kept or not, and what was found."""

    name: str
    ok: bool
    detail: str


def read_table(run: Path, name: str) -> pa.Table:
    """A parquet file of the run.

    Raises:
        DataError: missing or damaged.
    """
    try:
        return pq.read_table(run / name)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{run / name} cannot be read: {str(error).splitlines()[0]}") from error


def verify_run(run: Path) -> list[Check]:
    """Check checksums, schema, counts, ranks and values of a run folder.

    Raises:
        DataError: there is no readable `run.json`.
    """
    record = read_record(run)
    checks = _files(run, record)
    try:
        manifest, quarantine = read_table(run, MANIFEST), read_table(run, QUARANTINE)
    except DataError as error:
        return [*checks, Check("tables", False, str(error))]
    schemas = [
        _schema(MANIFEST, manifest.schema, manifest_schema(record.metrics)),
        _schema(QUARANTINE, quarantine.schema, QUARANTINE_SCHEMA),
    ]
    checks += [Check("complete", record.status == "complete", f"the run is {record.status}"), *schemas]
    if all(check.ok for check in schemas):
        checks += [_counts(record, manifest, quarantine), _once(manifest, quarantine)]
        checks += [_ranks(record, manifest), _values(record, manifest, quarantine)]
    return checks


def _files(run: Path, record: RunRecord) -> list[Check]:
    checks = []
    for name, expected in record.files.items():
        path = run / name
        if not path.resolve().is_relative_to(run.resolve()) or not path.is_file():
            checks.append(Check(f"checksum {name}", False, "missing"))
        else:
            same = file_sha256(path) == expected.sha256
            checks.append(Check(f"checksum {name}", same, "matches run.json" if same else "differs from run.json"))
    return checks


def _schema(name: str, found: pa.Schema, expected: pa.Schema) -> Check:
    ok = found.equals(expected)
    wrong = [field.name for field in expected if field.name not in found.names or found.field(field.name) != field]
    wrong += [column for column in found.names if column not in expected.names]
    detail = f"{len(expected)} columns" if ok else f"differs in {', '.join(wrong) or 'the order of columns'}"
    return Check(f"schema {name}", ok, detail)


def _counts(record: RunRecord, manifest: pa.Table, quarantine: pa.Table) -> Check:
    counts = record.counts
    by_error = {entry["values"]: entry["counts"] for entry in quarantine["error"].value_counts().to_pylist()}
    tokens = [int(manifest[name].to_numpy().sum()) for name in ("n_text_tokens", "n_image_tokens")]
    ok = (
        (manifest.num_rows, quarantine.num_rows) == (counts.scored, counts.quarantined)
        and counts.scored + counts.quarantined == counts.read
        and (counts.read == counts.selected or record.status != "complete")
        and by_error == counts.quarantined_by_error
        and tokens == [counts.text_tokens, counts.image_tokens]
    )
    found = f"{manifest.num_rows:,} scored + {quarantine.num_rows:,} quarantined, {counts.read:,} read"
    return Check("counts", ok, found)


def _once(manifest: pa.Table, quarantine: pa.Table) -> Check:
    rows = pa.chunked_array([*manifest["source_row"].chunks, *quarantine["source_row"].chunks], pa.int64())
    distinct = len(rows.unique())
    return Check("each row once", distinct == len(rows), f"{distinct:,} distinct source rows in {len(rows):,}")


def _ranks(record: RunRecord, manifest: pa.Table) -> Check:
    ok = ranked(manifest, record.metrics[0]).cast(manifest.schema).equals(manifest)
    detail = f"1 to {manifest.num_rows:,} by {record.metrics[0]}"
    return Check("ranks", ok, detail if ok else f"not {detail}, ties by sample_id")


def _values(record: RunRecord, manifest: pa.Table, quarantine: pa.Table) -> Check:
    may_be_null = {"quality"}, {"sample_id"}
    tables = zip((manifest, quarantine), may_be_null, strict=True)
    bad = [name for table, free in tables for name in table.column_names if table[name].null_count and name not in free]
    bad += [name for name in ("score", *record.metrics) if not np.isfinite(manifest[name].to_numpy()).all()]
    return Check(
        "values", not bad, "no null, NaN or infinity" if not bad else f"null, NaN or infinity in {', '.join(bad)}"
    )
