"""A sparse autoencoder's encoder, read from sae_lens's own format without importing sae_lens."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from curate.errors import ConfigurationError
from curate.fingerprint import files_sha256, text_sha256
from curate.hub import fetch

CONFIG_FILE, WEIGHTS_FILE, SCALER_FILE = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"
ARCHITECTURES = ("standard", "topk", "jumprelu", "gated")


@dataclass(frozen=True)
class DictionaryInfo:
    """What is known of a dictionary before its weights are loaded.

    Attributes:
        hook_layer: the layer it was trained on; None where the file does not say.
        model_hash: content hash of the model it was trained on; None where the file does not say.
        sha256: over config, weights and scale.
        scale: activation scale that must be folded into the encoder; 1 where it is folded already.
        notes: what was folded or assumed, for the run's record.
    """

    path: Path
    architecture: str
    d_model: int
    d_sae: int
    hook_layer: int | None
    model_name: str | None
    model_hash: str | None
    sha256: str
    config: Mapping[str, object]
    scale: float = 1.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dictionary:
    """The encoder half of an SAE: hidden states in, activations out.

    Input bias and activation scale are folded into `weight` and `bias`.
    """

    architecture: str
    normalize: str
    weight: Float[Tensor, "d_model d_sae"]
    bias: Float[Tensor, " d_sae"]
    threshold: Float[Tensor, " d_sae"] | None = None
    k: int = 0
    magnitude_scale: Float[Tensor, " d_sae"] | None = None
    magnitude_shift: Float[Tensor, " d_sae"] | None = None

    @property
    def d_sae(self) -> int:
        return self.weight.shape[1]

    def pre_activations(self, hidden: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens d_sae"]:
        """Affine part of the encoder, in the dictionary's own precision."""
        hidden = hidden.to(self.weight.dtype)
        if self.normalize == "constant_norm_rescale":
            hidden = hidden * (hidden.shape[1] ** 0.5 / hidden.norm(dim=1, keepdim=True))
        elif self.normalize == "layer_norm":
            hidden = hidden - hidden.mean(dim=1, keepdim=True)
            hidden = hidden / (hidden.std(dim=1, keepdim=True) + 1e-5)
        return torch.addmm(self.bias, hidden, self.weight)

    def activations(self, pre: Float[Tensor, "tokens d_sae"]) -> Float[Tensor, "tokens d_sae"]:
        """Activations z ≥ 0 from pre-activations (sae_lens's `encode`, by architecture)."""
        if self.architecture == "jumprelu":
            assert self.threshold is not None
            return torch.where(pre > self.threshold, pre, 0).relu()
        if self.architecture == "topk":
            values, features = pre.topk(self.k, dim=1, sorted=False)
            return torch.zeros_like(pre).scatter_(1, features, values.relu())
        if self.architecture == "gated":
            return torch.where(pre > 0, self._magnitude(pre).relu(), 0)
        return pre.relu()

    def _magnitude(self, pre: Float[Tensor, "tokens d_sae"]) -> Float[Tensor, "tokens d_sae"]:
        assert self.magnitude_scale is not None
        assert self.magnitude_shift is not None
        return pre * self.magnitude_scale + self.magnitude_shift

    def encode(self, hidden: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens d_sae"]:
        """Activations z ≥ 0 of hidden states at the hook layer."""
        return self.activations(self.pre_activations(hidden))

    def switching(self, pre: Float[Tensor, "tokens d_sae"], noise: Float[Tensor, ""]) -> Int[Tensor, ""]:
        """How many activations lie so near the point where they leave zero that `noise` may switch them."""
        if self.architecture == "topk":
            top = pre.topk(min(self.k + 1, self.d_sae), dim=1).values
            return ((top[:, -2] - top[:, -1]) < noise).sum() + (top.abs_() < noise).sum()
        if self.architecture == "jumprelu":
            assert self.threshold is not None
            return ((pre - self.threshold).abs_() < noise).sum()
        if self.architecture == "gated":
            return ((pre.abs() < noise) | (self._magnitude(pre).abs_() < noise)).sum()
        return (pre.abs() < noise).sum()

    def bound(self, delta: float) -> Float[Tensor, " d_sae"]:
        """The activation that a feature must exceed to be active: delta, or where it jumps from zero if higher."""
        jump = torch.zeros_like(self.bias) if self.threshold is None else self.threshold
        return jump.clamp(min=delta)


def inspect_dictionary(name: str) -> DictionaryInfo:
    """What a dictionary is, from its config; weights are hashed but not loaded.

    Args:
        name: a folder in sae_lens's format, or `RELEASE:SAE_ID` of a sae_lens release or hub repository.

    Raises:
        ConfigurationError: no such dictionary, or one that cannot be used as it is; the message says why.
        DataError: the hub cannot be reached.
    """
    path, listed_scale = (Path(name), None) if Path(name).is_dir() else _fetch_release(name)
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        if not (path / file).is_file():
            raise ConfigurationError(f"--sae {name}: there is no {file}; a sae_lens folder has {CONFIG_FILE} and it")
    try:
        config = json.loads((path / CONFIG_FILE).read_text())
        architecture = str(config.get("architecture", "standard"))
        d_model, d_sae = int(config["d_in"]), int(config["d_sae"])
        metadata = dict(config.get("metadata") or {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"--sae {name}: {CONFIG_FILE} is not a sae_lens config: {type(error).__name__} {error}"
        ) from error
    if architecture not in ARCHITECTURES:
        raise ConfigurationError(
            f"--sae {name}: its architecture is {architecture}; these can be read: {', '.join(ARCHITECTURES)}"
        )
    if config.get("reshape_activations", "none") != "none":
        raise ConfigurationError(f"--sae {name}: it reads reshaped head outputs, not the residual stream")
    scale, notes = _scale(name, path, str(config.get("normalize_activations", "none")), listed_scale)
    known = {**config, **metadata}
    model_name, model_hash = known.get("model_name"), known.get("model_hash")
    return DictionaryInfo(
        path=path,
        architecture=architecture,
        d_model=d_model,
        d_sae=d_sae,
        hook_layer=_hook_layer(name, known),
        model_name=None if model_name is None else str(model_name),
        model_hash=None if model_hash is None else str(model_hash),
        sha256=text_sha256(f"{files_sha256(path, [path / CONFIG_FILE, path / WEIGHTS_FILE])} scale {scale!r}"),
        config=config,
        scale=scale,
        notes=notes,
    )


def _hook_layer(name: str, known: Mapping[str, object]) -> int | None:
    """The block after which it reads. A name like `blocks.17.hook_resid_pre` means: after block 16."""
    hook = str(known.get("hook_name") or known.get("hook_point") or "")
    layer = known.get("hook_layer", known.get("hook_point_layer"))
    if match := re.fullmatch(r"blocks\.(\d+)\.hook_(\w+)", hook):
        block, place = int(match[1]), match[2]
        if place not in ("resid_post", "resid_pre"):
            raise ConfigurationError(f"--sae {name}: it was trained on {hook}, not on the residual stream")
        return block if place == "resid_post" else block - 1
    if layer is None:
        return None
    if isinstance(layer, bool) or not isinstance(layer, int):
        raise ConfigurationError(f"--sae {name}: its hook_layer is {layer!r}, not a layer's number")
    return layer


def _scale(name: str, path: Path, normalize: str, listed: float | None) -> tuple[float, tuple[str, ...]]:
    if normalize in ("none", "constant_norm_rescale", "layer_norm"):
        return 1.0, ()
    if normalize != "expected_average_only_in":
        raise ConfigurationError(f"--sae {name}: activations normalised by {normalize} cannot be read")
    if listed is not None:
        return listed, (f"folded the activation scale {listed:.6g} that sae_lens lists into the encoder",)
    try:
        scale = float(json.loads((path / SCALER_FILE).read_text())["scaling_factor"])
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"--sae {name}: its activation scale is not folded into the weights "
            f"(normalize_activations is {normalize}) and there is no {SCALER_FILE} to fold it from; "
            "save it with sae_lens's fold_activation_norm_scaling_factor"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"--sae {name}: {SCALER_FILE} holds no scaling_factor") from error
    return scale, (f"folded the activation scale {scale:.6g} from {SCALER_FILE} into the encoder",)


def load_dictionary(info: DictionaryInfo, device: str = "cpu") -> Dictionary:
    """Load the encoder in float32.

    Raises:
        ConfigurationError: the weights are damaged, not finite, or not of the config's shape.
    """
    try:
        tensors = {key: tensor.float() for key, tensor in load_file(info.path / WEIGHTS_FILE).items()}
    except (SafetensorError, OSError) as error:
        raise ConfigurationError(f"{info.path / WEIGHTS_FILE} is damaged: {error}") from error

    def tensor(key: str, *shape: int) -> Tensor:
        found = tensors.get(key)
        if found is None or found.shape != shape:
            what = "missing" if found is None else f"{tuple(found.shape)}"
            raise ConfigurationError(f"{info.path / WEIGHTS_FILE}: {key} is {what}, not {shape}")
        if not found.isfinite().all():
            raise ConfigurationError(f"{info.path / WEIGHTS_FILE}: {key} holds NaN or infinity")
        return found

    config, d_model, d_sae = info.config, info.d_model, info.d_sae
    weight = tensor("W_enc", d_model, d_sae)
    bias = tensor("b_gate" if info.architecture == "gated" else "b_enc", d_sae)
    if config.get("apply_b_dec_to_input", True):
        bias = bias - tensor("b_dec", d_model) @ weight
    parts: dict[str, Any] = {}
    if info.architecture == "jumprelu":
        parts["threshold"] = tensor("threshold", d_sae)
    elif info.architecture == "topk":
        parts["k"] = _topk(info)
        if config.get("rescale_acts_by_decoder_norm", False):
            norm = tensor("W_dec", d_sae, d_model).norm(dim=1)
            weight, bias = weight * norm, bias * norm
    elif info.architecture == "gated":
        parts["magnitude_scale"] = tensor("r_mag", d_sae).exp()
        # Both paths share W_enc, so the magnitude is (pre − b_gate) · exp(r_mag) + b_mag.
        parts["magnitude_shift"] = tensor("b_mag", d_sae) - tensor("b_gate", d_sae) * parts["magnitude_scale"]
    normalize = str(config.get("normalize_activations", "none"))
    found: dict[str, Any] = {"weight": weight * info.scale, "bias": bias, **parts}
    placed: dict[str, Any] = {
        key: value.to(device) if isinstance(value, Tensor) else value for key, value in found.items()
    }
    return Dictionary(architecture=info.architecture, normalize=normalize, **placed)


def _topk(info: DictionaryInfo) -> int:
    k = info.config.get("k")
    if isinstance(k, bool) or not isinstance(k, int) or not 0 < k <= info.d_sae:
        raise ConfigurationError(f"{info.path / CONFIG_FILE}: k is {k!r}, not a number of features")
    return k


def _fetch_release(name: str) -> tuple[Path, float | None]:
    """The folder of a sae_lens release or hub repository, and the activation scale that sae_lens lists for it."""
    release, separator, sae_id = name.partition(":")
    if not separator or not sae_id:
        raise ConfigurationError(f"--sae {name}: neither a folder nor RELEASE:SAE_ID of a sae_lens release")
    # Of use here alone, and slow to import: scoring itself never needs sae_lens.
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    known = get_pretrained_saes_directory().get(release)
    if known is not None and (sae_id not in known.saes_map or known.conversion_func is not None):
        raise ConfigurationError(
            f"--sae {name}: the release {release} has no {sae_id}"
            if sae_id not in known.saes_map
            else f"--sae {name}: this release is not in sae_lens's own format; write it to a folder with "
            f"SAE.from_pretrained({release!r}, {sae_id!r}).save_inference_model(FOLDER) and name that"
        )
    repo, folder = (known.repo_id, known.saes_map[sae_id]) if known else (release, sae_id)
    patterns = [f"{folder}/{file}" for file in (CONFIG_FILE, WEIGHTS_FILE, SCALER_FILE)]
    path = fetch(repo, "model", patterns, "name a local sae_lens folder with --sae") / folder
    return path, known.norm_scaling_factor.get(sae_id) if known else None
