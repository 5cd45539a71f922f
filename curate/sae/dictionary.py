"""What a sparse autoencoder's encoder is, and how each architecture activates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from curate.errors import ConfigurationError

ARCHITECTURES = ("standard", "topk", "jumprelu", "gated")
ALL = slice(None)
Features = slice | Sequence[int]
Units = Literal["normalised", "raw"]
SCALE_IS_OPEN = "its config leaves open whether the activation scale is folded into its weights"


@dataclass(frozen=True)
class DictionaryInfo:
    """What is known of an SAE before its weights are loaded.

    Attributes:
        name: as it was asked for.
        path: its folder; weights: the file of its tensors.
        format: the name of the published format that it is in.
        hook_layer: the layer it was trained on; None where the file does not say.
        model_hash: content hash of the model it was trained on; None where the file does not say.
        fits: names of models that it is known to fit, beside `model_name`.
        sha256: over config, weights and the scale that is written down.
        config: in sae_lens's keys, whatever the format.
        k: of TopK.
        scale: activation scale that must be folded into the weights; 1 where it is folded already. None where the
            config leaves open whether it is, so that it must be measured (curate.sae.reading).
        units: of activations: of hidden states scaled to the norm √d_model, or of the residual stream as it is.
        licence: as published; None where it is not known.
        notes: what was folded, assumed or read from an old format, for the run's record.
    """

    name: str
    path: Path
    weights: Path
    format: str
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
    units: Units = "raw"
    fits: tuple[str, ...] = ()
    licence: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def metadata(self) -> dict[str, Any]:
        """What its maker wrote beside what is needed to read it."""
        found: Any = self.config.get("metadata") or {}
        return dict(found)

    @property
    def default_delta(self) -> float:
        """The activation bound that `auto` stands for.

        The published code's 1 in normalised units; 0 where the architecture has a threshold of its own in raw units.
        """
        return 0.0 if self.units == "raw" and self.architecture != "standard" else 1.0


def known_scale(info: DictionaryInfo) -> float:
    """The SAE's activation scale.

    Raises:
        ConfigurationError: the config leaves it open; a wrong one puts activations off by a factor, and features with
            them.
    """
    if info.scale is None:
        raise ConfigurationError(
            f"--sae {info.name}: {SCALE_IS_OPEN}; measure it once and take the copy: "
            f"curate sae import {info.name} --on MODEL --dataset DATA --output DIR, then --sae DIR"
        )
    return info.scale


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
