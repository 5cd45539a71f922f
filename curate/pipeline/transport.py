"""Prepared batches as bytes: what travels from CPU workers to scoring actors."""

import json
from collections.abc import Sequence
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from curate.models.family import ModelInputs
from curate.scoring.prepare import Prepared

_OWN = ("input_ids", "is_image")
_SCORED = "scored"


def pack(batch: Sequence[Prepared]) -> bytes:
    """A batch as one safetensors file. A sample's texts are about one image, which is in it once."""
    tensors, samples = {}, []
    for index, sample in enumerate(batch):
        texts = {_SCORED: sample.inputs, **sample.likely}
        for name, inputs in texts.items():
            own = {"input_ids": inputs.input_ids, "is_image": inputs.is_image}
            own |= inputs.tensors if name == _SCORED else {}
            tensors |= {f"{index}.{name}.{key}": tensor.contiguous() for key, tensor in own.items()}
        counts = {name: inputs.n_response for name, inputs in texts.items()}
        samples.append((sample.sample_id, sample.source_row, sample.quality, counts))
    return save(tensors, metadata={"samples": json.dumps(samples)})


def unpack(data: bytes) -> list[Prepared]:
    """The batch that `pack` was given."""
    tensors = load(data)
    header_length = int.from_bytes(data[:8], "little")
    samples = json.loads(json.loads(data[8 : 8 + header_length])["__metadata__"]["samples"])
    parts: list[dict[str, dict[str, Tensor]]] = [{} for _ in samples]
    for key, tensor in tensors.items():
        index, text, name = key.split(".", 2)
        parts[int(index)].setdefault(text, {})[name] = tensor
    batch = []
    for (sample_id, source_row, quality, counts), part in zip(samples, parts, strict=True):
        image = {name: tensor for name, tensor in part[_SCORED].items() if name not in _OWN}
        texts: dict[Any, ModelInputs] = {
            name: ModelInputs(
                part[name]["input_ids"], part[name]["is_image"], {} if name == "alone" else image, n_response
            )
            for name, n_response in counts.items()
        }
        batch.append(Prepared(sample_id, source_row, quality, texts.pop(_SCORED), texts))
    return batch
