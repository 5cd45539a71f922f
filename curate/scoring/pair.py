"""A model and an SAE that fit each other."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from curate import demo
from curate.errors import ConfigurationError
from curate.models.families import inspect_model
from curate.models.family import ModelInfo
from curate.sae.dictionary import DictionaryInfo
from curate.sae.known import last_part, named
from curate.sae.load import inspect_dictionary
from curate.storage import is_there


class Pair(NamedTuple):
    """A model and an SAE that fit each other, the layer that they agree on, and what a reader should know."""

    model: ModelInfo
    sae: DictionaryInfo
    hook_layer: int
    notes: tuple[str, ...]


def hook_layer(sae: DictionaryInfo, asked: int | None) -> int:
    """The hook layer that the SAE and the command line agree on.

    Raises:
        ConfigurationError: they do not, or neither says.
    """
    if asked is not None and sae.hook_layer is not None and asked != sae.hook_layer:
        raise ConfigurationError(f"--hook-layer {asked}: the SAE {sae.name} was trained on layer {sae.hook_layer}")
    layer = sae.hook_layer if asked is None else asked
    if layer is None:
        raise ConfigurationError(f"--sae {sae.name} does not say which layer it reads; name it with --hook-layer")
    return layer


def agree(model_name: str, sae_name: str, asked_layer: int | None, allow_model_mismatch: bool = False) -> Pair:
    """Look at a model and an SAE, and check that they fit each other; loads no weights.

    Whether the SAE's activation scale is folded into its weights may still be open.

    Args:
        model_name: a hub id, a folder, or demo.
        sae_name: as `curate.sae.find` takes it, or demo.
        asked_layer: a hook layer; by default as the SAE says.
        allow_model_mismatch: whether the SAE may have been trained on another model.

    Raises:
        ConfigurationError: they do not fit each other.
        DataError: the hub cannot be reached.
    """
    known = None if is_there(sae_name) else named(sae_name)
    if known is not None and not allow_model_mismatch and not known[0].fits(model_name):
        # Before gigabytes are fetched.
        raise _mismatch(model_name, sae_name, f"trained on {known[0].models[0]}")
    sae = inspect_dictionary(demo.resolve(sae_name, demo.SAE))
    model = inspect_model(demo.resolve(model_name, demo.MODEL))
    if not model.family.takes_images:
        raise ConfigurationError(
            f"--model {model_name}: it is a text model ({model.family.model_type}); this takes one that sees images"
        )
    _check_weight_files(model, sae)
    notes = list(sae.notes)
    layer = hook_layer(sae, asked_layer)
    if not 0 <= layer < model.n_layers:
        raise ConfigurationError(f"hook layer {layer}: {model.name} has layers 0 to {model.n_layers - 1}")
    if sae.d_model != model.d_model:
        raise ConfigurationError(
            f"--sae {sae_name} reads hidden states of width {sae.d_model}, and {model_name} has {model.d_model}: name "
            f"one that was trained on this model (curate saes --model {model_name})"
        )
    if difference := _model_difference(sae, model):
        if not allow_model_mismatch:
            raise _mismatch(model_name, sae_name, difference)
        notes.append(f"the SAE was {difference}, and the model is {model_name}")
    elif sae.model_hash is None and sae.model_name is None:
        notes.append(f"the SAE {sae_name} does not say which model it was trained on")
    return Pair(model, sae, layer, tuple(notes))


def _check_weight_files(model: ModelInfo, sae: DictionaryInfo) -> None:
    """A file that was cut off says so in its header, long before it would be loaded."""
    of_sae = [sae.weights] if sae.weights.suffix == ".safetensors" else []
    files: dict[str, Iterable[Path]] = {"model": sorted(model.path.glob("*.safetensors")), "SAE": of_sae}
    for what, paths in files.items():
        for file in paths:
            try:
                with safe_open(file, "pt"):
                    pass
            except (SafetensorError, OSError) as error:
                raise ConfigurationError(f"the {what}'s file {file} is damaged: {error}; fetch it again") from error


def _model_difference(sae: DictionaryInfo, model: ModelInfo) -> str | None:
    """By content hash where the SAE has one, else by the last part of the name that sae_lens records."""
    if sae.model_hash is not None:
        if sae.model_hash == model.sha256:
            return None
        return f"trained on a model with hash {sae.model_hash[:12]}, which is not this one's, {model.sha256[:12]}"
    names = [name for name in (sae.model_name, *sae.fits) if name is not None]
    if not names or last_part(model.name) in map(last_part, names):
        return None
    return f"trained on {names[0]}"


def _mismatch(model_name: str, sae_name: str, difference: str) -> ConfigurationError:
    return ConfigurationError(
        f"--sae {sae_name} was {difference}, and the model is {model_name}: see curate saes --model {model_name}, or "
        "take it all the same with --allow-model-mismatch, as for a fine-tuned copy of that model"
    )
