"""`inputs.json`: what a run was begun with, so that it is only ever continued with the same."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from upath import UPath

from curate.errors import DataError
from curate.manifest.atomic import write_text

INPUTS_FILE = "inputs.json"


class RunInputs(BaseModel):
    """The whole of `inputs.json`, written before any work is done."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arguments: dict[str, JsonValue]
    decides: dict[str, JsonValue] = Field(description="everything that decides a score or a shard's rows, by name")
    versions: dict[str, str]

    def differences(self, other: "RunInputs") -> list[str]:
        """What decides the scores and is not the same, as `name a ≠ b` for each."""
        names = {**self.decides, **other.decides}
        return [
            f"{name} {_shown(self.decides.get(name))} ≠ {_shown(other.decides.get(name))}"
            for name in names
            if self.decides.get(name) != other.decides.get(name)
        ]


def _shown(value: JsonValue) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "…"


def write_inputs(run: UPath, inputs: RunInputs) -> None:
    """Write `inputs.json`."""
    write_text(run / INPUTS_FILE, inputs.model_dump_json(indent=2) + "\n")


def read_inputs(run: UPath | Path) -> RunInputs | None:
    """What the run was begun with; None if none was.

    Raises:
        DataError: the file is damaged.
    """
    path = run / INPUTS_FILE
    try:
        return RunInputs.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as error:
        raise DataError(f"{path} is damaged ({str(error).splitlines()[0]}); begin anew with --overwrite") from error
