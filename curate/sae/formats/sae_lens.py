"""sae_lens's own format, of all its versions: `cfg.json` and `sae_weights.safetensors`.

Configs before sae_lens 6 are read as its `handle_pre_6_0_config` does, but said in notes. Where a config's
`normalize_activations` is `expected_average_only_in`, sae_lens 3 to 5 wrote it with weights into which the scale was
folded and with those into which it was not, so that the scale is left open here unless it is written somewhere.
"""

import json
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from curate.errors import ConfigurationError
from curate.sae.dictionary import ARCHITECTURES, DictionaryInfo, Units
from curate.sae.formats.format import (
    Format,
    Source,
    TensorReader,
    content_sha256,
    number,
    read_json,
    safetensors_dtype,
    safetensors_reader,
    some_features,
    whole,
)
from curate.storage import follow_umask

CONFIG, WEIGHTS, SCALER = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"
# Keys of configs before sae_lens 6, and what they are called now.
RENAMED = {"hook_point": "hook_name", "hook_point_layer": "hook_layer", "activation_fn_str": "activation_fn"}
OPEN = "expected_average_only_in"
NORMALISED = (OPEN, "layer_norm", "constant_norm_rescale")
# Tensors of d_sae numbers. A scale that is folded keeps the units of activations, so these stay as they are.
FEATURE_TENSORS = {
    "standard": ("b_enc",),
    "topk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "b_mag", "r_mag"),
}


def describe(source: Source) -> DictionaryInfo:
    """An SAE in sae_lens's format.

    Raises:
        ConfigurationError: it is damaged, or cannot be used as it is; the message says why.
    """
    name, found = source.name, {**read_json(source, CONFIG), **source.overrides}
    try:
        config, notes = _modern(name, found)
        architecture = str(config["architecture"])
        d_model, d_sae = (whole(source, key, config[key]) for key in ("d_in", "d_sae"))
        known = {**config, **(config.get("metadata") or {})}
        hook_layer = _hook_layer(name, known)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"--sae {name}: {CONFIG} is not a sae_lens config: {type(error).__name__} {error}"
        ) from error
    if not d_model or not d_sae:
        raise ConfigurationError(f"--sae {name}: it has {d_sae} features of width {d_model}")
    if architecture not in ARCHITECTURES:
        raise ConfigurationError(
            f"--sae {name}: its architecture is {architecture}; these can be read: {', '.join(ARCHITECTURES)}"
        )
    if config.get("reshape_activations", "none") != "none":
        raise ConfigurationError(f"--sae {name}: it reads reshaped head outputs, not the residual stream")
    scale, scale_notes = _scale(source, str(config["normalize_activations"]))
    if source.overrides:
        notes = (*notes, f"read with {json.dumps(dict(source.overrides))}, as listed for this release")
    model_name, model_hash, licence = (known.get(key) for key in ("model_name", "model_hash", "licence"))
    return DictionaryInfo(
        name=name,
        path=source.path,
        weights=source.path / WEIGHTS,
        format=FORMAT.name,
        architecture=architecture,
        d_model=d_model,
        d_sae=d_sae,
        hook_layer=hook_layer,
        model_name=None if model_name is None else str(model_name),
        model_hash=None if model_hash is None else str(model_hash),
        sha256=content_sha256(source, (CONFIG, WEIGHTS), scale),
        config=config,
        k=some_features(source, config.get("k"), d_sae) if architecture == "topk" else None,
        scale=scale,
        units=_units(config),
        licence=None if licence is None else str(licence),
        notes=(*notes, *scale_notes),
    )


def _modern(name: str, found: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A config in today's keys, and a note for each difference from them that decides how it is read."""
    config = {RENAMED.get(key, key): value for key, value in found.items()}
    notes = [f"old format ({key}): read as {RENAMED[key]} {found[key]}" for key in list(RENAMED)[:2] if key in found]
    activation = config.get("activation_fn") or "relu"
    if activation == "topk":
        k = dict(config.get("activation_fn_kwargs") or {}).get("k", config.get("k"))
        if config.get("architecture") != "topk":
            notes.append(f"old format (activation_fn topk): read as architecture topk with k {k}")
        config |= {"architecture": "topk", "k": k}
    elif activation not in ("relu", "jumprelu"):
        # sae_lens takes it for relu.
        raise ConfigurationError(f"--sae {name}: its activation function is {activation}; relu and topk can be read")
    if "architecture" not in config:
        notes.append("old format (no architecture): read as standard")
        config["architecture"] = "standard"
    normalize = config.get("normalize_activations")
    if normalize is True:
        notes.append(f"old format (normalize_activations true): read as {OPEN}")
    config["normalize_activations"] = OPEN if normalize is True else normalize or "none"
    if config.get("finetuning_scaling_factor"):
        notes.append("old format (finetuning_scaling_factor): the decoder multiplies activations with scaling_factor")
    return config, tuple(notes)


def _hook_layer(name: str, known: Mapping[str, object]) -> int | None:
    """The block after which it reads. A name like `blocks.17.hook_resid_pre` means: after block 16."""
    hook, layer = str(known.get("hook_name") or ""), known.get("hook_layer")
    if match := re.fullmatch(r"blocks\.(\d+)\.hook_resid_(post|pre)", hook):
        return int(match[1]) - (match[2] == "pre")
    if hook.startswith(("blocks.", "hook_")):
        raise ConfigurationError(f"--sae {name}: it was trained on {hook}, not on the residual stream after a block")
    if layer is None:
        return None
    if isinstance(layer, bool) or not isinstance(layer, int):
        raise ConfigurationError(f"--sae {name}: its hook_layer is {layer!r}, not a layer's number")
    return layer


def _scale(source: Source, normalize: str) -> tuple[float | None, tuple[str, ...]]:
    name = source.name
    if normalize in ("none", "constant_norm_rescale", "layer_norm"):
        return 1.0, ()
    if normalize != OPEN:
        raise ConfigurationError(f"--sae {name}: activations normalised by {normalize} cannot be read")
    if not (source.path / SCALER).exists():
        return None, ()
    scale = number(source, f"scaling_factor in {SCALER}", read_json(source, SCALER).get("scaling_factor"))
    return scale, (f"folded the activation scale {scale:.6g} from {SCALER} into the weights",)


def _units(config: Mapping[str, Any]) -> Units:
    """What curate writes, where it wrote; else normalised if the config names a normalisation."""
    metadata = config.get("metadata") or {}
    if (told := metadata.get("activation_units")) in ("normalised", "raw"):
        return told
    scaled = metadata.get("activation_scale") is not None
    return "normalised" if scaled or config["normalize_activations"] in NORMALISED else "raw"


def open_tensors(info: DictionaryInfo) -> TensorReader:
    """A reader of its tensors."""
    return safetensors_reader(info.weights, {})


def write(info: DictionaryInfo, tensors: Mapping[str, Tensor], folder: Path, facts: Mapping[str, object]) -> None:
    """Write an SAE in today's format, with all that its old config said in the metadata.

    Args:
        tensors: by sae_lens's names, with the activation scale folded in.
        folder: exists.
        facts: more of its metadata.
    """
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(_config(info, facts)))
    follow_umask(folder)


def _config(info: DictionaryInfo, facts: Mapping[str, object]) -> dict[str, object]:
    normalize = info.config["normalize_activations"]
    config = {
        "architecture": info.architecture,
        "d_in": info.d_model,
        "d_sae": info.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": info.config.get("apply_b_dec_to_input", True),
        "normalize_activations": "none" if normalize == OPEN else normalize,
        "reshape_activations": "none",
    }
    if info.architecture == "topk":
        config |= {"k": info.k, "rescale_acts_by_decoder_norm": False}
    done = (*config, "finetuning_scaling_factor", "metadata")
    told = {key: value for key, value in info.config.items() if key not in done}
    layer = info.hook_layer
    hook_name = None if layer is None else f"blocks.{layer}.hook_resid_post"
    known = {
        # Its maker's own name may be `hook_resid_pre` of the block after, which means the same.
        "hook_name": told.get("hook_name") or info.metadata.get("hook_name") or hook_name,
        "hook_layer": layer,
        "model_name": info.model_name,
        "model_hash": info.model_hash,
        "activation_units": info.units,
        "licence": info.licence,
    }
    named = {key: value for key, value in known.items() if value is not None}
    # sae_lens takes a config without its version for an old one, and drops its metadata.
    metadata = {**told, **info.metadata, **named, **facts, "sae_lens_version": version("sae_lens")}
    return {**config, "metadata": metadata}


FORMAT = Format("sae_lens", WEIGHTS, (CONFIG, SCALER), describe, open_tensors, safetensors_dtype)
