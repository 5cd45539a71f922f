"""Gemma Scope (Gemma 2): JumpReLU in `params.npz`, without a config.

z = x W_enc + b_enc where that exceeds the feature's threshold, else 0 (Lieberum et al. 2024, arXiv:2408.05147; the
published tutorial's `JumpReLUSAE`): b_dec is not subtracted from the input.
"""

import math
import re
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from curate.errors import ConfigurationError, first_line
from curate.sae.dictionary import DictionaryInfo
from curate.sae.formats.format import (
    Format,
    Source,
    TensorReader,
    checked,
    content_sha256,
    layer_in,
    width_and_features,
)

WEIGHTS = "params.npz"
REPO = re.compile(r"gemma-scope-(?!2-)([\w-]+)")
SITES = {"-mlp": "an MLP's output", "-att": "attention's output", "-transcoders": "an MLP"}
# What reading a hostile or damaged archive can raise: zipfile, zlib, and numpy's parser of headers each have their own.
DAMAGED = (
    *(OSError, ValueError, TypeError, EOFError, RuntimeError, MemoryError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)


def describe(source: Source) -> DictionaryInfo:
    """An SAE in Gemma Scope's format; layer and model are in the names of folder and repository.

    Raises:
        ConfigurationError: it is damaged, or not an SAE of the residual stream.
    """
    # A copy on this machine may keep the repository's name above the SAE's folder.
    repo = next((match[1] for text in (source.repo, source.folder) if text and (match := REPO.search(text))), None)
    for site, what in SITES.items():
        if repo is not None and repo.endswith(site):
            raise ConfigurationError(f"--sae {source.name}: it reads {what}, not the residual stream")
    if "embedding" in source.folder.split("/")[-3:]:
        raise ConfigurationError(f"--sae {source.name}: it reads embeddings, not the residual stream after a block")
    path = source.path / WEIGHTS
    found = {key: array.shape for key, array in _arrays(path).items()}
    d_model, d_sae = width_and_features(source, path, found, "W_enc")
    return DictionaryInfo(
        name=source.name,
        path=source.path,
        weights=path,
        format=FORMAT.name,
        architecture="jumprelu",
        d_model=d_model,
        d_sae=d_sae,
        hook_layer=layer_in(source.folder, r"^layer_(\d+)$"),
        model_name=None if repo is None else f"google/gemma-2-{repo.removesuffix('-res').removesuffix('-pt')}",
        model_hash=None,
        sha256=content_sha256(source, (WEIGHTS,), 1.0),
        config={"apply_b_dec_to_input": False, "normalize_activations": "none"},
    )


class _Array(NamedTuple):
    shape: tuple[int, ...]
    dtype: str


def _arrays(path: Path) -> dict[str, _Array]:
    """Shapes and kinds of an .npz file's arrays, from their headers.

    Raises:
        ConfigurationError: it is damaged, holds something other than numbers, or arrays of another size than their
            headers say.
    """
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else _header_2_0
                    shape, _, dtype = read(file)
                    if dtype.kind != "f":
                        what = "Python objects" if dtype.hasobject else str(dtype)
                        raise ValueError(f"{member.filename} holds {what}, not floating-point numbers")
                    if min(shape, default=0) < 0 or file.tell() + dtype.itemsize * math.prod(shape) != member.file_size:
                        raise ValueError(f"{member.filename} is not as long as its header says")
                    found[member.filename.removesuffix(".npy")] = _Array(tuple(shape), dtype.name)
    except DAMAGED as error:
        raise ConfigurationError(f"{path} is damaged: {first_line(error)}; fetch it again") from error
    return found


_header_2_0 = np.lib.format.read_array_header_2_0


def open_tensors(info: DictionaryInfo) -> TensorReader:
    """A reader of its tensors."""
    known = _arrays(info.weights)

    def tensor(key: str, *shape: int, default: float | None = None) -> Tensor:
        if key not in known and default is not None:
            return torch.full(shape, default)
        found = None
        if key in known:
            if known[key].shape != shape:  # before a hostile header has memory taken
                raise ConfigurationError(f"{info.weights}: {key} is {known[key].shape}, not {shape}")
            try:
                with np.load(info.weights, allow_pickle=False) as arrays:
                    found = torch.from_numpy(arrays[key].astype(np.float32))
            except DAMAGED as error:
                raise ConfigurationError(f"{info.weights} is damaged: {first_line(error)}; fetch it again") from error
        return checked(info.weights, key, found, shape)

    return tensor


def stored_dtype(path: Path) -> str:
    """The kind of number of its largest array."""
    return max(_arrays(path).values(), key=lambda array: math.prod(array.shape)).dtype


FORMAT = Format("gemma_scope", WEIGHTS, (), describe, open_tensors, stored_dtype)
