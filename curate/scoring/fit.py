"""How well the SAE fits the data that are scored: some samples' hidden states, reconstructed."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from curate.errors import ConfigurationError
from curate.sae.decoder import load_decoder
from curate.sae.dictionary import SCALE_IS_OPEN, Dictionary, DictionaryInfo
from curate.sae.quality import Quality, reconstruct
from curate.sae.reading import Reading, measure_reading

# Samples that the fit is measured on, and of them those on which an open reading is tried.
FIT_SAMPLES, READING_SAMPLES = 64, 32
_REASONS = 3


class FitPass:
    """Takes in hidden states sample by sample.

    First positions are skipped: their states are the same in all samples, and huge.

    Attributes:
        samples: taken in.
        overflowed: samples that were skipped, since their reconstruction is not finite.
    """

    def __init__(self, sae: DictionaryInfo, dictionary: Dictionary) -> None:
        device = dictionary.weight.device
        self.dictionary, self.decoder = dictionary, load_decoder(sae, str(device))
        self.quality = Quality(sae.d_model, sae.d_sae, device)
        self.samples = self.overflowed = 0

    @torch.inference_mode()
    def take(self, hidden: Float[Tensor, "tokens d_model"], is_image: Bool[Tensor, " tokens"]) -> None:
        """Reconstruct the hidden states of a sample."""
        one = Quality(hidden.shape[1], self.dictionary.d_sae, self.dictionary.weight.device)
        if bool(reconstruct(self.dictionary, self.decoder, hidden[1:], is_image[1:], one).isfinite().all()):
            self.quality.merge(one)
            self.samples += 1
        else:
            self.overflowed += 1


Text = tuple[Float[Tensor, "tokens d_model"], Bool[Tensor, " tokens"]]  # hidden states, and which are of images


def reading_of(sae: DictionaryInfo, texts: Sequence[Text], device: str, lost: Sequence[str]) -> Reading:
    """Try both readings of an SAE whose config leaves its scale open, on texts without their first positions.

    Args:
        lost: for each sample without such a text, the reason.

    Raises:
        ConfigurationError: there are no texts, or it cannot be told by them.
    """
    if not texts:
        reasons = "; ".join(list(dict.fromkeys(lost))[:_REASONS])
        raise ConfigurationError(
            f"--sae {sae.name}: {SCALE_IS_OPEN}, and none of {len(lost):,} samples can be read to measure it on: "
            f"{reasons}"
        )
    hidden = [torch.zeros(0, sae.d_model, device=device), *(states[1:].float() for states, _ in texts)]
    images = [torch.zeros(0, dtype=torch.bool), *(is_image[1:] for _, is_image in texts)]
    return measure_reading(sae, torch.cat(hidden), torch.cat(images))
