"""SAEs whose weights are a pickle, opened for `curate sae import` alone: another process rewrites them first."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from curate.errors import ConfigurationError
from curate.sae import formats
from curate.sae.dictionary import DictionaryInfo
from curate.sae.find import find
from curate.sae.formats.format import MOST_CONFIG_BYTES, UNPICKLED, Format, Source
from curate.sae.load import with_entry

# A disk reads faster than this, and torch is imported well within the first minutes.
SECONDS, BYTES_PER_SECOND = 300.0, 20e6
REFUSED = 3  # unpickle's exit code; the module itself is not imported here


@contextmanager
def opened(name: str) -> Iterator[DictionaryInfo]:
    """What an SAE is, of any format; a pickled one is rewritten into a folder that is there inside the `with` only.

    Raises:
        ConfigurationError: no such SAE, or one that cannot be used; or a pickle that is not plain tensors.
        DataError: the hub cannot be reached.
    """
    source, entry = find(name)
    found = formats.format_of(source)
    if not found.pickled:
        yield with_entry(found.describe(source), entry)
        return
    with tempfile.TemporaryDirectory(prefix="curate-") as folder:
        rewritten = _rewritten(source, found, Path(folder))
        yield with_entry(found.describe(rewritten), entry)


def _rewritten(source: Source, found: Format, folder: Path) -> Source:
    """The same SAE with its tensors as safetensors and its small files, in a folder of its own."""
    pickle = _pickle(source, found)
    for file in found.files:
        path = source.path / file
        if path.is_file() and path.stat().st_size <= MOST_CONFIG_BYTES:
            shutil.copyfile(path, folder / Path(file).name)
    _unpickle(source.name, pickle, folder / UNPICKLED)
    return replace(source, path=folder, folder=str(pickle.absolute()))


def _pickle(source: Source, found: Format) -> Path:
    named = source.path / Path(source.folder).name
    there = [named] if named.is_file() else sorted(source.path.glob(found.weights))
    if len(there) > 1:
        raise ConfigurationError(
            f"--sae {source.name}: {source.path} holds {len(there):,} SAEs; name one of them: {there[0]}"
        )
    return there[0]


def _unpickle(name: str, pickle: Path, target: Path) -> None:
    seconds = SECONDS + pickle.stat().st_size / BYTES_PER_SECOND
    # A variable of torch's turns its checks off where a call does not ask for them; ours does, and it is dropped too.
    environment = {key: value for key, value in os.environ.items() if key != "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"}
    command = [sys.executable, "-P", "-m", "curate.sae.unpickle", str(pickle), str(target)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigurationError(f"--sae {name}: {pickle} was not read within {seconds:,.0f} s; given up") from error
    if done.returncode:
        raise ConfigurationError(f"--sae {name}: {pickle} cannot be imported: {_why(done)}")


def _why(done: "subprocess.CompletedProcess[str]") -> str:
    lines = done.stderr.strip().splitlines()
    if done.returncode == REFUSED and lines:
        return lines[-1]
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return f"the process that read it was ended by {name}; the file is damaged, or there was too little memory"
    return f"the process that read it failed: {lines[-1] if lines else f'exit code {done.returncode}'}"
