"""Rows of parquet, arrow and jsonl files by position, a bounded piece at a time."""

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from curate.datasets.layout import Row
from curate.errors import BadRow, ConfigurationError, DataError, MissingField, NotUtf8, SampleError, first_line
from curate.storage import local_path

SUFFIXES = (".parquet", ".arrow", ".jsonl")
_LINES_PER_ANCHOR = 128
_ROWS_PER_READ = 64


@dataclass(frozen=True)
class TableFile:
    """One file.

    Attributes:
        text_columns: those of its columns that may hold text, and so paths; of Hugging Face's image structs those in
            which `bytes` may be missing.
        anchors: for jsonl, the byte offset of every 128th line.
    """

    path: UPath
    n_rows: int
    columns: tuple[str, ...]
    text_columns: tuple[str, ...]
    anchors: tuple[int, ...] = ()


@dataclass(frozen=True)
class Table:
    """Files read as one sequence of rows. Cheap to pickle, so any worker can read any part."""

    files: tuple[TableFile, ...]
    columns: tuple[str, ...]

    @property
    def n_rows(self) -> int:
        return sum(file.n_rows for file in self.files)

    def may_hold_text(self, column: str) -> bool:
        """Whether the column may hold text in some file."""
        return any(column in file.text_columns for file in self.files)

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, Row | SampleError]]:
        """The rows at these ascending positions, each with its position.

        A row that cannot be read comes as the error that says why.
        """
        starts = [0, *accumulate(file.n_rows for file in self.files)]
        by_file: dict[int, list[int]] = {}
        for row in rows:
            by_file.setdefault(bisect_right(starts, row) - 1, []).append(row)
        for index, wanted in by_file.items():
            file, start = self.files[index], starts[index]
            read = _read_jsonl if file.path.suffix == ".jsonl" else _read_batches
            for row, content in read(file, [row - start for row in wanted], self.columns):
                yield start + row, content


def inspect_files(paths: Sequence[UPath]) -> tuple[TableFile, ...]:
    """Look at the files' lengths and columns; read no rows.

    Raises:
        ConfigurationError: two columns of one file have one name.
        DataError: a file is damaged.
    """
    files = tuple(_inspect(path) for path in paths)
    for file in files:
        if len(set(file.columns)) < len(file.columns):
            raise ConfigurationError(f"{file.path} has two columns of one name; rename one of them")
    return files


def open_table(
    files: tuple[TableFile, ...],
    required: Sequence[str],
    optional: Sequence[str] = (),
    advice: str = "Name the columns with --columns question=…,image=…,chosen=…,rejected=…",
) -> Table:
    """The table with these of its columns, of the optional ones those that every file has.

    Raises:
        ConfigurationError: a required column is missing; the message lists those there are, and gives the advice.
    """
    for file in files:
        if missing := [column for column in required if column not in file.columns]:
            wanted = " nor ".join(map(repr, missing))
            raise ConfigurationError(f"{file.path} has no column {wanted}; it has: {listed(file.columns)}. {advice}")
    extra = [column for column in optional if all(column in file.columns for file in files)]
    return Table(files, (*required, *extra))


def listed(columns: Sequence[str]) -> str:
    """The names of columns, for a message."""
    return ", ".join(name[:80] for name in columns[:30]) + (" …" if len(columns) > 30 else "") or "none"


def _inspect(path: UPath) -> TableFile:
    # Opening a FIFO would wait for a writer.
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not a regular file")
    try:
        if path.suffix == ".parquet":
            with path.open("rb") as file, pq.ParquetFile(file) as parquet:
                groups = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
                if sum(groups) != parquet.metadata.num_rows or min(groups, default=0) < 0:
                    raise pa.ArrowInvalid(f"{parquet.metadata.num_rows:,} rows, but {sum(groups):,} in its row groups")
                return _described(path, sum(groups), parquet.schema_arrow, _structs_of_bytes(parquet.metadata))
        if path.suffix == ".arrow":
            with _arrow_reader(path) as reader:
                schema = reader.schema
            n_rows, whole = 0, {field.name for field in schema if pa.types.is_struct(field.type)}
            for batch in _arrow_batches(path):
                n_rows += batch.num_rows
                whole = {name for name in whole if _holds_bytes(batch, name)}
            return _described(path, n_rows, schema, whole)
        return _inspect_jsonl(path)
    # A reader fed hostile bytes may raise anything at all; every such error means the same here.
    except Exception as error:
        raise DataError(f"{path} cannot be read as {path.suffix[1:]}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return first_line(error)[:200]


def _described(path: UPath, n_rows: int, schema: pa.Schema, structs_of_bytes: set[str]) -> TableFile:
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    text = (field.name for field in schema if not any(test(field.type) for test in binary))
    return TableFile(path, n_rows, tuple(schema.names), tuple(name for name in text if name not in structs_of_bytes))


def _structs_of_bytes(metadata: pq.FileMetaData) -> set[str]:
    """Struct columns whose `bytes` are there in every row, as far as the file counts them."""
    found, missing = set(), set()
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            name, _, part = column.path_in_schema.rpartition(".")
            if name and part == "bytes":
                counts = column.statistics
                known = counts is not None and counts.has_null_count and counts.null_count == 0
                (found if known else missing).add(name)
    return found - missing


def _holds_bytes(batch: pa.RecordBatch, name: str) -> bool:
    """Whether the struct column's `bytes` are there in every row of a batch."""
    column = batch.column(name)
    try:
        column.validate()  # or to look into a hostile one may abort the process
        return isinstance(column, pa.StructArray) and column.field("bytes").null_count == 0
    except (pa.ArrowException, KeyError):
        return False


def _inspect_jsonl(path: UPath) -> TableFile:
    anchors, n_rows, offset = [], 0, 0
    columns: dict[str, None] = {}
    with path.open("rb") as lines:
        for line in lines:
            if n_rows % _LINES_PER_ANCHOR == 0:
                anchors.append(offset)
            if n_rows < _LINES_PER_ANCHOR:
                row = _parse_line(line)
                columns.update(dict.fromkeys(row if isinstance(row, dict) else ()))
            n_rows, offset = n_rows + 1, offset + len(line)
    return TableFile(path, n_rows, tuple(columns), tuple(columns), tuple(anchors))


def _read_jsonl(file: TableFile, wanted: list[int], columns: Sequence[str]) -> Iterator[tuple[int, Row | SampleError]]:
    with file.path.open("rb") as lines:
        position = -1
        for row in wanted:
            anchor = row // _LINES_PER_ANCHOR * _LINES_PER_ANCHOR
            if position < anchor:
                lines.seek(file.anchors[anchor // _LINES_PER_ANCHOR])
                position = anchor
            while position < row:
                lines.readline()
                position += 1
            content = _parse_line(lines.readline())
            position += 1
            if isinstance(content, dict):
                missing = [column for column in columns if column not in content and column != "quality"]
                if missing:
                    yield row, MissingField(f"the row has no {' nor '.join(map(repr, missing))}")
                else:
                    yield row, {column: content.get(column) for column in columns}
            else:
                yield row, content


def _parse_line(line: bytes) -> Row | SampleError:
    if not line.strip():
        return BadRow("the line is blank")
    try:
        row = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        return NotUtf8(f"the line is not UTF-8 at byte {error.start}")
    except (ValueError, RecursionError) as error:
        return BadRow(f"the line is not JSON: {error}")
    return row if isinstance(row, dict) else BadRow(f"the line holds a {type(row).__name__}, not an object")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("an object has one key twice")
    return content


def _arrow_reader(path: UPath) -> pa.RecordBatchStreamReader | pa.RecordBatchFileReader:
    source = pa.memory_map(str(path)) if local_path(path) else pa.PythonFile(path.open("rb"), mode="r")
    try:
        return pa.ipc.open_stream(source)
    except pa.ArrowInvalid:
        return pa.ipc.open_file(source)


def _arrow_batches(path: UPath) -> Iterator[pa.RecordBatch]:
    with _arrow_reader(path) as reader:
        if isinstance(reader, pa.RecordBatchFileReader):
            yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            yield from reader


def _parquet_batches(
    path: UPath, wanted: list[int], columns: Sequence[str]
) -> Iterator[tuple[int, int, pa.RecordBatch | BadRow]]:
    """Pieces of the row groups that hold wanted rows; the rest of a damaged group comes as one error."""
    with path.open("rb") as file, pq.ParquetFile(file) as parquet:
        start = 0
        for group in range(parquet.num_row_groups):
            end = start + parquet.metadata.row_group(group).num_rows
            if any(start <= row < end for row in wanted):
                try:
                    for batch in parquet.iter_batches(_ROWS_PER_READ, row_groups=[group], columns=list(columns)):
                        yield start, start + batch.num_rows, batch
                        start += batch.num_rows
                    if start < end:
                        yield start, end, BadRow(f"{path.name} is damaged here: a row group has too few rows")
                except (pa.ArrowException, OSError) as error:
                    # Arrow's own OSError has no number. Any other is of the disk or network, and no fault of the rows'.
                    if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
                        raise
                    yield start, end, BadRow(f"{path.name} is damaged here: {_reason(error)}")
            start = end


def _numbered_arrow_batches(path: UPath, columns: Sequence[str]) -> Iterator[tuple[int, int, pa.RecordBatch | BadRow]]:
    start = 0
    for batch in _arrow_batches(path):
        end = start + batch.num_rows
        # A hostile file's arrays may be shorter than they say: to cut a row from such a one would abort the process.
        try:
            batch.select(columns).validate()
            yield start, end, batch
        except pa.ArrowInvalid as error:
            yield start, end, BadRow(f"{path.name} is damaged here: {_reason(error)}")
        start = end


def _read_batches(
    file: TableFile, wanted: list[int], columns: Sequence[str]
) -> Iterator[tuple[int, Row | SampleError]]:
    parquet = file.path.suffix == ".parquet"
    left = iter(wanted)
    row = next(left, None)
    for start, end, batch in (
        _parquet_batches(file.path, wanted, columns) if parquet else _numbered_arrow_batches(file.path, columns)
    ):
        if row is not None and row >= end:
            continue
        sound = not isinstance(batch, BadRow) and _is_sound(batch.select(columns))
        while row is not None and row < end:
            yield row, batch if isinstance(batch, BadRow) else _cells(batch, row - start, columns, sound)
            row = next(left, None)
        if row is None:
            return


def _is_sound(batch: pa.RecordBatch) -> bool:
    """Whether every offset and every text is valid; those of a hostile file may point anywhere in memory."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _cells(batch: pa.RecordBatch, row: int, columns: Sequence[str], sound: bool) -> Row | SampleError:
    cells = {}
    for column in columns:
        cell = batch.column(column).slice(row, 1)
        try:
            if not sound:
                _validate(cell)
            cells[column] = cell[0].as_py()
        # A date that does not exist, an offset out of the file: each type has errors of its own.
        except Exception as error:
            kind = NotUtf8 if "UTF8" in str(error) else BadRow
            return kind(f"the {column} cannot be read: {_reason(error)}")
    return cells


def _validate(cell: pa.Array) -> None:
    """Check an array of one row; of a struct's children only this row, as their others may be at fault."""
    if pa.types.is_struct(cell.type):
        for child in cell.flatten():
            _validate(child)
    else:
        cell.validate(full=True)
