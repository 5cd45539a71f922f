"""What people say of a run's samples while they look at them: pins, notes, and decisions to keep or drop one.

They are lines of `annotations.jsonl`, each with who said it and when; of a sample the last line counts, and those
before it stay. A sample's id is a hash of its content, so they hold in every run over the same data.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from upath import UPath

from curate.errors import ConfigurationError, DataError
from curate.manifest.journal import append, cut_torn_line

ANNOTATIONS = "annotations.jsonl"
LONGEST_NOTE = 2_000
Decision = Literal["keep", "drop"]


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    sample_id: str = Field(pattern="^[0-9a-f]{32}$")
    note: str = Field(default="", max_length=LONGEST_NOTE)
    by: str = Field(min_length=1, max_length=100, description="who said so")
    at: str = Field(description="UTC, ISO 8601")


class Annotation(_Said):
    """All that is said of a sample, from this line on."""

    decision: Decision | None = Field(default=None, description="keep it, or drop it, whatever its score")
    pinned: bool = False


class Override(_Said):
    """A decision that a selection was made with."""

    decision: Decision


def now() -> str:
    """The time of an annotation."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_annotation(file: Path, annotation: Annotation) -> None:
    """Add a line; it is on the disk when this returns.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    try:
        cut_torn_line(file)
        append(file, [annotation.model_dump(mode="json")])
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}") from error


def read_annotations(file: UPath | Path) -> dict[str, Annotation]:
    """What holds of each sample, by its id; without the file, nothing.

    Raises:
        DataError: the file cannot be read, or a line of it is no annotation.
    """
    try:
        lines = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    last: dict[str, Annotation] = {}
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line break was cut off
        try:
            said = Annotation.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the line"
            raise DataError(f"{file}, line {number}: {where}: {first['msg']}") from error
        last[said.sample_id] = said
    return last


def overrides(annotations: Iterable[Annotation]) -> dict[str, Override]:
    """The decisions among what was said, by sample id, in the order of ids."""
    decided = sorted((each for each in annotations if each.decision), key=lambda each: each.sample_id)
    return {each.sample_id: Override.model_validate(each.model_dump(exclude={"pinned"})) for each in decided}
