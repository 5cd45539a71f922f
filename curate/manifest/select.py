"""The kept fraction of a run: its best rows by a rule, with the run's hash, so that training can trust it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from tempfile import gettempdir
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from upath import UPath

from curate.errors import ConfigurationError, DataError
from curate.fingerprint import file_sha256
from curate.manifest.atomic import LITTER, write_batches, write_text
from curate.manifest.rank import rank_order, with_rank
from curate.manifest.record import MANIFEST, RunRecord, read_record
from curate.manifest.rows import scored_schema
from curate.manifest.sort import sorted_rows
from curate.manifest.verify import read_tables
from curate.storage import Location, absolute, location, remove

SELECTION, SELECTION_FILE = "selection.parquet", "selection.json"
_OWN = {SELECTION, SELECTION_FILE}
SELECTION_SCHEMA = pa.schema(
    [
        pa.field("rank", pa.int64()),
        pa.field("sample_id", pa.string()),
        pa.field("source_row", pa.int64()),
        pa.field("score", pa.float64()),
    ]
)
SELECTION_GROUP_ROWS = 1 << 20


class _Kept(BaseModel):
    """How many rows are kept: exactly one of ratio, top and min_score."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ratio: Decimal | None = Field(default=None, gt=0, le=1, description="the best fraction of the scored rows")
    top: int | None = Field(default=None, ge=1, description="the best N rows")
    min_score: float | None = Field(default=None, allow_inf_nan=False, description="rows that score at least this")

    @model_validator(mode="after")
    def _one(self) -> "_Kept":
        if sum(value is not None for value in (self.ratio, self.top, self.min_score)) != 1:
            raise ValueError("give exactly one of --ratio, --top and --min-score")
        return self


class SelectJob(_Kept):
    """What `curate select` is asked to do."""

    kind: Literal["select"] = "select"
    run: Location = Field(description="the run folder, or its URL")
    by: str | None = Field(default=None, description="a metric that the run computed; by default the one ranked by")
    output: Location | None = Field(default=None, description="the folder to write; by default one inside the run")

    def absolute(self) -> "SelectJob":
        """The job with local paths made absolute."""
        return self.model_copy(update={"run": absolute(self.run), "output": self.output and absolute(self.output)})


class Rule(_Kept):
    """Which rows are kept, on one metric."""

    by: str

    def __str__(self) -> str:
        if self.ratio is not None:
            return f"{self.by}-ratio-{self.ratio}"
        return f"{self.by}-top-{self.top}" if self.top is not None else f"{self.by}-min-score-{self.min_score}"


class SelectionRecord(BaseModel):
    """The whole of `selection.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    package_version: str
    run_hash: str = Field(description="sha256 of the manifest that was selected from")
    run_status: str = Field(description="a stopped run's manifest holds only a part of the data")
    rule: Rule
    dataset: JsonValue = Field(description="the run's dataset arguments: where source_row counts")
    dataset_sha256: str
    selected: int
    scored: int
    sha256: str = Field(description="of selection.parquet")


def select_rows(tables: Iterable[pa.Table], keep: int, metric: str, scratch: Path) -> Iterator[pa.Table]:
    """The best `keep` rows by a metric, in its order, as `SELECTION_SCHEMA`.

    Args:
        tables: of `sample_id`, `source_row` and the metric.
        scratch: as for `sorted_rows`.
    """
    first = 1
    for rows in sorted_rows(tables, _columns(metric), rank_order(metric), scratch):
        rows = rows.slice(0, keep - first + 1)
        yield with_rank(rows, metric, first).select(SELECTION_SCHEMA.names)
        first += rows.num_rows
        if first > keep:
            return


def kept(tables: Iterable[pa.Table], rule: Rule) -> int:
    """How many of the rows the rule keeps.

    A ratio keeps the nearest whole number of rows, halves rounded up, and at least one.
    """
    total = good = 0
    for rows in tables:
        total += rows.num_rows
        if rule.min_score is not None:
            good += int((rows[rule.by].to_numpy() >= rule.min_score).sum())
    if rule.min_score is not None:
        return good
    if rule.ratio is not None:
        return min(total, max(1, int((rule.ratio * total).to_integral_value(ROUND_HALF_UP))))
    assert rule.top is not None
    return min(total, rule.top)


def _columns(metric: str) -> pa.Schema:
    schema = scored_schema([metric])
    return pa.schema([schema.field(name) for name in ("sample_id", "source_row", metric)])


@dataclass(frozen=True)
class Choice:
    """What a selection is: from which run, by which rule, how many rows, into which folder."""

    run: UPath
    record: RunRecord
    rule: Rule
    keep: int
    folder: UPath


def choose(job: SelectJob) -> Choice:
    """Which rows the job keeps; writes nothing.

    Raises:
        ConfigurationError: the run did not compute the metric, the rule keeps nothing, or the folder is not free.
        DataError: the run folder is damaged.
    """
    run = location(job.run)
    record = read_record(run)
    rule = Rule(by=job.by or record.metrics[0], ratio=job.ratio, top=job.top, min_score=job.min_score)
    if rule.by not in record.metrics:
        raise ConfigurationError(f"--by {rule.by}: {run} has {', '.join(record.metrics)}")
    if file_sha256(run / MANIFEST) != record.run_hash:
        raise DataError(f"{run / MANIFEST} is not the file that run.json describes; see curate verify")
    keep = kept(read_tables(run, MANIFEST, [rule.by]), rule)
    if keep == 0:
        raise ConfigurationError(f"no row of {run} scores {rule.min_score} or more by {rule.by}")
    folder = location(job.output) if job.output else run / "selections" / str(rule)
    if folder.is_file() or any(path.name not in _OWN and not LITTER.fullmatch(path.name) for path in _files(folder)):
        raise ConfigurationError(f"{folder} holds something else; choose another --output")
    return Choice(run, record, rule, keep, folder)


def select(job: SelectJob) -> tuple[UPath, SelectionRecord]:
    """Write a selection folder, unless it stands as it would be written; errors as of `choose`."""
    choice = choose(job)
    run, record, rule, keep, folder = choice.run, choice.record, choice.rule, choice.keep, choice.folder
    if (standing := _standing(folder, record, rule)) is not None:
        return folder, standing
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in _files(folder):
            if LITTER.fullmatch(path.name):
                remove(path)
    except OSError as error:
        raise ConfigurationError(f"--output {folder} cannot be made: {error.strerror}") from error
    rows = select_rows(read_tables(run, MANIFEST, _columns(rule.by).names), keep, rule.by, Path(gettempdir()))
    write_batches(folder / SELECTION, SELECTION_SCHEMA, rows, group_rows=SELECTION_GROUP_ROWS)
    selection = _selection_record(record, rule, keep, file_sha256(folder / SELECTION))
    write_text(folder / SELECTION_FILE, selection.model_dump_json(indent=2) + "\n")
    return folder, selection


def _files(folder: UPath) -> list[UPath]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _standing(folder: UPath, record: RunRecord, rule: Rule) -> SelectionRecord | None:
    """The selection that is there, if it is this one and whole."""
    try:
        found = SelectionRecord.model_validate_json((folder / SELECTION_FILE).read_text(encoding="utf-8"))
        sha256 = file_sha256(folder / SELECTION)
    except (OSError, ValueError):
        return None
    return found if found == _selection_record(record, rule, found.selected, sha256) else None


def _selection_record(record: RunRecord, rule: Rule, selected: int, sha256: str) -> SelectionRecord:
    return SelectionRecord(
        package_version=record.package_version,
        run_hash=record.run_hash,
        run_status=record.status,
        rule=rule,
        dataset=record.arguments["dataset"],
        dataset_sha256=record.hashes.dataset,
        selected=selected,
        scored=record.counts.scored,
        sha256=sha256,
    )
