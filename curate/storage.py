"""Where runs and data lie: a path on this machine, or a URL that fsspec can reach."""

import os
import shutil
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator
from upath import UPath

from curate.errors import ConfigurationError


def _no_secret(value: object) -> object:
    """Before it is written to a record, or sent to a cluster."""
    if isinstance(value, os.PathLike):
        return str(value)
    if isinstance(value, str) and (why := _secret(value)):
        raise ValueError(why)
    return value


Location = Annotated[str, BeforeValidator(_no_secret)]


def _here(output: str) -> str:
    if "://" in output:
        raise ValueError(f"{output}: this is written on this machine; copy it when it is done")
    return output


# Of what is not a run: files that grow line by line, and libraries that write their own.
LocalFolder = Annotated[str, AfterValidator(_here)]


def _secret(text: str) -> str | None:
    """Why a URL may carry one; None if it does not."""
    url = urlsplit(text) if "://" in text else None
    if url is None or not (url.password or url.query):
        return None
    return (
        f"{url.scheme}://…{url.path}: credentials and options do not belong in a URL, which is recorded with the run; "
        "give them in the environment"
    )


def location(text: str) -> UPath:
    """A local path, or a URL such as `s3://bucket/folder`. Credentials come from the environment, never the URL.

    Raises:
        ConfigurationError: a URL that carries a password, that no library speaks, or whose library is not installed.
    """
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" not in text:
        return UPath(text)
    if why := _secret(text):
        raise ConfigurationError(why)
    try:
        path = UPath(text)
        path.fs  # noqa: B018 - makes the connection's object, and so finds what is missing
    except (ImportError, ValueError) as error:
        raise ConfigurationError(f"{text}: {error}") from error
    return path


def absolute(text: str) -> str:
    """A local path made absolute; a URL, or the name of a pipeline's stage, as it is."""
    return text if "://" in text or text.startswith("${") else str(Path(text).absolute())


def is_there(name: str) -> bool:
    """Whether a name is that of a file or folder on this machine; one too long for a path is not."""
    try:
        return Path(name).exists()
    except OSError:
        return False


def absolute_if_there(name: str) -> str:
    """What may be a path or a name of something else: made absolute if there is such a file or folder."""
    return absolute(name) if is_there(name) else name


def local_path(path: UPath | Path) -> Path | None:
    """The path, if it is in this machine's file system, where renames are atomic and locks exist."""
    return Path(str(path)) if isinstance(path, Path) else None


def follow_umask(folder: Path) -> None:
    """Give the files in a folder the permissions that the user's umask gives new ones.

    safetensors makes its files for their owner alone, whatever the umask.
    """
    new = folder / f".{os.getpid()}.mode"
    new.touch()
    mode = new.stat().st_mode
    new.unlink()
    for file in folder.iterdir():
        if file.is_file():
            file.chmod(mode)


def remove(path: UPath) -> None:
    """Remove a file, or a folder with all that is in it."""
    if not path.is_dir():
        path.unlink()
    elif (local := local_path(path)) is not None:
        shutil.rmtree(local)
    else:
        path.fs.rm(path.path, recursive=True)
