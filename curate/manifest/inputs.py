"""`inputs.json`: what a run was begun with, so that it is only ever continued with the same."""

import re
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from upath import UPath

from curate import __version__
from curate.errors import ConfigurationError, DataError, first_line
from curate.manifest.atomic import write_text

INPUTS_FILE = "inputs.json"
_HASH = re.compile("[0-9a-f]{64}")


class RunInputs(BaseModel):
    """The whole of `inputs.json`, written before any work is done."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arguments: dict[str, JsonValue]
    decides: dict[str, JsonValue] = Field(description="everything that decides a score or a shard's rows, by name")
    versions: dict[str, str]
    other_versions: list[dict[str, str]] = Field(default=[], description="those of later sessions, where they differ")

    def differences(self, other: "RunInputs") -> list[str]:
        """What decides the scores and is not the same, as `name a ≠ b` for each."""
        names = {**self.decides, **other.decides}
        return [
            f"{name} {_shown(self.decides.get(name))} ≠ {_shown(other.decides.get(name))}"
            for name in names
            if self.decides.get(name) != other.decides.get(name)
        ]


def versions(*others: str) -> dict[str, str]:
    """Of curate and of the libraries that may change the last digits of what a model says, and of others used."""
    return {"curate": __version__, **{name: version(name) for name in ("torch", "transformers", *others)}}


def _shown(value: JsonValue) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and _HASH.fullmatch(value) else str(value)


def own_files(output: Path, ours: Collection[str], whose: str) -> set[str]:
    """The names of what lies in a folder that is to be written, without hidden ones.

    Raises:
        ConfigurationError: it is a file, or holds what is not `ours`, which nothing shall remove.
    """
    if output.exists() and not output.is_dir():
        raise ConfigurationError(f"--output {output} is a file; name a folder")
    names = {entry.name for entry in output.iterdir()} if output.is_dir() else set()
    found = {name for name in names if not name.startswith(".")}
    if foreign := sorted(found - set(ours)):
        raise ConfigurationError(f"--output {output} holds {foreign[0]}, which is no {whose}'s; choose another folder")
    return found


def write_inputs(run: UPath, inputs: RunInputs) -> None:
    """Write `inputs.json`."""
    write_text(run / INPUTS_FILE, inputs.model_dump_json(indent=2) + "\n")


def read_inputs(run: UPath | Path) -> RunInputs | None:
    """What the run was begun with; None if none was.

    Raises:
        DataError: the file is damaged, or cannot be read.
    """
    path = run / INPUTS_FILE
    try:
        return RunInputs.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}") from error
    except ValidationError as error:
        raise DataError(f"{path} is damaged ({first_line(error)}); begin anew with --overwrite") from error
