"""Calibrations and sweeps that go with a run: those that are named, and those that lie beside it."""

from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from upath import UPath

from curate.errors import ConfigurationError, DataError, first_line
from curate.experiments.records import CALIBRATION, SWEEP
from curate.manifest.record import RunRecord

Record = TypeVar("Record", bound=BaseModel)


@dataclass(frozen=True)
class Study:
    """A study of the run's data or model.

    Attributes:
        folder: where it lies.
        other: how it differs from the run, which it then says less of; empty where it does not.
    """

    folder: UPath
    record: Any
    other: tuple[str, ...]


def calibration_of(run: UPath, record: RunRecord, named: UPath | None) -> Study | None:
    """The calibration that is named; else one in the run's folder or the folder around it, if it is of its model.

    Raises:
        ConfigurationError: none is where it should be.
        DataError: it is damaged.
    """
    for folder in _folders(run, named, "--calibration", CALIBRATION):
        from curate.experiments.calibration import Calibration

        found = _read(folder / CALIBRATION, Calibration)
        of_run = record.hashes.model_dump()
        names = {"model": "model", "sae": "SAE"}
        other = [f"made with another {name}" for part, name in names.items() if found.hashes.get(part) != of_run[part]]
        if named is not None or not other:
            return Study(folder, found, tuple(other))
    return None


def sweep_of(run: UPath, record: RunRecord, named: UPath | None) -> Study | None:
    """The sweep that is named; else that whose folder the run lies in, if it selected from this run.

    Raises: as above.
    """
    for folder in _folders(run, named, "--sweep", SWEEP):
        from curate.experiments.sweep_results import SweepRecord  # which takes seconds

        found = _read(folder / SWEEP, SweepRecord)
        other = () if found.decides.get("run") == record.run_hash else ("made of another run",)
        if named is not None or not other:
            return Study(folder, found, other)
    return None


def _folders(run: UPath, named: UPath | None, option: str, name: str) -> list[UPath]:
    """Where a record of this name lies."""
    if named is not None and not (named / name).is_file():
        raise ConfigurationError(f"{option} {named}: there is no {name}; name the folder that holds it")
    return [folder for folder in ([named] if named is not None else [run, run.parent]) if (folder / name).is_file()]


def _read(file: UPath, kind: type[Record]) -> Record:
    try:
        return kind.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else first_line(error)
        raise DataError(f"{file} cannot be read: {reason}") from error
