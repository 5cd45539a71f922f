"""Files from the Hugging Face hub, through its cache."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from curate.errors import DataError


def fetch(
    repo: str, kind: Literal["dataset", "model"], patterns: Sequence[str], instead: str, revision: str | None = None
) -> Path:
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
