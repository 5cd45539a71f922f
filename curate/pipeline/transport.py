"""Prepared batches as bytes: what travels from CPU workers to scoring actors."""

import json
from collections.abc import Sequence
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from curate.models.inputs import ModelInputs
from curate.scoring.prepare import Prepared

_SCORED = "scored"


def batch_to_bytes(batch: Sequence[Prepared]) -> bytes:
    """A batch as one safetensors file. Each image is in it once, however many texts are about it."""
    tensors: dict[str, Tensor] = {}
    samples: list[Any] = []
    for index, sample in enumerate(batch):
        texts: dict[str, Any] = {}
        for name, inputs in {_SCORED: sample.inputs, **sample.others}.items():
            tensors[f"{index}.{name}.input_ids"] = inputs.input_ids.contiguous()
            tensors[f"{index}.{name}.is_image"] = inputs.is_image
            owner = inputs.image or f"{index}.{name}"
            for key, tensor in inputs.tensors.items():
                tensors.setdefault(f"{owner}.{key}", tensor.contiguous())
            texts[name] = (inputs.n_response, inputs.image, {key: f"{owner}.{key}" for key in inputs.tensors})
        samples.append((sample.sample_id, sample.source_row, sample.quality, texts))
    return save(tensors, metadata={"samples": json.dumps(samples)})


def batch_from_bytes(data: bytes) -> list[Prepared]:
    """The batch that `batch_to_bytes` was given."""
    tensors = load(data)
    header_length = int.from_bytes(data[:8], "little")
    samples = json.loads(json.loads(data[8 : 8 + header_length])["__metadata__"]["samples"])
    batch = []
    for index, (sample_id, source_row, quality, texts) in enumerate(samples):
        inputs = {
            name: ModelInputs(
                tensors[f"{index}.{name}.input_ids"],
                tensors[f"{index}.{name}.is_image"],
                {key: tensors[place] for key, place in places.items()},
                n_response,
                image,
            )
            for name, (n_response, image, places) in texts.items()
        }
        scored = inputs.pop(_SCORED)
        batch.append(Prepared(sample_id, source_row, quality, scored, inputs))
    return batch
