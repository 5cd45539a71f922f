"""Files that appear whole or not at all."""

import os
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from curate.manifest.rows import groups
from curate.storage import local_path

# What a writer that was killed leaves behind.
LITTER = re.compile(r"\..+\.\d+\.tmp")
GROUP_ROWS = 1 << 14


def write_atomically(path: UPath, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary local file, then put it in place at `path`.

    On this machine the file is made beside `path`. Its content is synced before the rename, so that after a crash
    the name never leads to a part of it; the folder is synced after, so that the name itself survives. An object
    store has no rename: the file is uploaded in one piece, and readers trust it only by its SHA-256 in a record
    that is written after it.
    """
    local = local_path(path)
    if local is None:
        with tempfile.TemporaryDirectory(prefix="curate-") as folder:
            temporary = Path(folder) / path.name
            write(temporary)
            path.fs.put_file(str(temporary), path.path)
        return
    temporary = local.with_name(f".{local.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # some libraries write files that their owner alone may read, whatever the umask
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(local)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(local.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a crash of the machine."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: UPath, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_batches(path: UPath, schema: pa.Schema, tables: Iterable[pa.Table], group_rows: int = GROUP_ROWS) -> None:
    """Write a parquet file atomically from tables of any sizes; the same rows give the same bytes.

    Args:
        group_rows: rows of a row group, which is held in memory; a reader of any of its rows decodes its pages too.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for group in groups(tables, group_rows):
                writer.write_table(group.cast(schema), row_group_size=group_rows)

    write_atomically(path, write)
