"""A checkpoint and an SAE laid out as they are published, with random weights, written in little memory.

`llava-hf/llava-v1.6-mistral-7b-hf` has its weights in shards of up to 5 GB, under names that transformers had before
version 5. Its SAE-V is a folder of sae_lens 3; here its normalize_activations is none, for random weights have no scale
to be measured. Tensors are drawn and written one piece after another.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaNextForConditionalGeneration

from bench.llava import REAL_TEXT, REAL_VISION, config_of, write_processor

NAME = "llava-hf/llava-v1.6-mistral-7b-hf"
SHARD_BYTES = 5 * 10**9
_PIECE = 2**25  # numbers drawn at once
_DTYPES = {"F16": torch.float16, "F32": torch.float32}
# Today's names in transformers, and the published ones.
_PUBLISHED = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.": "",
}


@dataclass(frozen=True)
class Scale:
    """How large model and SAE are."""

    text: dict[str, Any]
    vision: dict[str, Any]
    hook_layer: int
    d_sae: int


SCALES = {
    "full": Scale(REAL_TEXT, REAL_VISION, hook_layer=16, d_sae=65_536),
    "small": Scale(
        {**REAL_TEXT, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4}
        | {"num_attention_heads": 4, "num_key_value_heads": 2},
        {**REAL_VISION, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2},
        hook_layer=2,
        d_sae=1024,
    ),
}


def write_model(folder: Path, scale: Scale, shard_bytes: int = SHARD_BYTES) -> None:
    """The checkpoint: config, tokenizer and processor, shards in float16 and their index."""
    folder.mkdir(parents=True)
    write_processor(folder)
    config = config_of(scale.text, scale.vision)
    config.architectures, config.dtype = ["LlavaNextForConditionalGeneration"], torch.float16
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = LlavaNextForConditionalGeneration(config)
    shapes = {published_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shards = list(_shards(shapes, shard_bytes))
    place: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_random(folder / file, shard, "F16", std=0.02)
        place |= dict.fromkeys(shard, file)
    size = 2 * sum(map(prod, shapes.values()))
    index = {"metadata": {"total_size": size}, "weight_map": place}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def write_sae(folder: Path, scale: Scale) -> None:
    """The SAE, with the keys of the published SAE-V's config."""
    folder.mkdir(parents=True)
    d_model, d_sae = scale.text["hidden_size"], scale.d_sae
    config = {
        "architecture": "standard",
        "activation_fn": "relu",
        "hook_name": f"blocks.{scale.hook_layer}.hook_resid_post",
        "hook_layer": scale.hook_layer,
        "d_in": d_model,
        "d_sae": d_sae,
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "dtype": "float32",
        "model_name": NAME,
    }
    (folder / "cfg.json").write_text(json.dumps(config, indent=2))
    shapes = {"W_enc": (d_model, d_sae), "W_dec": (d_sae, d_model), "b_enc": (d_sae,), "b_dec": (d_model,)}
    # The residual stream of such a random model is about 10 in each direction, so pre-activations are about 1.
    write_random(folder / "sae_weights.safetensors", shapes, "F32", std=0.1 / d_model**0.5, b_enc=-2.0)


def published_name(name: str) -> str:
    """A tensor's name in the published files."""
    old, new = next((old, new) for old, new in _PUBLISHED.items() if name.startswith(old))
    return new + name.removeprefix(old)


def _shards(shapes: dict[str, tuple[int, ...]], most: int) -> Iterator[dict[str, tuple[int, ...]]]:
    shard: dict[str, tuple[int, ...]] = {}
    for name, shape in sorted(shapes.items()):
        if shard and 2 * sum(map(prod, [*shard.values(), shape])) > most:
            yield shard
            shard = {}
        shard[name] = shape
    yield shard


def write_random(
    file: Path, shapes: dict[str, tuple[int, ...]], dtype: str, std: float, b_enc: float = 0.0, seed: int = 0
) -> None:
    """A safetensors file: matrices of normal numbers, norms of ones, biases of zeros."""
    width, end, header = _DTYPES[dtype].itemsize, 0, {}
    for name, shape in shapes.items():
        start, end = end, end + width * prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator().manual_seed(seed)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            for first in range(0, prod(shape), _PIECE):
                count = min(_PIECE, prod(shape) - first)
                if len(shape) > 1 or name == "image_newline":
                    piece = torch.randn(count, generator=generator).mul_(std)
                else:
                    piece = torch.full((count,), {"weight": 1.0, "b_enc": b_enc}.get(name.rpartition(".")[2], 0.0))
                out.write(piece.to(_DTYPES[dtype]).numpy().tobytes())
