"""Which ranges of a run are done: one shard each, made visible by its commit record."""

import errno
import hashlib
import re
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError
from upath import UPath

from curate.errors import DataError, first_line
from curate.fingerprint import file_sha256, text_sha256
from curate.manifest.atomic import write_atomically, write_text
from curate.manifest.record import SHARDS_FOLDER
from curate.storage import local_path

_RECORD = re.compile(r"\d{12}-\d{12}\.json")
OWN_NAME = re.compile(r"\.?\d{12}-\d{12}\.(parquet|json)(\.\d+\.tmp)?")


class Shard(BaseModel):
    """The commit record of the range of positions [start, stop). A range without one is not done.

    Attributes:
        rows: scored and quarantined rows; quarantined: those of them that could not be scored.
        weights: SHA-256 of the feature weights that the scores were made with; None if they need none.
        data_stamp: sizes and times of the data files when the range was committed.
        sha256: of the shard's parquet file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: int
    stop: int
    rows: int
    quarantined: int
    weights: str | None
    data_stamp: str
    sha256: str

    @property
    def name(self) -> str:
        return f"{self.start:012d}-{self.stop:012d}"


def shard_file(run: UPath, shard: Shard) -> UPath:
    """The shard's rows: scored ones, and where `error` is not null quarantined ones."""
    return run / SHARDS_FOLDER / f"{shard.name}.parquet"


def commit(run: UPath, start: int, stop: int, rows: pa.Table, weights: str | None, data_stamp: str) -> Shard:
    """Write a range's rows, then the record that makes them count.

    Raises:
        DataError: the rows are not one for each position.
    """
    distinct = len(rows["source_row"].unique())
    if (rows.num_rows, distinct) != (stop - start, stop - start):
        raise DataError(f"the range {start} to {stop} came back with {rows.num_rows} rows, {distinct} of them distinct")
    quarantined = rows.num_rows - rows["error"].null_count if "error" in rows.column_names else 0
    sink = pa.BufferOutputStream()
    pq.write_table(rows.sort_by("source_row"), sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    shard = Shard(
        start=start,
        stop=stop,
        rows=rows.num_rows,
        quarantined=quarantined,
        weights=weights,
        data_stamp=data_stamp,
        sha256=hashlib.sha256(data).hexdigest(),
    )
    write_atomically(shard_file(run, shard), lambda temporary: temporary.write_bytes(data))
    write_text(_record_file(run, shard), shard.model_dump_json() + "\n")
    return shard


def withdraw(run: UPath, shard: Shard) -> None:
    """Undo a commit: the range counts as not done."""
    _record_file(run, shard).unlink(missing_ok=True)


def _record_file(run: UPath, shard: Shard) -> UPath:
    return run / SHARDS_FOLDER / f"{shard.name}.json"


def read_ledger(run: UPath) -> dict[int, Shard]:
    """The committed shards by their start, in order; a record that cannot be read commits nothing."""
    shards = []
    folder = run / SHARDS_FOLDER
    for path in folder.iterdir() if folder.is_dir() else ():
        if _RECORD.fullmatch(path.name):
            try:
                shard = Shard.model_validate_json(path.read_bytes())
            except ValidationError:
                continue
            if path.stem == shard.name:
                shards.append(shard)
    return {shard.start: shard for shard in sorted(shards, key=lambda shard: shard.start)}


def is_whole(run: UPath, shard: Shard) -> bool:
    """Whether the shard's file is there and is the one that was committed.

    Raises:
        DataError: it cannot be read now, which may pass, and is no reason to score the range again.
    """
    file = shard_file(run, shard)
    try:
        return file_sha256(file) == shard.sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno == errno.EIO and local_path(file) is not None:  # a bad sector stays bad
            return False
        raise DataError(f"{file} cannot be read: {first_line(error)}") from error


def read_shard(run: UPath, shard: Shard) -> pa.Table:
    """The rows of a shard.

    Raises:
        DataError: missing or damaged.
    """
    try:
        with shard_file(run, shard).open("rb") as file:
            return pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{shard_file(run, shard)} cannot be read: {first_line(error)}") from error


def ledger_sha256(shards: Iterable[Shard]) -> str:
    """One hash over all commit records, in order of their ranges."""
    ordered = sorted(shards, key=lambda shard: shard.start)
    return text_sha256("".join(f"{shard.model_dump_json()}\n" for shard in ordered))
