"""Can a run be written here? Whether storage keeps the promises that a run folder rests on, by trying them."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage
from tempfile import gettempdir

from upath import UPath

from curate.errors import ConfigurationError
from curate.manifest.atomic import write_text
from curate.manifest.lock import locked
from curate.storage import local_path, remove

# Shards take 200 and the manifest 205, with four metrics and ten top features; while ranking, the sort's own files 225.
_ROW_BYTES, _SORTED_ROW_BYTES = 450, 250
_TRIES = 5


def unfit(run: UPath) -> str | None:
    """Why a run folder cannot be kept here, and what to do; None if it can.

    Writes, replaces, reads back, locks twice and removes a folder there; nothing stays.
    """
    parent = _nearest(run)
    trial = parent / _trial_name()
    try:
        trial.mkdir(parents=True)
        file = trial / "file"
        for content in ("one", "other"):  # the second takes the place of the first, by a rename where there are renames
            write_text(file, content)
            if file.read_text() != content or [path.name for path in trial.iterdir()] != [file.name]:
                return f"{parent} does not give back what was written to it; choose another --output"
        with locked(trial):
            if _locked_twice(trial):
                return f"{parent} lets two processes hold one lock, so that two could write one run: choose another"
    except (OSError, ConfigurationError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return f"{parent} cannot hold a run ({why}); choose another --output"
    finally:
        if trial.exists():
            remove(trial)
    return None


def _trial_name() -> str:
    """That of a file half-written, which is removed from a run folder if the process is killed meanwhile."""
    return f".curate-trial.{os.getpid()}.tmp"


def _locked_twice(folder: UPath) -> bool:
    try:
        with locked(folder):
            return True
    except ConfigurationError:
        return False


def commit_seconds(run: UPath) -> float:
    """How long one small file takes to be written and synced here, in the median; a shard takes two."""
    trial = _nearest(run) / _trial_name()
    seconds = []
    try:
        for _ in range(_TRIES):
            start = time.monotonic()
            write_text(trial, "x")
            seconds.append(time.monotonic() - start)
    finally:
        trial.unlink(missing_ok=True)
    return sorted(seconds)[_TRIES // 2]


@dataclass(frozen=True)
class Room:
    """Of the disk that a run fills: the run folder's, or for one on an object store that of temporary files."""

    folder: Path
    needed: int
    free: int


def room(run: UPath, rows: int) -> Room:
    """What so many rows need, and what there is."""
    if (local := local_path(_nearest(run))) is not None:
        return Room(local, rows * (_ROW_BYTES + _SORTED_ROW_BYTES), disk_usage(local).free)
    scratch = Path(gettempdir())
    return Room(scratch, rows * _SORTED_ROW_BYTES, disk_usage(scratch).free)


def _nearest(run: UPath) -> UPath:
    """The run's folder, or the nearest thing above it that is there."""
    path = run if local_path(run) is None else run.absolute()
    while local_path(path) is not None and not path.exists():
        path = path.parent
    return path if local_path(path) is not None else path.parent
