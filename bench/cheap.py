"""A model family that costs nothing, so that what is measured is everything else."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL.Image import Image
from safetensors.torch import save_file

from curate.models.family import Family, ModelInfo, ModelInputs

D_MODEL, D_SAE, TOKENS = 4, 8, 6


def text_config(config: Mapping[str, object]) -> Mapping[str, object]:
    """As written."""
    return config


class Builder:
    """Six tokens, half of them image tokens, whatever the sample."""

    def build(self, image: Image, question: str, response: str | None) -> ModelInputs:
        return ModelInputs(torch.arange(TOKENS), torch.arange(TOKENS) < TOKENS // 2, {})


class Model:
    """Hidden states that are the same for all."""

    def hidden_states(self, batch: Sequence[ModelInputs]) -> list[torch.Tensor]:
        return [torch.ones(TOKENS, D_MODEL) for _ in batch]


def n_parameters(info: ModelInfo, hook_layer: int) -> int:
    """None."""
    return 0


def load_builder(info: ModelInfo) -> Builder:
    """The builder."""
    return Builder()


def load_model(info: ModelInfo, hook_layer: int, dtype: torch.dtype, device: str) -> Model:
    """The model."""
    return Model()


FAMILY = Family("cheap", text_config, n_parameters, load_builder, load_model)


def write_model_and_sae(folder: Path) -> tuple[Path, Path]:
    """Folders that look like a model of this family and an SAE for it."""
    model, sae = folder / "model", folder / "sae"
    for path in (model, sae):
        path.mkdir(parents=True)
    sizes = {"hidden_size": D_MODEL, "num_hidden_layers": 1, "max_position_embeddings": 64}
    (model / "config.json").write_text(json.dumps({"model_type": FAMILY.model_type, **sizes}))
    save_file({"none": torch.zeros(1)}, model / "model.safetensors")
    config = {"architecture": "standard", "d_in": D_MODEL, "d_sae": D_SAE, "metadata": {"hook_layer": 0}}
    (sae / "cfg.json").write_text(json.dumps(config))
    encoder = {"W_enc": torch.rand(D_MODEL, D_SAE), "b_enc": torch.zeros(D_SAE)}
    decoder = {"W_dec": torch.rand(D_SAE, D_MODEL), "b_dec": torch.zeros(D_MODEL)}
    save_file({**encoder, **decoder}, sae / "sae_weights.safetensors")
    return model, sae
