"""Edits of the residual stream along the decoder directions of features: added, clamped, ablated."""

import random
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from curate.interpret.steer.job import Mode, Positions
from curate.models.family import Edit
from curate.sae.decoder import Decoder
from curate.sae.dictionary import Dictionary
from curate.sae.firing import activations_of


def steered(
    dictionary: Dictionary,
    decoder: Decoder,
    features: Sequence[int],
    directions: Float[Tensor, "features d_model"],
    mode: Mode,
    levels: Float[Tensor, " features"],
    positions: Positions,
) -> Edit:
    """What puts h + t · Σ c_f · d_f in the place of a hidden state h, with z_f the feature's activation in h.

    c_f is a_f where features are added, a_f − z_f where they are clamped, and −z_f where they are ablated; t is the
    decoder's own scale at this token. What the SAE does not reconstruct, its decoder's bias, and the hidden
    states of other positions stay as they are, bit for bit.

    Args:
        directions: d, a feature's row of the decoder's weight, or one to compare with it, on the SAE's device.
        levels: a, in the SAE's units of activation; not read where features are ablated.
    """
    weight, levels = dictionary.weight, levels.to(dictionary.weight)

    def edit(
        hidden: Float[Tensor, "tokens d_model"], is_image: Bool[Tensor, " tokens"]
    ) -> Float[Tensor, "tokens d_model"]:
        chosen = at(positions, is_image)
        if not chosen.any():
            return hidden
        chosen = chosen.to(hidden.device)
        # Of a model on several GPUs, the block may be on another than the SAE.
        states = hidden[chosen].to(weight)
        coefficients = levels.expand(len(states), -1)
        if mode != "add":
            z = activations_of(dictionary, states, features)
            coefficients = coefficients - z if mode == "clamp" else -z
        moved = states + decoder.token_scale(states) * (coefficients @ directions)
        edited = hidden.clone()
        edited[chosen] = moved.to(hidden)
        return edited

    return edit


def at(positions: Positions, is_image: Bool[Tensor, " tokens"]) -> Bool[Tensor, " tokens"]:
    """Which tokens are edited."""
    return {"all": torch.ones_like(is_image), "image": is_image, "text": ~is_image}[positions]


def rotated(directions: Float[Tensor, "features d_model"], seed: str) -> Float[Tensor, "features d_model"]:
    """Directions turned together by a random rotation: of the norms that they had, and at the same angles.

    Along them the same coefficients move a hidden state as far. One direction becomes a Gaussian one of its norm.

    Args:
        directions: no more than d_model.
        seed: the same one gives the same rotation of the same directions.
    """
    n, d_model = directions.shape
    generator = torch.Generator().manual_seed(random.Random(seed).getrandbits(63))
    drawn = torch.randn(d_model, n, generator=generator, dtype=torch.float64)
    # The polar factor of a Gaussian matrix is uniform among matrices with orthonormal columns (Chikuse 2003, 2.4.6).
    u, _, v = torch.linalg.svd(drawn, full_matrices=False)
    own, lengths, _ = torch.linalg.svd(directions.double().cpu(), full_matrices=False)
    return ((own * lengths) @ (u @ v).T).to(directions)
