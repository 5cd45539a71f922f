"""A model family that costs nothing, or a set time and size, so that what is measured is everything else."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from safetensors.torch import save_file

from curate.models.family import Family, ModelInfo, Reading
from curate.models.inputs import ModelInputs
from curate.models.packing import Packed

D_MODEL, D_SAE, TOKENS = 4, 8, 6


def text_config(config: Mapping[str, object]) -> Mapping[str, object]:
    """As written."""
    return config


@dataclass(frozen=True)
class Builder:
    """Six tokens, half of them image tokens, whatever the sample, and so many bytes beside them."""

    sample_bytes: int
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def build(self, image: Image, question: str, response: str | None) -> ModelInputs:
        tensors = {"pixel_values": torch.zeros(self.sample_bytes, dtype=torch.uint8)} if self.sample_bytes else {}
        return ModelInputs(torch.arange(TOKENS), torch.arange(TOKENS) < TOKENS // 2, tensors)

    def build_prompt(self, image: Image, question: str) -> ModelInputs:
        return self.build(image, question, None)

    def decode(self, ids: torch.Tensor) -> str:
        return " ".join(map(str, ids.tolist()))

    def build_document(self, parts: Sequence[str | Image]) -> ModelInputs:
        return ModelInputs(torch.arange(TOKENS), torch.arange(TOKENS) < TOKENS // 2, {})


@dataclass(frozen=True)
class Model:
    """Hidden states that are the same for all, after so many seconds for each."""

    sample_seconds: float

    def hidden_states(self, packed: Packed) -> torch.Tensor:
        time.sleep(self.sample_seconds * len(packed.ends))
        return torch.ones(len(packed), D_MODEL)

    def read(self, packed: Packed, hook_layer: int) -> Reading:
        return Reading(self.hidden_states(packed), [torch.zeros(n) for n in packed.n_responses])


def n_parameters(info: ModelInfo, hook_layer: int) -> int:
    """None."""
    return 0


def load_builder(info: ModelInfo) -> Builder:
    """The builder."""
    return Builder(_config(info)["sample_bytes"])


def load_model(info: ModelInfo, hook_layer: int, dtype: torch.dtype, device: str) -> Model:
    """The model."""
    return Model(_config(info)["sample_seconds"])


def _config(info: ModelInfo) -> dict:
    return json.loads((info.path / "config.json").read_text())


def load_whole(info: ModelInfo, dtype: torch.dtype, device: str) -> Model:
    """The same model, which has a head, too."""
    return Model(_config(info)["sample_seconds"])


# What scoring does not call is not there.
_any: Any = load_builder, load_model, load_whole
FAMILY = Family("cheap", text_config, n_parameters, *_any, takes_images=True)


def write_model_and_sae(folder: Path, sample_bytes: int = 0, sample_seconds: float = 0.0) -> tuple[Path, Path]:
    """Folders that look like a model of this family and an SAE for it.

    Args:
        sample_bytes: what a prepared sample is to weigh; sample_seconds: what the model is to take for it.
    """
    model, sae = folder / "model", folder / "sae"
    for path in (model, sae):
        path.mkdir(parents=True)
    sizes = {"hidden_size": D_MODEL, "num_hidden_layers": 1, "max_position_embeddings": 64}
    sizes |= {"sample_bytes": sample_bytes, "sample_seconds": sample_seconds}
    (model / "config.json").write_text(json.dumps({"model_type": FAMILY.model_type, **sizes}))
    save_file({"none": torch.zeros(1)}, model / "model.safetensors")
    config = {"architecture": "standard", "d_in": D_MODEL, "d_sae": D_SAE, "metadata": {"hook_layer": 0}}
    (sae / "cfg.json").write_text(json.dumps(config))
    encoder = {"W_enc": torch.rand(D_MODEL, D_SAE), "b_enc": torch.zeros(D_SAE)}
    decoder = {"W_dec": torch.rand(D_SAE, D_MODEL), "b_dec": torch.zeros(D_MODEL)}
    save_file({**encoder, **decoder}, sae / "sae_weights.safetensors")
    return model, sae
