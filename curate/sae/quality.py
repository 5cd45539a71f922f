"""How well an SAE reconstructs hidden states, over all tokens and over those of each modality."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from curate.sae.decoder import Decoder
from curate.sae.dictionary import Dictionary

Modality = Literal["all", "text", "image"]
# Sun et al. 2025, "Dense SAE latents are features, not bugs" (arXiv:2506.15679).
DENSE_SHARE = 0.1
# Activations held at once: tokens × d_sae. 64 MiB in float32, whatever the SAE.
CHUNK_ELEMENTS = 2**24


class Figures(BaseModel):
    """Of one modality's tokens. A figure is None where the tokens do not define it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: int
    l0: float | None = Field(description="active features per token")
    mse: float | None = Field(
        description="squared error per token and dimension, in the hidden states' own units; sae_lens reports it per "
        "token, so d_model times as large"
    )
    explained_variance: float | None = Field(
        description="1 - the squared error over the squared distance from the mean of these tokens"
    )
    cosine: float | None = Field(
        description="mean over tokens of the cosine of hidden state and reconstruction; 0 where either is zero"
    )
    dead: int = Field(description="features active on none of these tokens")
    dense: int = Field(description=f"features active on more than {DENSE_SHARE:.0%} of these tokens")


class Reconstruction(BaseModel):
    """How well an SAE reconstructs, and what its features are active on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    modalities: dict[Modality, Figures]
    on_both: int = Field(description="features active on at least one text and at least one image token")
    on_text_only: int
    on_image_only: int


@dataclass(frozen=True)
class _Sums:
    """Over tokens of one modality, in float64.

    Attributes:
        error: of ‖x − x̂‖².
        spread: of ‖x − mean‖²; sums of squares alone would lose it where the mean is far from zero.
        fired: on how many tokens each feature is active.
    """

    tokens: int
    error: Float[Tensor, ""]
    cosine: Float[Tensor, ""]
    mean: Float[Tensor, " d_model"]
    spread: Float[Tensor, ""]
    fired: Int[Tensor, " d_sae"]

    def __add__(self, other: "_Sums") -> "_Sums":
        """The sums over both sets of tokens (Chan, Golub & LeVeque 1983, for mean and spread)."""
        tokens = self.tokens + other.tokens
        share = other.tokens / max(tokens, 1)
        apart = other.mean - self.mean
        return _Sums(
            tokens=tokens,
            error=self.error + other.error,
            cosine=self.cosine + other.cosine,
            mean=self.mean + share * apart,
            spread=self.spread + other.spread + self.tokens * share * apart.square().sum(),
            fired=self.fired + other.fired,
        )

    def to(self, device: str | torch.device) -> "_Sums":
        """The same on another device."""
        return _Sums(
            self.tokens, *(part.to(device) for part in (self.error, self.cosine, self.mean, self.spread, self.fired))
        )

    def figures(self) -> Figures:
        spread, n = float(self.spread), self.tokens
        return Figures(
            tokens=n,
            l0=float(self.fired.sum()) / n if n else None,
            mse=float(self.error) / (n * len(self.mean)) if n else None,
            explained_variance=1 - float(self.error) / spread if spread > 0 else None,
            cosine=float(self.cosine) / n if n else None,
            dead=int((self.fired == 0).sum()),
            dense=int((self.fired > DENSE_SHARE * n).sum()),
        )


class Quality:
    """Takes in tokens chunk by chunk, in any order, and holds d_model + d_sae numbers of each modality.

    Args:
        delta: the activation bound.
    """

    def __init__(self, d_model: int, d_sae: int, device: str | torch.device = "cpu", delta: float = 0.0) -> None:
        zero, mean = torch.zeros((), dtype=torch.float64, device=device), torch.zeros(d_model, device=device).double()
        none = _Sums(0, zero, zero, mean, zero, torch.zeros(d_sae, dtype=torch.int64, device=device))
        self.delta, self.text, self.image = delta, none, none

    def add(
        self,
        hidden: Float[Tensor, "tokens d_model"],
        reconstruction: Float[Tensor, "tokens d_model"],
        z: Float[Tensor, "tokens d_sae"],
        is_image: Bool[Tensor, " tokens"],
    ) -> None:
        """Take in tokens; their reconstruction is in the hidden states' own units."""
        x, active = hidden.double(), z > self.delta
        error = (reconstruction.double() - x).square().sum(1)
        cosine = torch.cosine_similarity(reconstruction.double(), x, dim=1)

        def sums(mask: Bool[Tensor, " tokens"]) -> _Sums:
            own = x[mask]
            mean = own.mean(0) if len(own) else torch.zeros_like(x[0])
            spread = (own - mean).square().sum()
            return _Sums(len(own), error[mask].sum(), cosine[mask].sum(), mean, spread, active[mask].sum(0))

        if len(x):
            self.text, self.image = self.text + sums(~is_image), self.image + sums(is_image)

    def merge(self, other: "Quality") -> None:
        """Take in what another on the same device has taken in."""
        self.text, self.image = self.text + other.text, self.image + other.image

    def cpu(self) -> "Quality":
        """Move to the CPU, in place."""
        self.text, self.image = self.text.to("cpu"), self.image.to("cpu")
        return self

    def result(self) -> Reconstruction:
        """The figures of all tokens taken in."""
        on_text, on_image = self.text.fired > 0, self.image.fired > 0
        parts: dict[Modality, _Sums] = {"all": self.text + self.image, "text": self.text, "image": self.image}
        return Reconstruction(
            modalities={name: part.figures() for name, part in parts.items()},
            on_both=int((on_text & on_image).sum()),
            on_text_only=int((on_text & ~on_image).sum()),
            on_image_only=int((on_image & ~on_text).sum()),
        )


def reconstruct(
    dictionary: Dictionary,
    decoder: Decoder,
    hidden: Float[Tensor, "tokens d_model"],
    is_image: Bool[Tensor, " tokens"],
    quality: Quality,
) -> Float[Tensor, "tokens d_model"]:
    """Reconstruct hidden states, chunk by chunk, and take them in; all on the SAE's device."""
    device = dictionary.weight.device
    parts = [hidden.float()[:0].to(device)]
    step = max(1, CHUNK_ELEMENTS // dictionary.d_sae)
    for states, of_images in zip(hidden.to(device).split(step), is_image.to(device).split(step), strict=True):
        z = dictionary.encode(states)
        parts.append(decoder.decode(z, states))
        quality.add(states, parts[-1], z, of_images)
    return torch.cat(parts)


def text_loss(
    logits: Float[Tensor, "tokens vocabulary"], input_ids: Int[Tensor, " tokens"], is_image: Bool[Tensor, " tokens"]
) -> tuple[float, int]:
    """Cross-entropy of the next token in nats, summed over the targets that are text, and how many those are.

    Every text token but the first is a target, of the template too; image tokens never are.
    """
    is_target = ~is_image[1:].to(logits.device)
    targets = input_ids[1:].to(logits.device)[is_target]
    losses = torch.nn.functional.cross_entropy(logits[:-1][is_target].float(), targets, reduction="none")
    return float(losses.double().sum()), len(targets)


def loss_recovered(original: float, zero: float, spliced: float) -> float | None:
    """How much of the harm of zero ablation the reconstruction avoids: 1 where it does none, 0 where as much.

    (zero − spliced) / (zero − original), of mean losses (Rajamanoharan et al. 2024, "Improving dictionary learning with
    gated sparse autoencoders", arXiv:2404.16014; `ce_loss_score` of sae_lens). None where zero ablation does no harm.
    """
    return (zero - spliced) / (zero - original) if zero > original else None
