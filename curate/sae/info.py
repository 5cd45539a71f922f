"""Everything known about an SAE."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from jaxtyping import Float
from torch import Tensor

from curate.sae.dictionary import DictionaryInfo
from curate.sae.formats import FORMATS, open_weights

# What configs before sae_lens 6 say of training, between much that is of no use any more.
OLD_TRAINING = (
    *("dataset_path", "context_size", "expansion_factor", "lr", "l1_coefficient", "seed", "dead_feature_window"),
    *("train_batch_size", "train_batch_size_tokens", "training_tokens", "total_training_tokens", "n_batches_in_buffer"),
)
SHOWN = {
    *("hook_name", "hook_layer", "model_name", "model_hash", "activation_scale", "l0", "num_dead_features"),
    *("activation_units", "licence"),
    *("sae_lens_version", "sae_lens_training_version", "training_architecture"),
}


def describe(info: DictionaryInfo) -> dict[str, Any]:
    """All that config, metadata and weights of an SAE say, as plain JSON values; None is what they do not say.

    Decoder norms and thresholds are [smallest, median, largest], of the weights as they are in the file. `folded` says
    where the activation scale is: `in the weights`, `on loading` (from elsewhere), `open` (to be measured), or None
    where none is told of. `training` is all else in the metadata, under dotted names.

    Raises:
        ConfigurationError: the weights are damaged, not finite, or not of the config's shape.
    """
    tensor = open_weights(info)
    norms = tensor("W_dec", info.d_sae, info.d_model).norm(dim=1)
    known = {**info.config, **info.metadata}
    told = {key: known[key] for key in OLD_TRAINING if known.get(key) is not None} | info.metadata
    trained_as = known.get("training_architecture")
    scale, folded = _scale(info, known)
    found = FORMATS[info.format]
    files = chain.from_iterable(info.path.glob(name) for name in (found.weights, *found.files) if ".." not in name)
    return {
        "path": str(info.path),
        "bytes": sum(file.stat().st_size for file in files),
        "sha256": info.sha256,
        "format": info.format,
        "licence": info.licence,
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
        "fits": list(info.fits),
        "normalize_activations": info.config["normalize_activations"],
        "activation_scale": scale,
        "folded": folded,
        "units": info.units,
        "default_delta": info.default_delta,
        "dtype": found.stored_dtype(info.weights),
        "decoder_norms": _range(norms),
        "l0": known.get("l0"),
        "dead_features": known.get("num_dead_features"),
        "sae_lens_version": known.get("sae_lens_training_version") or known.get("sae_lens_version"),
        "training": dict(_flat(told)),
        "notes": list(info.notes),
    }


def _scale(info: DictionaryInfo, known: Mapping[str, Any]) -> tuple[float | None, str | None]:
    if info.scale is None:
        return None, "open"
    if info.scale != 1:
        return info.scale, "on loading"
    scale, reading = known.get("activation_scale"), known.get("activation_scale_reading")
    folded = scale is not None or (isinstance(reading, dict) and reading.get("taken") == "folded")
    return scale, "in the weights" if folded else None


def _range(values: Float[Tensor, " d_sae"]) -> list[float]:
    return [float(value) for value in (values.min(), values.quantile(0.5), values.max())]


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None and prefix + key not in SHOWN:
            yield prefix + key, value
