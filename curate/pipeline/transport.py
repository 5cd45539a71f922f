"""Prepared batches as bytes: what travels from CPU workers to scoring actors."""

import json
from collections.abc import Sequence

from safetensors.torch import load, save

from curate.models.family import ModelInputs
from curate.scoring.prepare import Prepared

_OWN = ("input_ids", "is_image")


def pack(batch: Sequence[Prepared]) -> bytes:
    """A batch as one safetensors file."""
    tensors = {}
    for index, sample in enumerate(batch):
        inputs = {"input_ids": sample.inputs.input_ids, "is_image": sample.inputs.is_image, **sample.inputs.tensors}
        tensors |= {f"{index}.{name}": tensor.contiguous() for name, tensor in inputs.items()}
    samples = [(sample.sample_id, sample.source_row, sample.quality) for sample in batch]
    return save(tensors, metadata={"samples": json.dumps(samples)})


def unpack(data: bytes) -> list[Prepared]:
    """The batch that `pack` was given."""
    tensors = load(data)
    header_length = int.from_bytes(data[:8], "little")
    samples = json.loads(json.loads(data[8 : 8 + header_length])["__metadata__"]["samples"])
    parts: list[dict] = [{} for _ in samples]
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        parts[int(index)][name] = tensor
    return [
        Prepared(
            sample_id,
            source_row,
            quality,
            ModelInputs(part["input_ids"], part["is_image"], {k: v for k, v in part.items() if k not in _OWN}),
        )
        for (sample_id, source_row, quality), part in zip(samples, parts, strict=True)
    ]
