"""An SAE by its name: what it is, and its encoder. None of it imports sae_lens."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from curate.sae import formats
from curate.sae.dictionary import Dictionary, DictionaryInfo, known_scale
from curate.sae.find import find
from curate.sae.known import KnownSAE


def inspect_dictionary(name: str) -> DictionaryInfo:
    """What an SAE is, from its config; weights are hashed but not loaded.

    Args:
        name: as `find` takes it.

    Raises:
        ConfigurationError: no such SAE, or one that cannot be used as it is; the message says why.
        DataError: the hub cannot be reached.
    """
    source, entry = find(name)
    return with_entry(formats.describe(source), entry)


def with_entry(info: DictionaryInfo, entry: KnownSAE | None) -> DictionaryInfo:
    """The same with what curate's table of known SAEs says of it."""
    if entry is None:
        return info
    licence = () if entry.licence is None else (f"the SAE {entry.repo} is published under {entry.licence}",)
    return replace(info, fits=entry.models, licence=entry.licence, notes=(*info.notes, *licence))


def load_dictionary(info: DictionaryInfo, device: str = "cpu") -> Dictionary:
    """Load the encoder in float32.

    Raises:
        ConfigurationError: the weights are damaged, not finite, not of the config's shape, or of unknown scale.
    """
    scale, tensor = known_scale(info), formats.open_weights(info)
    config, d_model, d_sae = info.config, info.d_model, info.d_sae
    weight = tensor("W_enc", d_model, d_sae)
    bias = tensor("b_gate" if info.architecture == "gated" else "b_enc", d_sae)
    if config.get("apply_b_dec_to_input", True):
        bias = bias - tensor("b_dec", d_model) @ weight
    parts: dict[str, Any] = {}
    if info.architecture == "jumprelu":
        parts["threshold"] = tensor("threshold", d_sae)
    elif info.architecture == "topk":
        parts["k"] = info.k
        if config.get("rescale_acts_by_decoder_norm", False):
            norm = tensor("W_dec", d_sae, d_model).norm(dim=1)
            weight, bias = weight * norm, bias * norm
    elif info.architecture == "gated":
        parts["magnitude_scale"] = tensor("r_mag", d_sae).exp()
        # Both paths share W_enc, so the magnitude is (pre − b_gate) · exp(r_mag) + b_mag.
        parts["magnitude_shift"] = tensor("b_mag", d_sae) - tensor("b_gate", d_sae) * parts["magnitude_scale"]
    found: dict[str, Any] = {"weight": weight if scale == 1 else weight * scale, "bias": bias, **parts}
    placed: dict[str, Any] = {
        key: value.to(device) if isinstance(value, Tensor) else value for key, value in found.items()
    }
    normalize = str(config["normalize_activations"])
    return Dictionary(architecture=info.architecture, normalize=normalize, **placed)
