"""Which files hold a data set: from the hub, a local copy, or a plain path."""

import json
import re
from collections.abc import Iterable, Sequence

from upath import UPath

from curate.datasets.layout import Listing
from curate.datasets.table import SUFFIXES
from curate.errors import ConfigurationError, DataError
from curate.hub import fetch
from curate.storage import location

_SPLIT = re.compile(r"\w+(\.\w+)*")  # as `datasets` names splits


def table_files(path: UPath, suffixes: Sequence[str] = SUFFIXES) -> tuple[UPath, list[UPath]]:
    """The files of a table: itself, or those in the folder, in order of name. With the folder that holds them."""
    if path.is_dir():
        if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
            return path, _saved_files(path, "all")
        files = sorted(entry for entry in path.rglob("*") if entry.suffix in suffixes and entry.is_file())
        if not files:
            raise ConfigurationError(f"{path} holds no {', '.join(suffixes)} file")
        return path, files
    if path.suffix not in suffixes:
        raise ConfigurationError(f"{path} is not a {', '.join(suffixes)} file or a folder of them")
    return path.parent, [path]


def dataset_files(
    layout: Listing, data_dir: UPath | None, split: str, first: int | None = None
) -> tuple[UPath, list[UPath]]:
    """The files of a named data set's split, with the folder that they are in.

    Args:
        data_dir: a copy of the hub's layout, a folder of its files or one that holds them in a folder of the data set's
            name, or what `save_to_disk` wrote; None reads from the hub through its cache.
        split: a split, several joined by `+`, or `all`.
        first: only so many of each split's files, which are numbered as on the hub; None takes all.

    Raises:
        ConfigurationError: no such folder, or no file of a split in it.
        DataError: the hub cannot be reached.
    """
    if data_dir is None:
        patterns = [pattern for name in _splits(split, layout.patterns) for pattern in _patterns(layout, name, first)]
        data_dir = location(str(fetch(layout.repo, "dataset", patterns, "name a local copy with --data-dir")))
    elif not data_dir.is_dir():
        raise ConfigurationError(f"--data-dir {data_dir} is not a folder")
    if (data_dir / "state.json").exists() or (data_dir / "dataset_dict.json").exists():
        return data_dir, _saved_files(data_dir, split)
    files: list[UPath] = []
    for name in _splits(split, layout.patterns):
        # Of the hub's, too, only those asked for now: its cache may hold more, which were asked for before.
        for pattern in _patterns(layout, name, first):
            plain = pattern.rpartition("/")[2]
            places = (data_dir.glob(place) for place in (pattern, plain, f"{layout.name}/{plain}"))
            found = next(filter(None, map(sorted, places)), None)
            if found is None:
                raise ConfigurationError(f"{data_dir} has no file {pattern} (split {name} of {layout.name})")
            files += found
    return data_dir, files


def _patterns(layout: Listing, split: str, first: int | None) -> list[str]:
    pattern = layout.patterns[split]
    return [pattern] if first is None else [pattern.replace("*", f"{number:05}-of-*") for number in range(first)]


def _splits(split: str, known: Iterable[str]) -> list[str]:
    names = list(known) if split == "all" else split.split("+")
    if unknown := [name for name in names if name not in known]:
        raise ConfigurationError(f"no split {', '.join(unknown)}; there are: {', '.join(known)}, or all")
    return list(dict.fromkeys(names))


def _saved_files(folder: UPath, split: str) -> list[UPath]:
    try:
        if (folder / "dataset_dict.json").exists():
            known = json.loads((folder / "dataset_dict.json").read_text())["splits"]
            if not all(_SPLIT.fullmatch(name) for name in known):
                raise ValueError("dataset_dict.json names a split that is no plain name")
            return [file for name in _splits(split, known) for file in _saved_files(folder / name, "all")]
        state = json.loads((folder / "state.json").read_text())
        files = [folder / entry["filename"] for entry in state["_data_files"]]
        outside = any(not file.resolve().is_relative_to(folder.resolve()) for file in files)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{folder} is not a whole save_to_disk folder: {type(error).__name__} {error}") from error
    if split not in ("all", "train", state.get("_split")):
        raise ConfigurationError(f"{folder} holds the split {state.get('_split')} alone, not {split}")
    if outside:
        raise DataError(f"{folder / 'state.json'} names files outside its folder")
    return files
