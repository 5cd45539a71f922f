"""Where samples come from. `open_dataset` turns a `DatasetSpec` into rows that any process can read by position."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from upath import UPath

from curate.datasets import align_anything, demo, obelics, rlaif_v, spa_vl, the_pile
from curate.datasets.decode import Content, decode_row, read_content
from curate.datasets.files import dataset_files, table_files
from curate.datasets.layout import Fields, Layout, Row
from curate.datasets.table import inspect_files, open_table
from curate.errors import ConfigurationError, SampleError
from curate.fingerprint import files_sha256, text_sha256
from curate.sample import Sample, content_id
from curate.storage import Location, absolute, absolute_if_there, location

LAYOUTS = {module.LAYOUT.name: module.LAYOUT for module in (align_anything, rlaif_v, spa_vl)}
DOCUMENTS = {module.LAYOUT.name: module.LAYOUT for module in (obelics, the_pile)}
DEMO = "demo"
NAMED = (DEMO, *LAYOUTS, *DOCUMENTS)
DEMO_ROWS = 1_000
PARTS = ("question", "image", "chosen", "rejected")
Item = TypeVar("Item")


class DatasetSpec(BaseModel):
    """Which rows of which data set; travels in job files and `run.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Location = Field(default=DEMO, description="a name that `curate datasets` lists, or a table's path or URL")
    data_dir: Location | None = Field(default=None, description="a copy of a named data set: a folder or URL")
    columns: dict[str, str] | None = Field(default=None, description="for a table: the column of each part")
    files: int | None = Field(
        default=None, gt=0, description="of documents on the hub, only the first N files of the split; 1 if not given"
    )
    split: str = Field(default="train", description="a split, several joined by +, or all")
    limit: int | None = Field(default=None, gt=0, description="only the first N rows")
    sample: int | None = Field(default=None, gt=0, description="N rows drawn with the seed")
    seed: int = 0
    image_size: int | None = Field(default=None, gt=0, le=4096, description="resize every image to a square first")

    def absolute(self) -> "DatasetSpec":
        """The same with local paths made absolute: other processes, and other sessions, have other working folders."""
        name = self.name if self.name in NAMED else absolute_if_there(self.name)
        return self.model_copy(update={"name": name, "data_dir": self.data_dir and absolute(self.data_dir)})


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
class Opened:
    """The rows that a spec picked. Cheap to pickle; positions count the rows that the spec picked.

    Attributes:
        rows: the source row at each position, ascending.
        root: the folder that holds the data; None for the demo.
    """

    name: str
    source: RowSource
    rows: Sequence[int]
    root: UPath | None
    files: tuple[UPath, ...]

    def __len__(self) -> int:
        return len(self.rows)

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

    def _decoded(
        self, positions: Sequence[int], decode: Callable[[Row, int], Item]
    ) -> Iterator[tuple[int, Item | SampleError]]:
        for source_row, row in self.source.read([self.rows[position] for position in positions]):
            if isinstance(row, SampleError):
                yield source_row, row
                continue
            try:
                yield source_row, decode(row, source_row)
            except SampleError as error:
                yield source_row, error


@dataclass(frozen=True)
class Dataset(Opened):
    """An opened data set of preferences."""

    layout: Layout
    image_size: int | None

    @property
    def images_apart(self) -> bool:
        """Whether images may be files of their own, which the fingerprint does not cover; every sample's id does."""
        return self.source.may_hold_text(self.layout.image)

    def sample_ids(self, positions: Sequence[int]) -> Iterator[tuple[int, str | None]]:
        """The ids of the samples at ascending positions, each with its source row; None where there is no content."""

        for source_row, found in self.contents(positions):
            yield source_row, None if isinstance(found, SampleError) else content_id(*found)

    def contents(self, positions: Sequence[int]) -> Iterator[tuple[int, Content | SampleError]]:
        """The parts, as stored, of the samples at ascending positions, each with its source row."""

        def content(row: Row, _: int) -> Content:
            return read_content(row, self.layout, self.root)

        return self._decoded(positions, content)

    def samples(self, positions: Sequence[int]) -> Iterator[tuple[int, Sample | SampleError]]:
        """The samples at ascending positions, each with its source row; a bad row comes as its error."""
        return self._decoded(positions, self.decode)

    def decode(self, row: Row, source_row: int) -> Sample:
        """See `decode_row`."""
        return decode_row(row, source_row, self.layout, self.root, self.image_size)


def check_there(spec: DatasetSpec) -> None:
    """Check that preferences are known by the spec's name or lie at its path, and that its options go with them.

    Opens no file and asks no hub.

    Raises:
        ConfigurationError: there are none, or an option does not go with them.
    """
    if spec.name in DOCUMENTS:
        raise ConfigurationError(f"{spec.name} holds documents, not preferences: it trains SAEs (curate sae train)")
    if spec.files is not None:
        raise ConfigurationError(f"--files goes with {' or '.join(DOCUMENTS)}, read from the hub")
    if spec.name == DEMO:
        if spec.data_dir or spec.columns or spec.split not in ("train", "all"):
            raise ConfigurationError("--data-dir, --columns and --split do not go with the demo data set")
    elif spec.name not in LAYOUTS:
        existing_path(spec, (DEMO, *LAYOUTS))


def open_dataset(spec: DatasetSpec) -> Dataset:
    """Find the data set's files, check their columns and pick the rows; reads no row.

    Raises:
        ConfigurationError: no such data set, split, file or column.
        DataError: a file is damaged, or the hub cannot be reached.
    """
    check_there(spec)
    if spec.name == DEMO:
        source, layout, root = DemoSource(spec.limit or DEMO_ROWS, spec.seed), align_anything.LAYOUT, None
        files: list[UPath] = []
    elif spec.name in LAYOUTS:
        layout = LAYOUTS[spec.name]
        root, files = dataset_files(layout, location(spec.data_dir) if spec.data_dir else None, spec.split)
        source = open_table(inspect_files(files), layout.columns, optional=("quality",))
    else:
        layout = table_layout(spec)
        root, files = table_files(location(spec.name))
        source = open_table(inspect_files(files), layout.columns, optional=("quality",))
    return Dataset(spec.name, source, picked(spec, source), root, tuple(files), layout, spec.image_size)


def picked(spec: DatasetSpec, source: RowSource) -> Sequence[int]:
    """The source rows that the spec picks, ascending.

    Raises:
        ConfigurationError: there are no rows.
    """
    if source.n_rows == 0:
        raise ConfigurationError(f"the data set {spec.name} has no rows")
    rows: Sequence[int] = range(source.n_rows if spec.limit is None else min(spec.limit, source.n_rows))
    if spec.sample is not None and spec.sample < len(rows):
        rows = sorted(random.Random(f"sample:{spec.seed}").sample(rows, spec.sample))
    return rows


def spread(every: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of them, from all over: data made of subsets have one after the other."""
    count = min(count, len(every))
    return [every[index * len(every) // count] for index in range(count)]


def existing_path(spec: DatasetSpec, known: Sequence[str]) -> UPath:
    """The path that the spec names.

    Raises:
        ConfigurationError: there is none, and it is none of the known names either; or an option does not go with it.
    """
    path = location(spec.name)
    if not path.exists():
        raise ConfigurationError(
            f"--dataset {spec.name}: neither a known data set ({', '.join(known)}) nor an existing path or URL"
        )
    if spec.data_dir or spec.split not in ("train", "all"):
        raise ConfigurationError("--data-dir and --split go with a named data set; a path is read as it is")
    return path


def table_layout(spec: DatasetSpec) -> Layout:
    """The layout of a table of preferences.

    Raises:
        ConfigurationError: columns are renamed that are no parts, or two parts have one column.
    """
    columns = {part: part for part in PARTS} | (spec.columns or {})
    if unknown := sorted(set(columns) - set(PARTS)):
        raise ConfigurationError(f"--columns names {', '.join(unknown)}; the parts are {', '.join(PARTS)}")
    if len(set(columns.values())) < len(PARTS):
        raise ConfigurationError("--columns gives two parts the same column")
    read = tuple(columns[part] for part in PARTS)
    return Layout(spec.name, "", "", {}, read, partial(_pick, columns), image=columns["image"])


def _pick(columns: dict[str, str], row: Row) -> Fields:
    return Fields(**{part: row[columns[part]] for part in PARTS})
