"""Llama Scope (Llama 3.1): JumpReLU with one threshold, in `checkpoints/final.safetensors` beside `hyperparams.json`.

Hidden states are scaled to the norm √d_model by the data's average norm, which is written down; the threshold is in
hidden states' own units, so that it is scaled alike (He et al. 2024, arXiv:2410.20526; as sae_lens reads it).
"""

import torch
from torch import Tensor

from curate.errors import ConfigurationError
from curate.sae.dictionary import DictionaryInfo
from curate.sae.formats.format import (
    Format,
    Source,
    TensorReader,
    content_sha256,
    layer_in,
    number,
    read_json,
    safetensors_dtype,
    safetensors_reader,
    whole,
)

CONFIG, WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
NAMES = {
    "W_enc": "encoder.weight",
    "b_enc": "encoder.bias",
    "W_dec": "decoder.weight",
    "b_dec": "decoder.bias",
}
MODEL = "Llama3_1-8B-Base"  # in the names of repositories and folders
HOOK = r"^blocks\.(\d+)\.hook_resid_post$"


def describe(source: Source) -> DictionaryInfo:
    """An SAE in Llama Scope's format.

    Raises:
        ConfigurationError: it is damaged, or not an SAE of the residual stream.
    """
    config = read_json(source, CONFIG)
    hook, out = config.get("hook_point_in"), config.get("hook_point_out")
    layer = layer_in(str(hook), HOOK)
    if layer is None or out != hook:
        raise ConfigurationError(
            f"--sae {source.name}: it reads {hook} and writes {out}, not the residual stream after a block"
        )
    if config.get("act_fn", "jumprelu") != "jumprelu":
        raise ConfigurationError(f"--sae {source.name}: its act_fn is {config['act_fn']}; jumprelu alone is read")
    if config.get("norm_activation", "dataset-wise") != "dataset-wise":
        raise ConfigurationError(
            f"--sae {source.name}: its norm_activation is {config['norm_activation']}; dataset-wise alone is read"
        )
    if config.get("use_glu_encoder"):
        raise ConfigurationError(f"--sae {source.name}: it has a gated encoder (use_glu_encoder: true); none is read")
    if config.get("use_decoder_bias") is False or config.get("apply_decoder_bias_to_pre_encoder"):
        raise ConfigurationError(f"--sae {source.name}: its decoder bias is used in another way than published ones'")
    d_model, d_sae = whole(source, "d_model", config.get("d_model")), whole(source, "d_sae", config.get("d_sae"))
    norms = config.get("dataset_average_activation_norm")
    norm = number(source, "dataset_average_activation_norm.in", norms.get("in") if isinstance(norms, dict) else norms)
    threshold = number(source, "jump_relu_threshold", config.get("jump_relu_threshold"))
    scale = d_model**0.5 / norm
    return DictionaryInfo(
        name=source.name,
        path=source.path,
        weights=source.path / WEIGHTS,
        format=FORMAT.name,
        architecture="jumprelu",
        d_model=d_model,
        d_sae=d_sae,
        hook_layer=layer,
        model_name="meta-llama/Llama-3.1-8B" if MODEL in f"{source.repo}/{source.folder}" else None,
        model_hash=None,
        sha256=content_sha256(source, (CONFIG, WEIGHTS), scale),
        config={
            **config,
            "apply_b_dec_to_input": False,
            "normalize_activations": "none",
            "threshold": threshold * scale,
        },
        scale=scale,
        units="normalised",
        notes=(f"folded the activation scale {scale:.6g} that {CONFIG} tells into the weights",),
    )


def open_tensors(info: DictionaryInfo) -> TensorReader:
    """A reader of its tensors; encoder and decoder are stored as linear layers, the other way round."""
    of_file = safetensors_reader(info.weights, NAMES, transposed=("W_enc", "W_dec"))

    def tensor(key: str, *shape: int, default: float | None = None) -> Tensor:
        if key == "threshold":
            return torch.full(shape, float(str(info.config["threshold"])))
        return of_file(key, *shape, default=default)

    return tensor


FORMAT = Format("llama_scope", WEIGHTS, (CONFIG,), describe, open_tensors, safetensors_dtype)
