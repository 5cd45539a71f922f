"""A copy of an SAE in sae_lens's format: activation scale and, if asked, decoder norms folded into its weights."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from curate.errors import ConfigurationError
from curate.sae.decoder import decoder_norms, decoder_weight
from curate.sae.dictionary import DictionaryInfo, known_scale
from curate.sae.formats import open_weights, sae_lens

# Tensors that are as long as the features, in units of pre-activations or activations; `r_mag` has none.
SCALED_BY_NORM = ("b_enc", "threshold", "b_gate", "b_mag")


def check_new(output: Path) -> None:
    """Check, before any work, that a copy can be written there.

    Raises:
        ConfigurationError: something is there already.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigurationError(f"--output {output} exists and is not an empty folder; choose another")


def with_layer(info: DictionaryInfo, hook_layer: int | None) -> DictionaryInfo:
    """The same with its hook layer, where its files do not say one.

    Raises:
        ConfigurationError: they say another.
    """
    if hook_layer is None or hook_layer == info.hook_layer:
        return info
    if info.hook_layer is not None:
        raise ConfigurationError(f"--hook-layer {hook_layer}: {info.name} was trained on layer {info.hook_layer}")
    return replace(info, hook_layer=hook_layer)


def check_norms_foldable(info: DictionaryInfo) -> None:
    """Check that activations can be multiplied with decoder norms without changing which features are active.

    Raises:
        ConfigurationError: they cannot.
    """
    if info.architecture == "topk" and not _rescaled(info):
        raise ConfigurationError(
            f"--fold-decoder-norm: {info.name} is a TopK SAE that picks its features before decoder norms are looked "
            "at (no rescale_acts_by_decoder_norm); with norms folded in it would pick others"
        )


def write_copy(
    info: DictionaryInfo, output: Path, facts: Mapping[str, object], fold_decoder_norm: bool = False
) -> None:
    """Write an SAE, whatever its format, as sae_lens does today, in float32.

    The copy encodes as the SAE itself does; with decoder norms folded in, each activation is multiplied with the norm
    of its feature's decoder row. Its metadata is all that the old config said, and `facts`. It appears whole or not at
    all.

    Raises:
        ConfigurationError: as of `check_new`, `check_norms_foldable` and `open_weights`; its scale is not known; the
            folder cannot be written.
    """
    check_new(output)
    tensors = _folded(info)
    if fold_decoder_norm:
        check_norms_foldable(info)
        tensors = _norms_folded(tensors)
        facts = {**facts, "decoder_norms": "folded into the encoder"}
        if info.config["normalize_activations"] in ("none", sae_lens.OPEN):
            # An activation is now as long as what it adds to the residual stream, whatever it was trained on.
            info = replace(info, units="raw")
    temporary = output.absolute().with_name(f".{output.absolute().name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        sae_lens.write(info, tensors, temporary, facts)
        temporary.replace(output)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"--output {output} cannot be written: {why}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _folded(info: DictionaryInfo) -> dict[str, Tensor]:
    """Its tensors, with the activation scale in the weights."""
    scale, tensor = known_scale(info), open_weights(info)
    decoder = decoder_weight(info, tensor)
    tensors = {name: tensor(name, info.d_sae) for name in sae_lens.FEATURE_TENSORS[info.architecture]}
    tensors["W_enc"] = tensor("W_enc", info.d_model, info.d_sae) * scale
    if _rescaled(info):
        # With decoder norms left in the encoder's formula, their change would change the units of activations.
        norms = decoder_norms(tensor("W_dec", info.d_sae, info.d_model))
        decoder = decoder / norms[:, None]
        tensors["W_enc"] *= norms
        tensors["b_enc"] *= norms
    return {**tensors, "W_dec": decoder / scale, "b_dec": tensor("b_dec", info.d_model) / scale}


def _rescaled(info: DictionaryInfo) -> bool:
    return info.architecture == "topk" and bool(info.config.get("rescale_acts_by_decoder_norm", False))


def _norms_folded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with decoder rows of norm 1, and all that makes an activation times their norms."""
    norms = decoder_norms(tensors["W_dec"])
    scaled = {name: tensor * norms for name, tensor in tensors.items() if name in ("W_enc", *SCALED_BY_NORM)}
    return {**tensors, **scaled, "W_dec": tensors["W_dec"] / norms[:, None]}
