"""Content hashes of data sets, models and dictionaries: what a run was computed from."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from upath import UPath

AnyPath = TypeVar("AnyPath", Path, UPath)


def file_sha256(path: Path | UPath) -> str:
    """SHA-256 of a file's bytes, in hex."""
    file: Any
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_sha256(root: AnyPath, paths: Iterable[AnyPath]) -> str:
    """SHA-256 over the sorted (path below `root`, SHA-256 of content) of the files."""
    ordered = sorted(paths, key=str)
    with ThreadPoolExecutor(8) as pool:
        hashes = pool.map(file_sha256, ordered)
    lines = (f"{path.relative_to(root).as_posix()} {digest}\n" for path, digest in zip(ordered, hashes, strict=True))
    return text_sha256("".join(lines))


def text_sha256(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()
