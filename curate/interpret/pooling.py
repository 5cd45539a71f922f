"""Features of whole images: activations pooled over tokens, shard by shard, and what the vision tower itself says."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy import sparse
from torch import Tensor

from curate.datasets.labelled import LabelledImages
from curate.errors import DataError, NonFinite, OutOfMemory, SampleError, first_line
from curate.harvest.activations import learned_from
from curate.interpret.pooling_rule import MAX, SUM, Tokens
from curate.interpret.study import LeftOut, Report
from curate.interpret.subject import Subject
from curate.manifest.atomic import write_atomically
from curate.models.packing import pack
from curate.sae.dictionary import Dictionary
from curate.sae.load import load_dictionary
from curate.scoring.memory import is_out_of_memory
from curate.storage import location

_BLOCK_ELEMENTS = 2**22
SHARD_IMAGES = 64
LEFT_OUT = "left out"
# Of a matrix of compressed sparse rows: scipy's names.
_PARTS = ("data", "indices", "indptr", "shape")


# The name of an SAE, and a pooling.
Name = tuple[str, str]


@dataclass(frozen=True)
class PooledImages:
    """The features of images, a row for each.

    Attributes:
        places: of the images that were read, ascending.
        features: [images, d_sae], float32.
        tower: what the vision tower says, the mean over patches: [images, width], float32.
        left_out: the other images.
    """

    places: list[int]
    features: dict[Name, sparse.csr_array]
    tower: np.ndarray
    left_out: list[LeftOut]


def pool(
    dictionary: Dictionary, hidden: Float[Tensor, "tokens d_model"], poolings: Sequence[str]
) -> dict[str, Float[Tensor, " d_sae"]]:
    """Activations pooled over tokens, in float32.

    Args:
        poolings: `sum` and `max` over tokens; `top-K` sums what is left when each token keeps its K strongest
            activations.
    """
    normalized = dictionary.normalized(hidden)
    pooled = {name: torch.zeros_like(dictionary.bias) for name in poolings}
    for block in normalized.split(max(1, _BLOCK_ELEMENTS // dictionary.d_sae)):
        z = dictionary.activations(dictionary.affine(block))
        for name, so_far in pooled.items():
            if name == MAX:
                torch.maximum(so_far, z.amax(0), out=so_far)
            else:
                so_far += (z if name == SUM else _strongest(z, name)).sum(0)
    return pooled


def _strongest(z: Float[Tensor, "tokens d_sae"], pooling: str) -> Float[Tensor, "tokens d_sae"]:
    """The K strongest activations of each token; 0 for the others."""
    values, kept = z.topk(min(int(pooling.removeprefix("top-")), z.shape[1]), dim=1, sorted=False)
    return torch.zeros_like(z).scatter_(1, kept, values)


def pooled_images(
    subject: Subject, images: LabelledImages, poolings: Sequence[str], tokens: Tokens, folder: Path, report: Report
) -> PooledImages:
    """Pooled features of all images, by every SAE from one forward pass each, and of the vision tower.

    An image stands before the question about it, without an answer. The first token and BOS are never pooled: their
    hidden states are huge, and the same in every input. Images run one by one, so that no figure depends on which
    others there are, nor on where a process was cut off.

    Args:
        tokens: which are pooled.
        folder: keeps what is done, in shards; its files are only ever of these images and SAEs.

    Raises:
        DataError: no image could be read, or a shard is damaged.
    """
    n = len(images.labels)
    shards = {
        folder / f"{first // SHARD_IMAGES:05d}.safetensors": range(first, min(first + SHARD_IMAGES, n))
        for first in range(0, n, SHARD_IMAGES)
    }
    missing = {file: places for file, places in shards.items() if not file.exists()}
    done = n - sum(map(len, missing.values()))
    report(done, n)
    if missing:
        folder.mkdir(exist_ok=True)
        read = _reader(subject, images, poolings, tokens)
        for file, places in missing.items():
            rows: dict[int, _Row] = {}
            left_out: list[LeftOut] = []
            for place in places:
                try:
                    rows[place] = read(place)
                except SampleError as error:
                    left_out.append(LeftOut(id=images.ids[place], error=type(error).__name__, reason=str(error)))
                done += 1
                report(done, n)
            write_pooled(file, _stacked(rows, left_out))
    return _joined([read_pooled(file) for file in shards])


class _Row(NamedTuple):
    """One image's features and what the vision tower says of it."""

    features: Mapping[Name, np.ndarray]
    tower: np.ndarray


def _stacked(rows: Mapping[int, _Row], left_out: list[LeftOut]) -> PooledImages:
    of = list(rows.values())
    features = {
        name: sparse.csr_array(np.stack([row.features[name] for row in of])) for name in (of[0].features if of else ())
    }
    tower = np.stack([row.tower for row in of]) if of else np.zeros((0, 0), np.float32)
    return PooledImages(list(rows), features, tower, left_out)


def _reader(subject: Subject, images: LabelledImages, poolings: Sequence[str], tokens: Tokens) -> Callable[[int], _Row]:
    """What reads the image at a place; raises SampleError."""
    builder, cut = subject.load_builder(), subject.load_cut()
    dictionaries = {name: load_dictionary(pair.sae, subject.device) for name, pair in subject.pairs.items()}

    def read(place: int) -> _Row:
        inputs = builder.build(images.decode(place), images.question(place), None)
        packed = pack([inputs])
        try:
            hidden, tower = cut.hidden_states_after(packed, subject.layers), cut.tower(packed)[0].float().mean(0)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(f"{len(packed):,} tokens do not fit into the device's memory") from error
        pooled = learned_from(inputs, builder.bos_token_id)
        if tokens == "image":
            pooled &= inputs.is_image
        features = {
            (name, pooling): found
            for name, dictionary in dictionaries.items()
            for pooling, found in pool(
                dictionary, hidden[subject.pairs[name].hook_layer][pooled.to(subject.device)], poolings
            ).items()
        }
        if not all(bool(each.isfinite().all()) for each in (*hidden.values(), *features.values(), tower)):
            raise NonFinite("hidden states or activations are NaN or infinite")
        return _Row({name: found.cpu().numpy() for name, found in features.items()}, tower.cpu().numpy())

    return read


def write_pooled(file: Path, pooled: PooledImages, more: Mapping[str, np.ndarray] = MappingProxyType({})) -> None:
    """Write a safetensors file, atomically: `places`, `tower`, and of each SAE and pooling the parts of a CSR matrix.

    Args:
        more: other arrays to keep in it.
    """
    content = {"places": np.array(pooled.places, dtype=np.int64), "tower": pooled.tower, **more}
    for (sae, pooling), features in pooled.features.items():
        parts = (features.data, features.indices, features.indptr, np.array(features.shape, dtype=np.int64))
        content |= {f"{sae}/{pooling}/{part}": array for part, array in zip(_PARTS, parts, strict=True)}
    metadata = {LEFT_OUT: json.dumps([each.model_dump() for each in pooled.left_out])}
    write_atomically(location(str(file)), lambda temporary: save_file(content, temporary, metadata))


def read_pooled(file: Path) -> PooledImages:
    """What `write_pooled` wrote.

    Raises:
        DataError: the file is damaged.
    """
    try:
        with safe_open(file, "numpy") as content:
            features = {}
            for key in content.keys():  # noqa: SIM118 - no mapping
                name, _, part = key.rpartition("/")
                if part == _PARTS[0]:
                    data, indices, indptr, shape = (content.get_tensor(f"{name}/{part}") for part in _PARTS)
                    sae, _, pooling = name.rpartition("/")
                    features[sae, pooling] = sparse.csr_array((data, indices, indptr), shape=tuple(shape))
            left_out = [LeftOut(**each) for each in json.loads(content.metadata()[LEFT_OUT])]
            return PooledImages(content.get_tensor("places").tolist(), features, content.get_tensor("tower"), left_out)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged ({first_line(error)}); --overwrite begins anew") from error


def _joined(shards: Sequence[PooledImages]) -> PooledImages:
    left_out = [each for shard in shards for each in shard.left_out]
    read = [shard for shard in shards if shard.places]
    if not read:
        raise DataError(f"no image could be read; the first, {left_out[0].id}: {left_out[0].reason}")
    return PooledImages(
        places=[place for shard in read for place in shard.places],
        features={
            name: sparse.csr_array(sparse.vstack([shard.features[name] for shard in read], format="csr"))
            for name in read[0].features
        },
        tower=np.concatenate([shard.tower for shard in read]),
        left_out=left_out,
    )
