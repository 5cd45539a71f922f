"""Where the SAE lies that `--sae` names: a folder, a known SAE, one of a sae_lens release, or a folder on the hub."""

import difflib
import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from curate.errors import ConfigurationError, DataError
from curate.hub import fetch, listed_files
from curate.sae.formats import FORMATS, files
from curate.sae.formats.format import Source
from curate.sae.known import KnownSAE, named

_REPO = r"[\w.-]+/[\w.-]+"
_HUB = re.compile(rf"(?P<repo>{_REPO})(?:/(?P<folder>[^@]+))?(?:@(?P<revision>[\w./-]+))?")
# sae_lens's names of the formats that are read here; it has others, none of which is one of an SAE on its own.
_LENS_FORMATS = {
    None: "sae_lens",
    "gemma_2": "gemma_scope",
    "gemma_3": "gemma_scope_2",
    "llama_scope": "llama_scope",
    "dictionary_learning_1": "dictionary_learning",
    "qwen_scope": "qwen_scope",
    "sparsify": "sparsify",
}
_LONGEST_NAME = 255
WAYS = (
    "a folder, a name of `curate saes` (NAME or NAME:LAYER), RELEASE:SAE_ID of sae_lens, or a folder of a hub "
    "repository, OWNER/REPO/FOLDER@REVISION"
)


def find(name: str) -> tuple[Source, KnownSAE | None]:
    """The SAE's folder on this machine, fetched if it is on the hub, and its entry in the table of known ones.

    Args:
        name: a folder; NAME or NAME:LAYER of the table; RELEASE:SAE_ID of sae_lens's registry; or
            OWNER/REPO/FOLDER@REVISION, where folder and revision may be left out. Only that folder's files are fetched.
            Where a folder holds many SAEs, the file of one stands for it.

    Raises:
        ConfigurationError: it names none.
        DataError: the hub cannot be reached.
    """
    too_long = any(len(part) > _LONGEST_NAME for part in name.split("/"))
    if not name or not name.isprintable() or too_long or "://" in name:
        raise ConfigurationError(f"--sae {name[:80]!r}: not a name of an SAE. Give {WAYS}")
    path = Path(name)
    if path.is_dir():
        return Source(name, path, None, str(path.absolute()), {}), None
    if path.is_file():
        return _beside(name, str(path.absolute())), None
    if (known := named(name)) is not None:
        entry, layer = known
        listed = Source(name, path, entry.repo, entry.folder_of(layer), _deciding(entry.overrides))
        return _fetched(listed, entry.revision), entry
    short, _, rest = name.partition(":")
    if rest and "/" not in short:
        return _of_release(name, short, rest), None
    if re.fullmatch(_REPO, short) and rest:
        raise ConfigurationError(f"--sae {name}: a folder of a hub repository is named {short}/{rest}, without a colon")
    if path.is_absolute() or name.startswith(".") or (match := _HUB.fullmatch(name)) is None:
        raise ConfigurationError(f"--sae {name}: no such folder, and no other name of an SAE: {WAYS}")
    return _fetched(Source(name, path, match["repo"], match["folder"] or "", {}), match["revision"]), None


def _beside(name: str, file: str) -> Source:
    """The folder that a file on this machine belongs to; a file that stands for one SAE of many keeps its name."""
    folder = _without_weights(file)
    if folder == file and folder_of(file) == file:
        folder, _, own = file.rpartition("/")
        if not any(own in each.files for each in FORMATS.values()):
            known = ", ".join(each.weights for each in FORMATS.values())
            raise ConfigurationError(f"--sae {name}: not a known name of an SAE's weights ({known}); name the folder")
    return Source(name, Path(folder_of(folder)), None, folder, {})


def _of_release(name: str, release: str, sae_id: str) -> Source:
    known = _registry().get(release)
    if known is None:
        raise ConfigurationError(
            f"--sae {name}: sae_lens has no release {release}, and `curate saes` lists no such name; releases of a "
            f"name like it: {_some(release, _registry())}"
        )
    listed = {each["id"]: each for each in known["saes"]}
    if sae_id not in listed:
        raise ConfigurationError(f"--sae {name}: the release {release} has no {sae_id}; it has {_some(sae_id, listed)}")
    kind = known.get("conversion_func")
    if kind not in _LENS_FORMATS:
        formats = ", ".join(FORMATS)
        raise ConfigurationError(f"--sae {name}: this release is in the format {kind}; these are read: {formats}")
    entry = listed[sae_id]
    overrides = _deciding(known.get("config_overrides") or {})
    # No revision pins the files that its norm_scaling_factor is of, so that is not taken; the reading is measured.
    return _fetched(Source(name, Path(), known["repo_id"], entry["path"], overrides), None)


def _deciding(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The one entry that decides how an SAE is read; others are about data and model."""
    return {key: value for key, value in overrides.items() if key == "normalize_activations"}


def _some(wanted: str, names: Iterable[str], most: int = 5) -> str:
    """The few names that are most like the wanted one, in their order."""
    names = list(names)
    close = difflib.get_close_matches(wanted, names, most, cutoff=0.3)
    chosen = [*close, *(name for name in names if name not in close)][:most]
    return ", ".join(name for name in names if name in chosen) + (
        f" and {len(names) - most:,} more" if len(names) > most else ""
    )


@cache
def _registry() -> dict[str, Any]:
    """sae_lens's list of releases, as the package has it; to import the package would take many seconds."""
    package = importlib.util.find_spec("sae_lens")
    assert package is not None, "sae_lens is a dependency"
    assert package.origin is not None, "sae_lens has files"
    path = Path(package.origin).parent / "pretrained_saes.yaml"
    return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _fetched(source: Source, revision: str | None) -> Source:
    """The same with its folder in the hub's cache."""
    repo, folder = source.repo, _without_weights(source.folder.strip("/"))
    assert repo is not None, "a folder on the hub"
    if ".." in f"{folder}/{repo}/{revision}".split("/"):
        raise ConfigurationError(f"--sae {source.name}: it leads out of the repository")
    if any(character in folder for character in "*?["):
        raise ConfigurationError(f"--sae {source.name}: name one folder; {folder} may stand for several")
    is_file = folder != folder_of(folder)
    patterns = [folder] if is_file else files(folder)
    instead = f"name a folder on this machine with --sae, or another SAE: {WAYS}"
    try:
        root = fetch(repo, "model", patterns, instead, revision)
    except DataError as error:
        # A name of the table or of a release was not meant as a folder.
        no_folder = "no such folder on this machine, and " if source.name.startswith(repo) else ""
        raise DataError(f"--sae {source.name}: {no_folder}{error}") from error
    found = root / folder_of(folder)
    if not _holds_sae(found, folder if is_file else None):
        where = folder or "its root folder"
        there = folders_with_saes(listed_files(repo, "model", root, revision))
        has = f"it has {_some(folder, there)}" if there else "nor anywhere else that is known here"
        raise ConfigurationError(f"--sae {source.name}: {repo} has no SAE in {where}; {has}")
    return Source(source.name, found, repo, folder, source.overrides)


def _without_weights(path: str) -> str:
    """The folder of a weights file; of one that shares its folder with other SAEs', the file."""
    for each in FORMATS.values():
        if path == each.weights or path.endswith(f"/{each.weights}"):
            return path.removesuffix(each.weights).rstrip("/")
    return path


def folder_of(path: str) -> str:
    """The folder that an SAE's file is in; a folder is its own."""
    above, _, name = path.rpartition("/")
    return above if any("*" in each.weights and fnmatch(name, each.weights) for each in FORMATS.values()) else path


def _holds_sae(folder: Path, file: str | None) -> bool:
    if file is not None:
        return (folder / Path(file).name).is_file()
    return folder.is_dir() and any(next(folder.glob(each.weights), None) for each in FORMATS.values())


def folders_with_saes(paths: Sequence[str]) -> list[str]:
    """What to name for each SAE among a repository's files: its folder, or its file where one folder has many."""
    weights = [each.weights for each in FORMATS.values()]
    found = [path for path in paths if any(fnmatch(f"/{path}", f"*/{each}") for each in weights)]
    return list(dict.fromkeys(_without_weights(path) or "the root folder" for path in found))
