"""A sparse autoencoder's decoder: activations in, reconstructed hidden states out."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from curate.errors import ConfigurationError
from curate.sae.dictionary import DictionaryInfo, known_scale
from curate.sae.formats import open_weights
from curate.sae.formats.format import TensorReader


@dataclass(frozen=True)
class Decoder:
    """The decoder half of an SAE. The activation scale is folded into `weight` and `bias`."""

    normalize: str
    weight: Float[Tensor, "d_sae d_model"]
    bias: Float[Tensor, " d_model"]

    def decode(
        self, z: Float[Tensor, "tokens d_sae"], hidden: Float[Tensor, "tokens d_model"]
    ) -> Float[Tensor, "tokens d_model"]:
        """Reconstruction from activations, in the hidden states' own units (sae_lens's `decode`).

        Args:
            hidden: what the activations were encoded from; read only where each token was normalised by itself.
        """
        found = torch.addmm(self.bias, z.to(self.weight.dtype), self.weight) * self.token_scale(hidden)
        return found + hidden.to(found.dtype).mean(dim=1, keepdim=True) if self.normalize == "layer_norm" else found

    def token_scale(self, hidden: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens 1"]:
        """How long a unit of `weight` is at each token, in the hidden states' own units.

        It is 1 unless the SAE normalised each token by itself.
        """
        hidden = hidden.to(self.weight.dtype)
        if self.normalize == "constant_norm_rescale":
            return hidden.norm(dim=1, keepdim=True) / hidden.shape[1] ** 0.5
        if self.normalize == "layer_norm":
            return hidden.std(dim=1, keepdim=True)
        return hidden.new_ones(len(hidden), 1)


def load_decoder(info: DictionaryInfo, device: str = "cpu") -> Decoder:
    """Load the decoder in float32.

    Raises:
        ConfigurationError: the weights are damaged, not finite, not of the config's shape, or of unknown scale.
    """
    scale, tensor = known_scale(info), open_weights(info)
    weight, bias = decoder_weight(info, tensor), tensor("b_dec", info.d_model)
    if info.config.get("rescale_acts_by_decoder_norm", False) and info.architecture == "topk":
        weight = weight / decoder_norms(weight)[:, None]
    normalize = str(info.config["normalize_activations"])
    return Decoder(normalize, (weight / scale).to(device), (bias / scale).to(device))


def decoder_weight(info: DictionaryInfo, tensor: TensorReader) -> Float[Tensor, "d_sae d_model"]:
    """W_dec; where activations were scaled by fine-tuning, which old sae_lens did in its decoder, times those factors.

    Raises:
        ConfigurationError: there are such factors, and the config does not say that they are meant.
    """
    weight = tensor("W_dec", info.d_sae, info.d_model)  # first, as it shows whether the config's sizes are true
    factor = tensor("scaling_factor", info.d_sae, default=1.0)
    if not info.config.get("finetuning_scaling_factor") and not torch.allclose(factor, torch.ones_like(factor)):
        raise ConfigurationError(
            f"{info.weights} holds a scaling_factor, and finetuning_scaling_factor is not true in its config: set it "
            "there if the decoder is to multiply activations with it, or take it out"
        )
    return weight * factor[:, None]


def decoder_norms(weight: Float[Tensor, "d_sae d_model"]) -> Float[Tensor, " d_sae"]:
    """Norms of a decoder's rows, never zero (sae_lens's `get_W_dec_norm`)."""
    return weight.norm(dim=1).clamp(min=1e-8)
