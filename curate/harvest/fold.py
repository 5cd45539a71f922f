"""Old dictionaries whose activation scale is neither folded into their weights nor written anywhere."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from curate.errors import ConfigurationError
from curate.harvest.activations import Harvest, blocks, chunks
from curate.sae.decoder import decoder_norms, decoder_weight
from curate.sae.dictionary import CONFIG_FILE, UNFOLDED, WEIGHTS_FILE, DictionaryInfo, open_weights
from curate.sae.scale import estimate_scale

READERS = 2
# Tensors of d_sae numbers. Activations keep their units when a scale is folded, so these stay as they are.
FEATURE_TENSORS = {
    "standard": ("b_enc",),
    "topk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "b_mag", "r_mag"),
}


def hidden_states(harvest: Harvest) -> Iterator[Float[Tensor, "tokens d_model"]]:
    """All that a harvest gives in one epoch."""
    model, bos_token_id = harvest.load_model(), harvest.load_builder().bos_token_id
    for block in blocks(harvest, 0, READERS, harvest.n_blocks):
        for chunk in chunks(harvest, model, block, bos_token_id):
            yield chunk.hidden


def check_foldable(info: DictionaryInfo, output: Path) -> None:
    """Before any work.

    Raises:
        ConfigurationError: there is nothing to fold, or the output folder holds something.
    """
    if info.scale is not None:
        normalize = info.config["normalize_activations"]
        raise ConfigurationError(
            f"the SAE in {info.path}: its activation scale {info.scale:.6g} is known and folded whenever it is loaded"
            if normalize == UNFOLDED
            else f"the SAE in {info.path}: there is no scale to fold, normalize_activations is {normalize}"
        )
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigurationError(f"--output {output} exists and is not an empty folder; choose another")


def fold(
    info: DictionaryInfo,
    hidden: Iterable[Float[Tensor, "tokens d_model"]],
    output: Path,
    estimated_from: Mapping[str, object],
) -> float:
    """Estimate a dictionary's activation scale and write a copy with it folded into the weights, in float32.

    The copy has sae_lens's newest format, and its metadata all that the old config said, `activation_scale`, and
    `activation_scale_estimated_from`: `estimated_from` and the number of tokens.

    Args:
        hidden: of the model that the dictionary is to be used with, at its hook layer, as `estimate_scale` takes them.

    Returns:
        the estimate.

    Raises:
        ConfigurationError: as `check_foldable`, `estimate_scale` and `load_decoder`, or the folder cannot be written.
    """
    check_foldable(info, output)
    tokens = 0

    def counted() -> Iterator[Tensor]:
        nonlocal tokens
        for chunk in hidden:
            tokens += len(chunk)
            yield chunk

    scale = estimate_scale(counted())
    facts = {"activation_scale": scale, "activation_scale_estimated_from": {**estimated_from, "tokens": tokens}}
    tensors = _folded(info, scale)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        save_file(tensors, temporary / WEIGHTS_FILE)
        (temporary / CONFIG_FILE).write_text(json.dumps(_config(info, facts)))
        temporary.replace(output)
    except OSError as error:
        raise ConfigurationError(f"--output {output} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return scale


def _folded(info: DictionaryInfo, scale: float) -> dict[str, Tensor]:
    tensor = open_weights(info)
    decoder = decoder_weight(info, tensor)
    tensors = {name: tensor(name, info.d_sae) for name in FEATURE_TENSORS[info.architecture]}
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


def _config(info: DictionaryInfo, facts: Mapping[str, object]) -> dict[str, object]:
    config = {
        "architecture": info.architecture,
        "d_in": info.d_model,
        "d_sae": info.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": info.config.get("apply_b_dec_to_input", True),
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    if info.architecture == "topk":
        config |= {"k": info.k, "rescale_acts_by_decoder_norm": False}
    done = (*config, "finetuning_scaling_factor", "metadata")
    told = {key: value for key, value in info.config.items() if key not in done}
    # sae_lens takes a config without its version for an old one, and drops its metadata.
    return {**config, "metadata": {**told, **info.metadata, **facts, "sae_lens_version": version("sae_lens")}}
