"""Whether an SAE's activation scale is folded into its weights: measured where its config leaves it open.

sae_lens 3 to 5 wrote `expected_average_only_in` into the config of weights that had the scale folded in and of weights
that had not. Both readings are tried on hidden states: folded (scale 1), and unfolded (the scale that those hidden
states have). The right one reconstructs them.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from curate.errors import ConfigurationError
from curate.sae.decoder import load_decoder
from curate.sae.dictionary import DictionaryInfo
from curate.sae.load import load_dictionary
from curate.sae.quality import Quality, reconstruct
from curate.sae.scale import estimate_scale

Taken = Literal["folded", "unfolded"]
Tokens = Literal["text", "image"]
Unexplained = Mapping[Taken, float]
# A reading is taken where, on the text tokens or on the image tokens, it leaves at most half of the variance
# unexplained, and the other a quarter more than it and at least a hundredth of the variance more; and where the tokens
# of the other modality do not say the opposite. Wrong models and random weights leave more than half either way. In
# TopK and ReLU SAEs only biases depend on the scale: with small ones the readings differ little, with none by rounding.
MOST_UNEXPLAINED, TIMES_WORSE, LEAST_APART = 0.5, 1.25, 0.01
MOST_TOKENS = 1024  # of each modality


class Reading(BaseModel):
    """What trying both readings gave."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    taken: Taken = Field(description="whether the activation scale is folded into the weights")
    estimated_scale: float = Field(description="of these hidden states; what the weights lack if they are unfolded")
    tokens: int = Field(description="tokens that both readings were tried on")
    unexplained: dict[Tokens, dict[Taken, float]] = Field(
        description="fraction of the variance of the modality's tokens that each reading leaves unexplained"
    )

    @property
    def scale(self) -> float:
        """What is to be folded into the weights."""
        return 1.0 if self.taken == "folded" else self.estimated_scale

    @property
    def figures(self) -> str:
        """What each reading leaves unexplained, in words."""
        return _figures(self.unexplained)

    @property
    def note(self) -> str:
        """One line for the record."""
        how = "folded already" if self.taken == "folded" else f"not folded: {self.estimated_scale:.6g} was folded in"
        return f"the SAE's activation scale is {how}, as measured ({self.figures})"


@torch.inference_mode()
def measure_reading(
    info: DictionaryInfo, hidden: Float[Tensor, "tokens d_model"], is_image: Bool[Tensor, " tokens"]
) -> Reading:
    """Try both readings of an SAE on hidden states of its model at its hook layer.

    Args:
        hidden: without first positions and BOS, whose norms are of another size; its device computes.

    Raises:
        ConfigurationError: it cannot be told; or as of `estimate_scale` and `load_decoder`.
    """
    is_image = is_image.to(hidden.device)
    scale = estimate_scale([hidden])
    kept = torch.cat([_spread(is_image), _spread(~is_image)])
    some, of_images = hidden[kept], is_image[kept]
    unexplained: dict[Tokens, dict[Taken, float]] = {"text": {}, "image": {}}
    readings: dict[Taken, float] = {"folded": 1.0, "unfolded": scale}
    for taken, factor in readings.items():
        read = replace(info, scale=factor)
        quality = Quality(info.d_model, info.d_sae, some.device)
        device = str(some.device)
        reconstruct(load_dictionary(read, device), load_decoder(read, device), some, of_images, quality)
        figures = quality.result().modalities
        for modality, found in unexplained.items():
            if (explained := figures[modality].explained_variance) is not None:
                found[taken] = 1 - explained
    unexplained = {modality: found for modality, found in unexplained.items() if found}
    verdicts: dict[Tokens, Taken] = {
        modality: taken for modality, found in unexplained.items() if (taken := _verdict(found)) is not None
    }
    agreed = set(verdicts.values())
    if len(agreed) != 1:
        disagree = " and ".join(f"{modality} tokens say {taken}" for modality, taken in verdicts.items())
        why = disagree or "neither reading clearly reconstructs the hidden states"
        raise ConfigurationError(
            f"--sae {info.name}: whether its activation scale is folded into its weights cannot be told: {why} "
            f"({_figures(unexplained)}). Is it of this model and layer? If it is, and its scale is folded, write "
            f'{{"scaling_factor": 1.0}} to {info.path}/activation_scaler.json; if it is not folded, the scale in place '
            "of 1.0. That changes the SAE's hash: start its runs anew with --overwrite"
        )
    return Reading(taken=agreed.pop(), estimated_scale=scale, tokens=len(some), unexplained=unexplained)


def _verdict(unexplained: Unexplained) -> Taken | None:
    folded_wins = unexplained["folded"] < unexplained["unfolded"]
    best: Taken = "folded" if folded_wins else "unfolded"
    other: Taken = "unfolded" if folded_wins else "folded"
    least = max(TIMES_WORSE * unexplained[best], unexplained[best] + LEAST_APART)
    return best if unexplained[best] <= MOST_UNEXPLAINED and unexplained[other] >= least else None


def _spread(mask: Bool[Tensor, " tokens"]) -> Tensor:
    """The indices of at most `MOST_TOKENS` of the tokens, from all over them."""
    found = mask.nonzero()[:, 0]
    return found[:: max(1, -(-len(found) // MOST_TOKENS))]


def _figures(unexplained: Mapping[Tokens, Unexplained]) -> str:
    parts = [
        f"on {modality} tokens {found['folded']:.3f} if folded, {found['unfolded']:.3f} if not"
        for modality, found in unexplained.items()
    ]
    return f"fraction of variance unexplained {'; '.join(parts)}" if parts else "no token has variance to explain"
