"""Where samples come from. `open_dataset` turns a `DatasetSpec` into rows that any process can read by position."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field
from upath import UPath

from curate.datasets import align_anything, demo, rlaif_v, spa_vl
from curate.datasets.decode import decode_row, read_content
from curate.datasets.files import dataset_files, table_files
from curate.datasets.layout import Fields, Layout, Row
from curate.datasets.table import open_table
from curate.errors import ConfigurationError, SampleError
from curate.fingerprint import files_sha256, text_sha256
from curate.sample import Sample, content_id
from curate.storage import Location, location

LAYOUTS = {module.LAYOUT.name: module.LAYOUT for module in (align_anything, rlaif_v, spa_vl)}
DEMO = "demo"
DEMO_ROWS = 1_000
PARTS = ("question", "image", "chosen", "rejected")


class DatasetSpec(BaseModel):
    """Which rows of which data set; travels in job files and `run.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Location = Field(default=DEMO, description="a name that `curate datasets` lists, or a table's path or URL")
    data_dir: Location | None = Field(default=None, description="a copy of a named data set: a folder or URL")
    columns: dict[str, str] | None = Field(default=None, description="for a table: the column of each part")
    split: str = Field(default="train", description="a split, several joined by +, or all")
    limit: int | None = Field(default=None, gt=0, description="only the first N rows")
    sample: int | None = Field(default=None, gt=0, description="N rows drawn with the seed")
    seed: int = 0
    image_size: int | None = Field(default=None, gt=0, le=4096, description="resize every image to a square first")


class RowSource(Protocol):
    """Rows by position."""

    @property
    def n_rows(self) -> int: ...
    def may_hold_text(self, column: str) -> bool: ...

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, Row | SampleError]]: ...


@dataclass(frozen=True)
class DemoSource:
    """The toy world's rows of one seed."""

    n_rows: int
    seed: int

    def may_hold_text(self, column: str) -> bool:
        return column != "image"

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, Row]]:
        for row in rows:
            yield row, demo.demo_row(self.seed, row)


@dataclass(frozen=True)
class Dataset:
    """An opened data set. Cheap to pickle; positions count the rows that the spec picked.

    Attributes:
        rows: the source row at each position, ascending.
        root: the folder that holds the data; None for the demo.
    """

    name: str
    source: RowSource
    layout: Layout
    rows: Sequence[int]
    root: UPath | None
    image_size: int | None
    files: tuple[UPath, ...] = ()

    def fingerprint(self) -> str:
        """SHA-256 of what the rows are made from: the files' content, or the demo world's seed. Reads it all."""
        if self.root is None:
            return text_sha256(f"demo world: {self.source}")
        return files_sha256(self.root, self.files)

    def stamp(self) -> str:
        """SHA-256 of the data files' sizes and times of change: a quick sign that they may have changed."""
        lines = []
        if self.root is not None:
            self.root.fs.invalidate_cache()  # or an object store's listing from before is read again
            for folder in {file.parent for file in self.files} if len(self.files) > 1 else ():
                list(folder.iterdir())  # one request for many files
        for file in self.files:
            stat = file.stat()
            lines.append(f"{file.name} {stat.st_size} {stat.st_mtime}\n")
        return text_sha256("".join(lines))

    @property
    def images_apart(self) -> bool:
        """Whether images may be files of their own, which the fingerprint does not cover; every sample's id does."""
        return self.source.may_hold_text(self.layout.image)

    def sample_ids(self, positions: Sequence[int]) -> Iterator[tuple[int, str | None]]:
        """The ids of the samples at ascending positions, each with its source row; None where there is no content."""
        for source_row, row in self.source.read([self.rows[position] for position in positions]):
            try:
                found = None if isinstance(row, SampleError) else read_content(row, self.layout, self.root)
            except SampleError:
                found = None
            yield source_row, None if found is None else content_id(*found)

    def __len__(self) -> int:
        return len(self.rows)

    def samples(self, positions: Sequence[int]) -> Iterator[tuple[int, Sample | SampleError]]:
        """The samples at ascending positions, each with its source row; a bad row comes as its error."""
        for source_row, row in self.source.read([self.rows[position] for position in positions]):
            if isinstance(row, SampleError):
                yield source_row, row
                continue
            try:
                yield source_row, decode_row(row, source_row, self.layout, self.root, self.image_size)
            except SampleError as error:
                yield source_row, error


def open_dataset(spec: DatasetSpec) -> Dataset:
    """Find the data set's files, check their columns and pick the rows; reads no row.

    Raises:
        ConfigurationError: no such data set, split, file or column.
        DataError: a file is damaged, or the hub cannot be reached.
    """
    if spec.name == DEMO:
        if spec.data_dir or spec.columns or spec.split not in ("train", "all"):
            raise ConfigurationError("--data-dir, --columns and --split do not go with the demo data set")
        source, layout, root = DemoSource(spec.limit or DEMO_ROWS, spec.seed), align_anything.LAYOUT, None
        files: list[UPath] = []
    else:
        layout = LAYOUTS[spec.name] if spec.name in LAYOUTS else _table_layout(spec)
        copy = location(spec.data_dir) if spec.data_dir else None
        root, files = dataset_files(layout, copy, spec.split) if layout.repo else table_files(location(spec.name))
        source = open_table(files, layout.columns, optional=("quality",))
    if source.n_rows == 0:
        raise ConfigurationError(f"the data set {spec.name} has no rows")
    rows: Sequence[int] = range(source.n_rows if spec.limit is None else min(spec.limit, source.n_rows))
    if spec.sample is not None and spec.sample < len(rows):
        rows = sorted(random.Random(f"sample:{spec.seed}").sample(rows, spec.sample))
    return Dataset(spec.name, source, layout, rows, root, spec.image_size, tuple(files))


def _table_layout(spec: DatasetSpec) -> Layout:
    if not location(spec.name).exists():
        names = ", ".join((DEMO, *LAYOUTS))
        raise ConfigurationError(
            f"--dataset {spec.name}: neither a known data set ({names}) nor an existing path or URL"
        )
    if spec.data_dir or spec.split not in ("train", "all"):
        raise ConfigurationError("--data-dir and --split go with a named data set; a path is read as it is")
    columns = {part: part for part in PARTS} | (spec.columns or {})
    if unknown := sorted(set(columns) - set(PARTS)):
        raise ConfigurationError(f"--columns names {', '.join(unknown)}; the parts are {', '.join(PARTS)}")
    if len(set(columns.values())) < len(PARTS):
        raise ConfigurationError("--columns gives two parts the same column")
    read = tuple(columns[part] for part in PARTS)
    return Layout(spec.name, "", "", {}, read, partial(_pick, columns), image=columns["image"])


def _pick(columns: dict[str, str], row: Row) -> Fields:
    return Fields(**{part: row[columns[part]] for part in PARTS})
