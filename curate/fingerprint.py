"""Content hashes of data sets, models and SAEs: what a run was computed from."""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from upath import UPath

AnyPath = TypeVar("AnyPath", Path, UPath)
# Smaller files are read faster than their hashes are looked up.
REMEMBERED_BYTES = 16 * 2**20
# A file that is written twice within one tick of its clock looks unchanged, so the hash of a new file is not kept.
_NS_UNTIL_SETTLED = 2 * 10**9


def file_sha256(path: Path | UPath) -> str:
    """SHA-256 of a file's bytes, in hex."""
    file: Any
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_sha256(root: AnyPath, paths: Iterable[AnyPath], of_file: Callable[[AnyPath], str] = file_sha256) -> str:
    """SHA-256 over the sorted (path below `root`, SHA-256 of content) of the files.

    Args:
        of_file: the hash of one file; `remembered_sha256` for the large files of models and SAEs.
    """
    ordered = sorted(paths, key=str)
    with ThreadPoolExecutor(8) as pool:
        hashes = pool.map(of_file, ordered)
    lines = (f"{path.relative_to(root).as_posix()} {digest}\n" for path, digest in zip(ordered, hashes, strict=True))
    return text_sha256("".join(lines))


def text_sha256(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def remembered_sha256(path: Path) -> str:
    """As `file_sha256`, but a large local file is read again only once its size, times or inode have changed.

    The hash is kept in the user's cache folder (`CURATE_CACHE`, else `~/.cache/curate`), one file for each path. What
    cannot be kept or read there is computed, so the cache never causes an error.
    """
    before = path.stat()
    if before.st_size < REMEMBERED_BYTES:
        return file_sha256(path)
    stamp, entry = _stamp(before), _entry(path)
    if (known := _recall(entry, stamp)) is not None:
        return known
    settled = time.time_ns() - max(before.st_mtime_ns, before.st_ctime_ns) > _NS_UNTIL_SETTLED
    digest = file_sha256(path)
    if settled and _stamp(path.stat()) == stamp:
        _keep(entry, {**stamp, "sha256": digest})
    return digest


def _stamp(found: os.stat_result) -> dict[str, int]:
    """What changes when a file is written. The time of change tells even where the other time was set back."""
    return {
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
        "inode": found.st_ino,
        "device": found.st_dev,
    }


def _entry(path: Path) -> Path | None:
    """The file that keeps a path's hash; None where there is no cache folder."""
    folder = _cache_folder()
    return folder and folder / "hashes" / f"{text_sha256(os.fsdecode(path.resolve()))}.json"


def _cache_folder() -> Path | None:
    """The folder of CURATE_CACHE, or curate's own in the user's cache; None for a user without a home."""
    if own := os.environ.get("CURATE_CACHE"):
        return Path(own)
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (shared if shared.is_absolute() else Path.home() / ".cache") / "curate"
    except RuntimeError:
        return None


def _recall(entry: Path | None, stamp: dict[str, int]) -> str | None:
    """The hash that was kept with this stamp, if the entry is whole."""
    try:
        kept = {} if entry is None else json.loads(entry.read_bytes())
        digest = kept.pop("sha256")
        return digest if kept == stamp and len(bytes.fromhex(digest)) == 32 else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _keep(entry: Path | None, content: dict[str, int | str]) -> None:
    """Write an entry by a rename, so that other processes see all of it or nothing."""
    if entry is None:
        return
    with contextlib.suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(dir=entry.parent)
        try:
            with open(number, "w") as file:  # noqa: PTH123 - it is open already
                json.dump(content, file)
            Path(name).replace(entry)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
