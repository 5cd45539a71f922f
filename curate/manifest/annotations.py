"""What people say of a run's samples while they look at them: pins, notes, and decisions to keep or drop one.

They are lines of `annotations.jsonl`, each with who said it and when; of a sample the last line counts, and those
before it stay. A sample's id is a hash of its content, so they hold in every run over the same data.
"""

import fcntl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from upath import UPath

from curate.errors import ConfigurationError, DataError
from curate.manifest.atomic import sync_folder
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


def annotate(file: Path, sample_id: str, by: str, changed: Mapping[str, Any]) -> None:
    """Say something of a sample; all else that was said of it stays. It is on the disk when this returns.

    Args:
        changed: fields of `Annotation`.

    Raises:
        ConfigurationError: the file cannot be written.
        DataError: as of `read_annotations`.
    """
    with _alone(file):
        before = read_annotations(file).get(sample_id)
        said = before.model_dump() if before else {"sample_id": sample_id}
        at = datetime.now(UTC).isoformat(timespec="seconds")
        append(file, [Annotation.model_validate({**said, **changed, "by": by, "at": at}).model_dump(mode="json")])


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold the file, which is made if need be, while no other process does; it ends with a line break then."""
    try:
        is_new = not file.exists()
        with file.open("ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if is_new:
                sync_folder(file.parent)
            if _whole(_last_piece(file)):
                held.write(b"\n")  # of a line that was written by hand
                held.flush()
            cut_torn_line(file)
            yield
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}") from error


def _last_piece(file: Path) -> bytes:
    return file.read_bytes().rpartition(b"\n")[2]


def _whole(piece: bytes) -> bool:
    """Whether what follows the last line break is a line, and not what is left of one that was cut off."""
    try:
        Annotation.model_validate_json(piece)
    except ValidationError:
        return False
    return True


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
    if not _whole(lines[-1]):
        lines.pop()
    last: dict[str, Annotation] = {}
    for number, line in enumerate(lines, start=1):
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
