"""Files from the Hugging Face hub, through its cache."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from curate.errors import DataError

Kind = Literal["dataset", "model"]


def fetch(repo: str, kind: Kind, patterns: Sequence[str], instead: str, revision: str | None = None) -> Path:
    """The folder in the hub's cache that holds the repository's files of these patterns.

    Args:
        revision: a commit; by default the newest.
        instead: what to do when the hub cannot be reached, for the message.

    Raises:
        DataError: there is no such repository, or no way to it.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, repo_type=kind, allow_patterns=list(patterns), revision=revision))
    # The hub's client, its HTTP library and the file system each have their own errors for "not to be had".
    except Exception as error:
        raise DataError(
            f"{repo} could not be fetched from the Hugging Face hub ({type(error).__name__}); {instead}"
        ) from error


def listed_files(repo: str, kind: Kind, cached: Path, revision: str | None = None) -> list[str]:
    """All files of a repository; where the hub cannot be reached, those that its cached folder holds."""
    from huggingface_hub import list_repo_files

    try:
        return list_repo_files(repo, repo_type=kind, revision=revision)
    # As above; the list is for a message, which there is in any case.
    except Exception:
        return sorted(path.relative_to(cached).as_posix() for path in cached.rglob("*") if path.is_file())
