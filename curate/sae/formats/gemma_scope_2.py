"""Gemma Scope 2 (Gemma 3): JumpReLU in `params.safetensors`, beside a `config.json` that may be absent.

z = x W_enc + b_enc where that exceeds the feature's threshold, else 0 (Rajamanoharan et al. 2024, arXiv:2407.14435,
with both biases as published: b_dec is not subtracted from the input).
"""

import re

from curate.errors import ConfigurationError
from curate.sae.dictionary import DictionaryInfo
from curate.sae.formats.format import (
    Format,
    Source,
    TensorReader,
    content_sha256,
    layer_in,
    read_json,
    safetensors_dtype,
    safetensors_reader,
    shapes,
    width_and_features,
)

CONFIG, WEIGHTS = "config.json", "params.safetensors"
HOOK = r"^(?:model\.)?(?:language_model\.)?layers\.(\d+)\.output$"
# Folders of a repository, with or without `_all`, and what the SAEs in them read.
SITES = {"attn_out": "attention's output", "mlp_out": "an MLP's output", "transcoder": "an MLP", "clt": "MLPs"}
RESIDUAL = "resid_post"


def describe(source: Source) -> DictionaryInfo:
    """An SAE in Gemma Scope 2's format.

    Raises:
        ConfigurationError: it is damaged, or not an SAE of the residual stream.
    """
    config = read_json(source, CONFIG) if (source.path / CONFIG).is_file() else {}
    kind = config.get("type", "sae")
    places = {part.removesuffix("_all") for part in source.folder.split("/")[-3:]}
    for site, what in SITES.items():
        if site in places:
            raise ConfigurationError(f"--sae {source.name}: it reads {what}, not the residual stream")
    hook_in = config.get("hf_hook_point_in")
    if kind != "sae" or config.get("hf_hook_point_out", hook_in) != hook_in:
        what = "a transcoder" if kind == "sae" else f"a {kind}"
        raise ConfigurationError(f"--sae {source.name}: it is {what}, not an SAE: it reads one place, writes another")
    if (architecture := config.get("architecture", "jump_relu")) != "jump_relu":
        raise ConfigurationError(f"--sae {source.name}: its architecture is {architecture}; jump_relu alone is read")
    path = source.path / WEIGHTS
    found = shapes(path)
    if config.get("affine_connection") or "affine_skip_connection" in found:
        raise ConfigurationError(f"--sae {source.name}: it is an SAE with a skip connection; only plain SAEs are read")
    if not config and RESIDUAL not in places:
        raise ConfigurationError(
            f"--sae {source.name}: without {CONFIG} the folder above says what it reads, and that is not {RESIDUAL}; "
            f"keep the repository's folders, such as {RESIDUAL}/layer_17_width_16k_l0_small"
        )
    d_model, d_sae = width_and_features(source, path, found, "w_enc")
    files = (CONFIG, WEIGHTS) if config else (WEIGHTS,)
    return DictionaryInfo(
        name=source.name,
        path=source.path,
        weights=path,
        format=FORMAT.name,
        architecture="jumprelu",
        d_model=d_model,
        d_sae=d_sae,
        hook_layer=_layer(source, config),
        model_name=_model(source, config),
        model_hash=None,
        sha256=content_sha256(source, files, 1.0),
        config={**config, "apply_b_dec_to_input": False, "normalize_activations": "none"},
        notes=() if config else ("there is no config.json: layer and model are those of the folder's name",),
    )


def _layer(source: Source, config: dict[str, object]) -> int | None:
    named = layer_in(source.folder, r"^layer_(\d+)_")
    if (hook := config.get("hf_hook_point_in")) is None:
        return named
    if (told := layer_in(str(hook), HOOK)) is None:
        raise ConfigurationError(f"--sae {source.name}: it reads {hook}, not the residual stream after a block")
    return told


def _model(source: Source, config: dict[str, object]) -> str | None:
    """`google/gemma-3-4b-it`, whose SAEs are in `google/gemma-scope-2-4b-it`; configs also write `gemma-v3-4b-it`."""
    found = re.search(r"gemma-scope-2-(\w+-(?:it|pt))", source.repo or "")
    told = config.get("model_name") or (found and f"gemma-3-{found[1]}")
    if not told:
        return None
    name = str(told).rpartition("/")[2].replace("gemma-v3", "gemma-3")
    # The smallest base model alone is published without the suffix.
    return "google/" + name.replace("gemma-3-270m-pt", "gemma-3-270m")


def open_tensors(info: DictionaryInfo) -> TensorReader:
    """A reader of its tensors."""
    return safetensors_reader(info.weights, {"W_enc": "w_enc", "W_dec": "w_dec"})


FORMAT = Format("gemma_scope_2", WEIGHTS, (CONFIG,), describe, open_tensors, safetensors_dtype)
