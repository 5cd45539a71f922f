"""What a published format of SAEs is: files that mark it, how they are described, and how their tensors are read."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from curate.errors import ConfigurationError
from curate.fingerprint import files_sha256, remembered_sha256, text_sha256
from curate.sae.dictionary import DictionaryInfo

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# What `curate sae import` makes of a pickle, in a folder of its own; no run reads it.
UNPICKLED = "unpickled.safetensors"
MOST_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class Source:
    """Where an SAE lies, and what is known of it beside its files.

    Attributes:
        name: as it was asked for.
        path: its folder on this machine.
        repo: its repository on the hub, where it came from there.
        folder: its folder in the repository. For a local folder, its absolute path: formats without a config read layer
            and width from it.
        overrides: entries of its config that sae_lens's registry, or curate's table, puts right.
    """

    name: str
    path: Path
    repo: str | None
    folder: str
    overrides: Mapping[str, object]


class TensorReader(Protocol):
    """Reads a tensor by sae_lens's name in float32; `default` is what an absent one is filled with.

    Raises:
        ConfigurationError: it is missing, of another shape than asked for, or not finite.
    """

    def __call__(self, key: str, *shape: int, default: float | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Format:
    """A published format.

    Attributes:
        name: what the table of known SAEs and records call it.
        weights: the file of its tensors, below its folder; no two formats share one.
        files: the others that it may have, below its folder or, from `../` on, beside it.
        describe: what an SAE in it is, from its config and its tensors' shapes; weights are hashed but not loaded.
        open: a reader of its tensors.
        stored_dtype: the kind of number of the largest tensor in a weights file.
        pickled: whether its weights are a pickle, which no run reads.
    """

    name: str
    weights: str
    files: tuple[str, ...]
    describe: Callable[[Source], DictionaryInfo]
    open: Callable[[DictionaryInfo], TensorReader]
    stored_dtype: Callable[[Path], str]
    pickled: bool = False


def read_json(source: Source, file: str) -> dict[str, Any]:
    """The JSON object in a file of the SAE's folder.

    Raises:
        ConfigurationError: there is none.
    """
    path = source.path / file
    try:
        if path.stat().st_size > MOST_CONFIG_BYTES:
            raise ConfigurationError(f"--sae {source.name}: {path} is too large for a config")
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"--sae {source.name}: {file} is missing in {source.path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"--sae {source.name}: {path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigurationError(f"--sae {source.name}: {path} holds no JSON object")
    # Half a surrogate pair could be written to no record.
    return json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))


def whole(source: Source, what: str, value: object) -> int:
    """A number of features, dimensions or layers in a config.

    Raises:
        ConfigurationError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigurationError(f"--sae {source.name}: its {what} is {value!r}, not a whole number")
    return value


def some_features(source: Source, value: object, d_sae: int) -> int:
    """k of a TopK: how many features are active at once.

    Raises:
        ConfigurationError: there are not so many.
    """
    k = whole(source, "k", value)
    if not 0 < k <= d_sae:
        raise ConfigurationError(f"--sae {source.name}: its k is {k:,}, with {d_sae:,} features")
    return k


def number(source: Source, what: str, value: object) -> float:
    """A positive number in a config.

    Raises:
        ConfigurationError: it is none.
    """
    # An integer of hundreds of digits is no float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e100:
        shown = str(value)[:40] if isinstance(value, float) else repr(value)[:40]
        raise ConfigurationError(f"--sae {source.name}: its {what} is {shown}, not a positive number")
    return float(value)


def content_sha256(source: Source, files: Sequence[str], scale: float | None) -> str:
    """SHA-256 over an SAE's files and what is known of it beside them."""
    paths = [source.path / file for file in files]
    content = f"{files_sha256(source.path, paths, remembered_sha256)} scale {scale!r}"
    if source.overrides:
        content += f" overrides {json.dumps(dict(source.overrides), sort_keys=True)}"
    return text_sha256(content)


def layer_in(path: str, pattern: str) -> int | None:
    """The number that a pattern's group finds in the last part of a path that has one."""
    found = [match for part in path.split("/") if (match := re.search(pattern, part))]
    return int(found[-1][1]) if found else None


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a safetensors file's tensors.

    Raises:
        ConfigurationError: the file is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise ConfigurationError(f"{path} is damaged: {error}; fetch it again") from error


def safetensors_dtype(path: Path) -> str:
    """The kind of number of a safetensors file's largest tensor, by torch's name.

    Raises:
        ConfigurationError: the file is damaged.
    """
    found = shapes(path)
    largest = max(found, key=lambda key: math.prod(found[key]))
    with safe_open(path, "pt") as file:
        dtype = str(file.get_slice(largest).get_dtype())
    return DTYPES.get(dtype, dtype)


def width_and_features(source: Source, path: Path, found: Mapping[str, tuple[int, ...]], key: str) -> tuple[int, int]:
    """Both sizes of a tensor [d_in, d_sae].

    Raises:
        ConfigurationError: there is no such tensor, or it is no matrix.
    """
    shape = found.get(key, ())
    if len(shape) != 2 or min(shape) < 1:
        what = f"{shape}, not a matrix" if key in found else "missing"
        raise ConfigurationError(f"--sae {source.name}: {key} in {path} is {what}")
    return shape[0], shape[1]


def safetensors_reader(path: Path, names: Mapping[str, str], transposed: Sequence[str] = ()) -> TensorReader:
    """A reader of a safetensors file.

    Args:
        names: what the file calls a tensor, by sae_lens's name; those that are not here have the same.
        transposed: the tensors, by sae_lens's names, whose axes the file has the other way round.

    Raises:
        ConfigurationError: the file is damaged.
    """
    keys = set(shapes(path))

    def tensor(key: str, *shape: int, default: float | None = None) -> Tensor:
        own = names.get(key, key)
        if own not in keys and default is not None:
            return torch.full(shape, default)
        with safe_open(path, "pt") as file:
            found = file.get_tensor(own) if own in keys else None
        if found is not None and not found.is_floating_point():
            raise ConfigurationError(f"{path}: {own} holds {found.dtype}, not floating-point numbers")
        found = None if found is None else found.float()
        return checked(path, own, found, shape, key in transposed)

    return tensor


def checked(path: Path, key: str, found: Tensor | None, shape: Sequence[int], transposed: bool = False) -> Tensor:
    """A tensor of a file, in sae_lens's order of axes, if it has the shape that is wanted and is finite.

    Raises:
        ConfigurationError: it has not, or is not.
    """
    wanted = tuple(shape[::-1] if transposed else shape)
    if found is None or found.shape != wanted:
        what = "missing" if found is None else f"{tuple(found.shape)}"
        raise ConfigurationError(f"{path}: {key} is {what}, not {wanted}")
    if not found.isfinite().all():
        raise ConfigurationError(f"{path}: {key} holds NaN or infinity")
    return found.T.contiguous() if transposed else found
