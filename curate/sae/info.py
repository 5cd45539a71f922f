"""Everything known about a dictionary."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from curate.sae.dictionary import UNFOLDED, WEIGHTS_FILE, DictionaryInfo, open_weights

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# What configs before sae_lens 6 say of training, between much that is of no use any more.
OLD_TRAINING = (
    *("dataset_path", "context_size", "expansion_factor", "lr", "l1_coefficient", "seed", "dead_feature_window"),
    *("train_batch_size", "train_batch_size_tokens", "training_tokens", "total_training_tokens", "n_batches_in_buffer"),
)
SHOWN = {
    *("hook_name", "hook_layer", "model_name", "model_hash", "activation_scale", "l0", "num_dead_features"),
    *("sae_lens_version", "sae_lens_training_version", "training_architecture"),
}


def describe(info: DictionaryInfo) -> dict[str, Any]:
    """All that config, metadata and weights of a dictionary say, as plain JSON values; None is what they do not say.

    Decoder norms and thresholds are [smallest, median, largest], of the weights as they are in the file. `folded` says
    where the activation scale is: `in the weights`, `on loading` (from elsewhere), `no` (unknown), or None where none
    is told of. `training` is all else in the metadata, under dotted names.

    Raises:
        ConfigurationError: the weights are damaged, not finite, or not of the config's shape.
    """
    tensor = open_weights(info)
    norms = tensor("W_dec", info.d_sae, info.d_model).norm(dim=1)
    with safe_open(info.path / WEIGHTS_FILE, "pt") as file:
        dtype = str(file.get_slice("W_dec").get_dtype())
    known = {**info.config, **info.metadata}
    told = {key: known[key] for key in OLD_TRAINING if known.get(key) is not None} | info.metadata
    trained_as = known.get("training_architecture")
    normalize = info.config["normalize_activations"]
    if normalize == UNFOLDED:
        scale, folded = info.scale, "no" if info.scale is None else "on loading"
    else:
        scale = known.get("activation_scale")
        folded = None if scale is None else "in the weights"
    return {
        "path": str(info.path),
        "bytes": sum(file.stat().st_size for file in info.path.iterdir() if file.is_file()),
        "sha256": info.sha256,
        "architecture": info.architecture,
        "trained_as": None if trained_as == info.architecture else trained_as,
        "d_model": info.d_model,
        "d_sae": info.d_sae,
        "expansion": info.d_sae / info.d_model,
        "k": info.k,
        "thresholds": _range(tensor("threshold", info.d_sae)) if info.architecture == "jumprelu" else None,
        "hook_layer": info.hook_layer,
        "hook_name": known.get("hook_name"),
        "model_name": info.model_name,
        "model_hash": info.model_hash,
        "normalize_activations": normalize,
        "activation_scale": scale,
        "folded": folded,
        "dtype": DTYPES.get(dtype, dtype),
        "decoder_norms": _range(norms),
        "l0": known.get("l0"),
        "dead_features": known.get("num_dead_features"),
        "sae_lens_version": known.get("sae_lens_training_version") or known.get("sae_lens_version"),
        "training": dict(_flat(told)),
        "notes": list(info.notes),
    }


def _range(values: Float[Tensor, " d_sae"]) -> list[float]:
    return [float(value) for value in (values.min(), values.quantile(0.5), values.max())]


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None and prefix + key not in SHOWN:
            yield prefix + key, value
