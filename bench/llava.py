"""A LLaVA-NeXT of the real architecture that two cores can run, an SAE for it, and samples: random, and seeded.

Widths are an eighth of LLaVA-NeXT-Mistral-7B's, blocks half as many; tiles, patches, newlines, vocabulary and chat
turns are as there. The tokenizer is the demo's. What such a model finds means nothing; what it costs does.
"""

import io
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, LlavaNextConfig, LlavaNextForConditionalGeneration, MistralConfig

from curate import demo
from curate.datasets.demo import Scene, answer, draw_scene, questions, render, wrong_answer

D_MODEL, LAYERS, HOOK_LAYER, D_SAE, VOCABULARY = 512, 16, 7, 8192, 32_064
IMAGE_SIZE, PATCH_SIZE = 336, 14
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
REAL_TEXT = {
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32_768,
}
REAL_VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "projection_dim": 768,
}
SENTENCES = (2, 22)  # of an answer


@dataclass(frozen=True)
class Paths:
    """What was written: folders of the model and its SAE, and a table of samples."""

    model: Path
    sae: Path
    data: Path


def write_all(folder: Path, rows: int) -> Paths:
    """Model, SAE and that many samples, in a folder that is there."""
    paths = Paths(folder / "model", folder / "sae", folder / "data" / "samples.parquet")
    write_model(paths.model)
    write_sae(paths.sae)
    write_samples(paths.data, rows)
    return paths


def write_model(folder: Path, seed: int = 0) -> None:
    """92 million parameters: 54 in 16 blocks of width 512, 5 in a tower of 24 × 128, the rest embeddings."""
    text = {"hidden_size": D_MODEL, "intermediate_size": 1792, "num_hidden_layers": LAYERS}
    text |= {"num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 4096}
    vision = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 24, "num_attention_heads": 2}
    _write(folder, text, vision, "cpu", seed)


def write_real_model(folder: Path, seed: int = 0) -> None:
    """The 7.6 billion parameters of LLaVA-NeXT-Mistral-7B by its config, made on the GPU; 15 GB on the disk."""
    _write(folder, REAL_TEXT, REAL_VISION, "cuda", seed)


def write_processor(folder: Path) -> None:
    """The demo's tokenizer and chat template, and LLaVA-NeXT's image processor at its real sizes."""
    for file in demo.MODEL.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder)
    processor = json.loads((folder / "processor_config.json").read_text())
    processor["patch_size"] = PATCH_SIZE
    processor["image_processor"] |= {
        "image_grid_pinpoints": PINPOINTS,
        "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "size": {"shortest_edge": IMAGE_SIZE},
    }
    (folder / "processor_config.json").write_text(json.dumps(processor))


def config_of(text: dict[str, Any], vision: dict[str, Any]) -> LlavaNextConfig:
    """LLaVA-NeXT's config with text and vision models of these sizes."""
    return LlavaNextConfig(
        text_config=MistralConfig(vocab_size=VOCABULARY, sliding_window=None, **text),
        vision_config=CLIPVisionConfig(image_size=IMAGE_SIZE, patch_size=PATCH_SIZE, **vision),
        image_token_index=json.loads((demo.MODEL / "config.json").read_text())["image_token_index"],
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-2,
    )


def _write(folder: Path, text: dict[str, Any], vision: dict[str, Any], device: str, seed: int) -> None:
    folder.mkdir(parents=True)
    write_processor(folder)
    config = config_of(text, vision)
    torch.manual_seed(seed)
    with torch.device(device):
        model: Any = LlavaNextForConditionalGeneration._from_config(
            config, dtype=torch.float32 if device == "cpu" else torch.bfloat16
        )
    model.to(torch.bfloat16).save_pretrained(folder)


def write_sae(
    folder: Path, seed: int = 0, d_model: int = D_MODEL, d_sae: int = D_SAE, hook_layer: int = HOOK_LAYER
) -> None:
    """A standard SAE in sae_lens's format; of 8,192 features about 190 fire on a token."""
    folder.mkdir(parents=True)
    config = {
        "architecture": "standard",
        "d_in": d_model,
        "d_sae": d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        # So that pre-activations are standard normal, whatever the random model's scale.
        "normalize_activations": "constant_norm_rescale",
        "reshape_activations": "none",
        "metadata": {"hook_layer": hook_layer, "hook_name": f"blocks.{hook_layer}.hook_resid_post"},
    }
    (folder / "cfg.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(d_model, d_sae, generator=generator), dim=0)
    save_file(
        {
            "W_enc": directions,
            "b_enc": torch.full((d_sae,), -2.0),
            "W_dec": directions.T.contiguous(),
            "b_dec": torch.zeros(d_model),
        },
        folder / "sae_weights.safetensors",
    )


def write_samples(file: Path, rows: int, seed: int = 0) -> None:
    """A parquet table: drawn scenes of 336 × 336 as JPEG, a question, and two answers of several sentences.

    They come to 1,176 image tokens and, on average, about 130 others.
    """
    file.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([_sample(seed, row) for row in range(rows)]), file, row_group_size=256)


def _sample(seed: int, row: int) -> dict[str, object]:
    rng = random.Random(f"bench:{seed}:{row}")
    scene = replace(draw_scene(rng), size=(IMAGE_SIZE, IMAGE_SIZE))
    jpeg = io.BytesIO()
    render(scene, rng).save(jpeg, "JPEG", quality=90)
    asked = rng.choice(questions(scene))
    chosen, rejected = (list(_sentences(scene, rng, right)) for right in (True, False))
    return {
        "question": f"{asked.text} Look closely, and say what else there is to see, part by part.",
        "image": jpeg.getvalue(),
        "chosen": " ".join(chosen),
        "rejected": " ".join(rejected),
    }


def _sentences(scene: Scene, rng: random.Random, right: bool) -> Iterator[str]:
    for _ in range(rng.randint(*SENTENCES)):
        question = rng.choice(questions(scene))
        yield str(answer(question, scene) if right else wrong_answer(question, scene, rng))
