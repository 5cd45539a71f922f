"""A sparse autoencoder's encoder, read from sae_lens's own format without importing sae_lens."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from curate.errors import ConfigurationError
from curate.fingerprint import files_sha256, text_sha256
from curate.hub import fetch

CONFIG_FILE, WEIGHTS_FILE, SCALER_FILE = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"
ARCHITECTURES = ("standard", "topk", "jumprelu", "gated")
# Keys of configs before sae_lens 6, and what they are called now.
RENAMED = {"hook_point": "hook_name", "hook_point_layer": "hook_layer", "activation_fn_str": "activation_fn"}
UNFOLDED = "expected_average_only_in"
ALL = slice(None)
Features = slice | Sequence[int]


@dataclass(frozen=True)
class DictionaryInfo:
    """What is known of a dictionary before its weights are loaded.

    Attributes:
        hook_layer: the layer it was trained on; None where the file does not say.
        model_hash: content hash of the model it was trained on; None where the file does not say.
        sha256: over config, weights and scale.
        config: in today's keys, whatever format the file has.
        k: of TopK.
        scale: activation scale that must be folded into the weights; 1 where it is folded already, None where it is
            neither folded nor written anywhere.
        notes: what was folded, assumed or read from an old format, for the run's record.
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
    k: int | None = None
    scale: float | None = 1.0
    notes: tuple[str, ...] = ()

    @property
    def metadata(self) -> dict[str, Any]:
        """What its maker wrote beside what is needed to read it."""
        found: Any = self.config.get("metadata") or {}
        return dict(found)


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

    def normalized(self, hidden: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens d_model"]:
        """What the encoder's affine part takes, in the dictionary's own precision."""
        hidden = hidden.to(self.weight.dtype)
        if self.normalize == "constant_norm_rescale":
            return hidden * (hidden.shape[1] ** 0.5 / hidden.norm(dim=1, keepdim=True))
        if self.normalize == "layer_norm":
            hidden = hidden - hidden.mean(dim=1, keepdim=True)
            return hidden / (hidden.std(dim=1, keepdim=True) + 1e-5)
        return hidden

    def affine(
        self, normalized: Float[Tensor, "tokens d_model"], features: Features = ALL
    ) -> Float[Tensor, "tokens features"]:
        """Pre-activations of these features."""
        return torch.addmm(self.bias[features], normalized, self.weight[:, features])

    def activations(
        self, pre: Float[Tensor, "tokens features"], features: Features = ALL
    ) -> Float[Tensor, "tokens features"]:
        """Activations z ≥ 0 from pre-activations (sae_lens's `encode`, by architecture).

        Args:
            features: of which the pre-activations are; TopK takes them all.
        """
        if self.architecture == "jumprelu":
            assert self.threshold is not None
            return torch.where(pre > self.threshold[features], pre, 0).relu()
        if self.architecture == "topk":
            values, kept = pre.topk(self.k, dim=1, sorted=False)
            return torch.zeros_like(pre).scatter_(1, kept, values.relu())
        if self.architecture == "gated":
            return torch.where(pre > 0, self._magnitude(pre, features).relu(), 0)
        return pre.relu()

    def _magnitude(self, pre: Float[Tensor, "tokens features"], features: Features) -> Float[Tensor, "tokens features"]:
        assert self.magnitude_scale is not None
        assert self.magnitude_shift is not None
        return pre * self.magnitude_scale[features] + self.magnitude_shift[features]

    def encode(self, hidden: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens d_sae"]:
        """Activations z ≥ 0 of hidden states at the hook layer."""
        return self.activations(self.affine(self.normalized(hidden)))

    def switching(
        self, pre: Float[Tensor, "tokens features"], noise: Float[Tensor, ""], features: slice = ALL
    ) -> Int[Tensor, ""]:
        """How many activations lie so near the point where they leave zero that `noise` may switch them.

        Args:
            pre: of TopK, the k + 1 highest of each token will do.
        """
        if self.architecture == "topk":
            top = pre.topk(min(self.k + 1, self.d_sae), dim=1).values
            return ((top[:, -2] - top[:, -1]) < noise).count_nonzero() + (top.abs_() < noise).count_nonzero()
        if self.architecture == "jumprelu":
            assert self.threshold is not None
            return ((pre - self.threshold[features]).abs_() < noise).count_nonzero()
        if self.architecture == "gated":
            return ((pre.abs() < noise) | (self._magnitude(pre, features).abs_() < noise)).count_nonzero()
        return (pre.abs() < noise).count_nonzero()

    def jumps_over(self, delta: float) -> bool:
        """Whether an activation may jump from zero to above delta."""
        if self.architecture == "jumprelu":
            assert self.threshold is not None
            return bool((self.threshold >= delta).any())
        return self.architecture in ("topk", "gated")

    def bound(self, delta: float) -> Float[Tensor, " d_sae"]:
        """The activation that a feature must exceed to be active: delta, or where it jumps from zero if higher."""
        jump = torch.zeros_like(self.bias) if self.threshold is None else self.threshold
        return jump.clamp(min=delta)


def inspect_dictionary(name: str) -> DictionaryInfo:
    """What a dictionary is, from its config; weights are hashed but not loaded.

    Configs of all sae_lens versions are read, old ones as sae_lens's `handle_pre_6_0_config` does, but said in `notes`.

    Args:
        name: a folder in sae_lens's format, or `RELEASE:SAE_ID` of a sae_lens release or hub repository.

    Raises:
        ConfigurationError: no such dictionary, or one that cannot be used as it is; the message says why.
        DataError: the hub cannot be reached.
    """
    release = _Release(Path(name)) if Path(name).is_dir() else _fetch_release(name)
    path = release.path
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        if not (path / file).is_file():
            raise ConfigurationError(f"--sae {name}: there is no {file}; a sae_lens folder has {CONFIG_FILE} and it")
    try:
        config, notes = _modern(name, {**json.loads((path / CONFIG_FILE).read_text()), **release.overrides})
        architecture = str(config["architecture"])
        d_model, d_sae = int(config["d_in"]), int(config["d_sae"])
        known = {**config, **(config.get("metadata") or {})}
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
    scale, scale_notes = _scale(name, path, str(config["normalize_activations"]), release.scale)
    model_name, model_hash = known.get("model_name"), known.get("model_hash")
    content = f"{files_sha256(path, [path / CONFIG_FILE, path / WEIGHTS_FILE])} scale {scale!r}"
    if release.overrides:
        content += f" overrides {json.dumps(release.overrides, sort_keys=True)}"
        notes = (*notes, f"read with {json.dumps(release.overrides)}, as sae_lens lists for this release")
    return DictionaryInfo(
        path=path,
        architecture=architecture,
        d_model=d_model,
        d_sae=d_sae,
        hook_layer=_hook_layer(name, known),
        model_name=None if model_name is None else str(model_name),
        model_hash=None if model_hash is None else str(model_hash),
        sha256=text_sha256(content),
        config=config,
        k=_topk(path, config, d_sae) if architecture == "topk" else None,
        scale=scale,
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
        notes.append(f"old format (normalize_activations true): read as {UNFOLDED}")
    config["normalize_activations"] = UNFOLDED if normalize is True else normalize or "none"
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


def _scale(name: str, path: Path, normalize: str, listed: float | None) -> tuple[float | None, tuple[str, ...]]:
    if normalize in ("none", "constant_norm_rescale", "layer_norm"):
        return 1.0, ()
    if normalize != UNFOLDED:
        raise ConfigurationError(f"--sae {name}: activations normalised by {normalize} cannot be read")
    if listed is not None:
        return listed, (f"folded the activation scale {listed:.6g} that sae_lens lists into the weights",)
    try:
        scale = float(json.loads((path / SCALER_FILE).read_text())["scaling_factor"])
    except FileNotFoundError:
        return None, (f"its activation scale is not folded into the weights ({normalize}), and is written nowhere",)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"--sae {name}: {SCALER_FILE} holds no scaling_factor") from error
    if not 0 < scale < float("inf"):
        raise ConfigurationError(f"--sae {name}: the scaling_factor in {SCALER_FILE} is {scale}, not a positive number")
    return scale, (f"folded the activation scale {scale:.6g} from {SCALER_FILE} into the weights",)


def known_scale(info: DictionaryInfo) -> float:
    """The dictionary's activation scale.

    Raises:
        ConfigurationError: nobody knows it; without it activations are off by a factor, and features with them.
    """
    if info.scale is None:
        raise ConfigurationError(
            f"the SAE in {info.path}: its activation scale is not folded into the weights (normalize_activations is "
            f"{UNFOLDED}) and there is no {SCALER_FILE} to fold it from; estimate it and write a folded copy with: "
            f"curate sae fold {info.path} --on MODEL --dataset DATA --output DIR"
        )
    return info.scale


class TensorReader(Protocol):
    """Reads a tensor of a weights file in float32; `default` is what an absent one is filled with."""

    def __call__(self, key: str, *shape: int, default: float | None = None) -> Tensor: ...


def open_weights(info: DictionaryInfo) -> TensorReader:
    """A reader of the dictionary's tensors, which checks each for its shape and for NaN.

    Raises:
        ConfigurationError: the weights are damaged; from the reader, not finite, or not of the shape asked for.
    """
    path = info.path / WEIGHTS_FILE
    try:
        file = safe_open(path, "pt")
        keys = set(file.keys())
    except (SafetensorError, OSError) as error:
        raise ConfigurationError(f"{path} is damaged: {error}") from error

    def tensor(key: str, *shape: int, default: float | None = None) -> Tensor:
        if key not in keys and default is not None:
            return torch.full(shape, default)
        found = file.get_tensor(key).float() if key in keys else None
        if found is None or found.shape != shape:
            what = "missing" if found is None else f"{tuple(found.shape)}"
            raise ConfigurationError(f"{path}: {key} is {what}, not {shape}")
        if not found.isfinite().all():
            raise ConfigurationError(f"{path}: {key} holds NaN or infinity")
        return found

    return tensor


def load_dictionary(info: DictionaryInfo, device: str = "cpu") -> Dictionary:
    """Load the encoder in float32.

    Raises:
        ConfigurationError: the weights are damaged, not finite, not of the config's shape, or of unknown scale.
    """
    scale, tensor = known_scale(info), open_weights(info)
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
    normalize = str(config["normalize_activations"])
    found: dict[str, Any] = {"weight": weight * scale, "bias": bias, **parts}
    placed: dict[str, Any] = {
        key: value.to(device) if isinstance(value, Tensor) else value for key, value in found.items()
    }
    return Dictionary(architecture=info.architecture, normalize=normalize, **placed)


def _topk(path: Path, config: Mapping[str, object], d_sae: int) -> int:
    k = config.get("k")
    if isinstance(k, bool) or not isinstance(k, int) or not 0 < k <= d_sae:
        raise ConfigurationError(f"{path / CONFIG_FILE}: k is {k!r}, not a number of features")
    return k


class _Release(NamedTuple):
    """A dictionary's folder, and what sae_lens lists for it: its activation scale, and entries of its config."""

    path: Path
    scale: float | None = None
    overrides: Mapping[str, object] = {}


def _fetch_release(name: str) -> _Release:
    """A dictionary of a sae_lens release or hub repository."""
    release, separator, sae_id = name.partition(":")
    if not separator or not sae_id:
        raise ConfigurationError(f"--sae {name}: neither a folder nor RELEASE:SAE_ID of a sae_lens release")
    # Of use here alone, and slow to import: scoring itself never needs sae_lens.
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    known = get_pretrained_saes_directory().get(release)
    if known is not None and (sae_id not in known.saes_map or known.conversion_func is not None):
        # Some of sae_lens's converters read pickles, so converting is left to who trusts the release.
        raise ConfigurationError(
            f"--sae {name}: the release {release} has no {sae_id}"
            if sae_id not in known.saes_map
            else f"--sae {name}: this release is not in sae_lens's own format; write it to a folder with "
            f"SAE.from_pretrained({release!r}, {sae_id!r}).save_model(FOLDER) and name that"
        )
    repo, folder = (known.repo_id, known.saes_map[sae_id]) if known else (release, sae_id)
    patterns = [f"{folder}/{file}" for file in (CONFIG_FILE, WEIGHTS_FILE, SCALER_FILE)]
    path = fetch(repo, "model", patterns, "name a local sae_lens folder with --sae") / folder
    if known is None:
        return _Release(path)
    # Its other overrides, of data and model, decide nothing about how a dictionary is read.
    overrides = {k: v for k, v in (known.config_overrides or {}).items() if k == "normalize_activations"}
    return _Release(path, known.norm_scaling_factor.get(sae_id), overrides)
