"""Lines that are kept as they come: what a process goes on from after it was cut off."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from curate.manifest.atomic import sync_folder, write_text
from curate.storage import location


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Add rows, one JSON object a line; they are on the disk when this returns."""
    is_new = not path.exists()
    with path.open("ab") as file:
        file.write(_lines(rows).encode())
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)


def replace(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Put these rows in the place of all that the file held."""
    write_text(location(str(path)), _lines(rows))


def cut_torn_line(path: Path) -> None:
    """Take off the last line if a process that was killed left it half written."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)
