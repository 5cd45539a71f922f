"""A selection on disk: its rows and its record, read only while it and its run are what they were."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from upath import UPath

from curate.errors import ConfigurationError, DataError, first_line
from curate.fingerprint import file_sha256, text_sha256
from curate.manifest.annotations import Override
from curate.manifest.record import MANIFEST
from curate.manifest.rule import Rule
from curate.manifest.verify import read_tables
from curate.storage import location

SELECTION, SELECTION_FILE = "selection.parquet", "selection.json"
SELECTION_SCHEMA = pa.schema(
    [
        pa.field("rank", pa.int64()),
        pa.field("sample_id", pa.string()),
        pa.field("source_row", pa.int64()),
        pa.field("score", pa.float64()),
    ]
)


class SelectionRecord(BaseModel):
    """The whole of `selection.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    package_version: str
    run: str = Field(description="the run folder, or its URL, at the time")
    run_hash: str = Field(description="sha256 of the manifest that was selected from")
    run_status: str = Field(description="a stopped run's manifest holds only a part of the data")
    rule: Rule
    dataset: JsonValue = Field(description="the run's dataset arguments: where source_row counts")
    dataset_sha256: str
    overrides: tuple[Override, ...] = Field(
        default=(), description="decisions about samples of the run, who made them and when; they come after the rule"
    )
    overrides_elsewhere: int = Field(
        default=0, description="more decisions of the same file, about samples that the run has not scored"
    )
    selected: int
    scored: int
    sha256: str = Field(description="of selection.parquet")


def samples_sha256(sample_ids: Iterable[str]) -> str:
    """What a set of samples is, whatever the order and the rule it came by: a hash of its sorted ids, one a line."""
    return text_sha256("".join(f"{sample_id}\n" for sample_id in sorted(sample_ids)))


class Selection(NamedTuple):
    """A selection that was read: its record, its rows as `SELECTION_SCHEMA`, best first, and the run it is of."""

    record: SelectionRecord
    rows: pa.Table
    run: UPath


def read_selection(folder: str, run: str | None = None) -> Selection:
    """Read a selection whose file, and whose run's manifest, are as they were when it was made.

    Args:
        run: where its run lies now; by default around the selection, or where it lay.

    Raises:
        ConfigurationError: there is no selection, or its run is not to be found.
        DataError: the selection is damaged, or its run is another by now.
    """
    place = location(folder)
    try:
        record = SelectionRecord.model_validate_json((place / SELECTION_FILE).read_text(encoding="utf-8"))
        sha256 = file_sha256(place / SELECTION)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigurationError(f"{folder} is not a selection: it lacks {SELECTION_FILE} or {SELECTION}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is damaged: {first_line(error)}; make it again with curate select") from error
    if sha256 != record.sha256:
        raise DataError(f"{place / SELECTION} is not the file that {SELECTION_FILE} describes; make it again")
    around = place.parent.parent
    found = location(run) if run else around if (around / MANIFEST).is_file() else location(record.run)
    try:
        run_hash = file_sha256(found / MANIFEST)
    except OSError as error:
        raise ConfigurationError(
            f"the run of {folder} is not in {found}: name the folder where it lies now with --run"
        ) from error
    if run_hash != record.run_hash:
        raise DataError(
            f"{found} is no longer the run that {folder} was selected from (manifest hash {run_hash[:12]}… ≠ "
            f"{record.run_hash[:12]}…): select again"
        )
    tables = list(read_tables(place, SELECTION, SELECTION_SCHEMA.names))
    return Selection(record, pa.concat_tables([SELECTION_SCHEMA.empty_table(), *tables]), found)
