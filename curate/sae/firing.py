"""How features fire on a set of tokens, without ever holding an activation for each token and feature."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from curate.sae.dictionary import Dictionary

# Activations held at once. On a CPU they stay in its cache between one reduction and the next, which is worth more than
# larger matrix products (docs/performance.md); a GPU wants work for all of it. TopK reads all features of a token at
# once, and with a large SAE a cache holds too few tokens.
BLOCK_ELEMENTS = {"cpu": 2**19, "cuda": 2**24}
TOPK_BLOCK_ELEMENTS = 2**22
MOST_TOKENS = 2048
FEWEST_FEATURES = 64
NOISE_TOKENS = 16


class Firing(NamedTuple):
    """How features fire on some tokens.

    Attributes:
        peak: the strongest activation of each feature, 0 where none is positive.
        n_active: activations above 0, summed over tokens and features.
        noise: other batch shapes change the order of sums, and so pre-activations, by about this much.
        near_switch: activations so near the point where they leave zero that the noise may switch them.
    """

    peak: Float[Tensor, " d_sae"]
    n_active: Int[Tensor, ""]
    noise: Float[Tensor, ""]
    near_switch: Int[Tensor, ""]


Block = Float[Tensor, "tokens features"]


def measure_firing(dictionary: Dictionary, hidden: Float[Tensor, "tokens d_model"], uncounted: int = 0) -> Firing:
    """Encode hidden states block by block, and reduce each block at once.

    Args:
        uncounted: so many of the first tokens are left out of `n_active` and `near_switch`.
    """
    like = dictionary.weight
    eps = torch.finfo(hidden.dtype).eps
    normalized = dictionary.normalized(hidden)
    # From all features of some tokens, for blocks are judged by it before all others are known.
    noise = torch.zeros((), dtype=like.dtype, device=like.device)
    if len(hidden):
        some = normalized[:: -(-len(hidden) // NOISE_TOKENS)]
        noise = eps * dictionary.affine(some).abs_().amax()
    none = torch.zeros((), dtype=torch.int64, device=like.device)
    fired = Firing(torch.zeros(dictionary.d_sae, dtype=like.dtype, device=like.device), none, noise, none)
    reduce = _reduce_topk if dictionary.architecture == "topk" else _reduce
    for tokens, features in blocks(dictionary, len(hidden)):
        pre = dictionary.affine(normalized[tokens], features)
        fired = reduce(dictionary, pre, features, max(0, uncounted - tokens.start), eps, fired)
    return fired


def blocks(dictionary: Dictionary, n_tokens: int) -> Iterator[tuple[slice, slice]]:
    """Tokens and features of consecutive blocks of activations, each small enough to be held at once."""
    if dictionary.architecture == "topk":
        step, width = max(1, TOPK_BLOCK_ELEMENTS // dictionary.d_sae), dictionary.d_sae
    else:
        step = max(1, min(n_tokens, MOST_TOKENS))
        width = max(FEWEST_FEATURES, BLOCK_ELEMENTS[dictionary.weight.device.type] // step)
    for first in range(0, dictionary.d_sae, width):
        for start in range(0, n_tokens, step):
            yield slice(start, start + step), slice(first, first + width)


def activation_blocks(
    dictionary: Dictionary, hidden: Float[Tensor, "tokens d_model"]
) -> Iterator[tuple[slice, slice, Block]]:
    """The activations of hidden states, block by block, each with the tokens and features that it is of."""
    normalized = dictionary.normalized(hidden)
    for tokens, features in blocks(dictionary, len(hidden)):
        yield tokens, features, dictionary.activations(dictionary.affine(normalized[tokens], features), features)


def activations_of(
    dictionary: Dictionary, hidden: Float[Tensor, "tokens d_model"], features: Sequence[int]
) -> Float[Tensor, "tokens features"]:
    """The activations of a few features; others are only encoded where all compete, as in TopK."""
    if dictionary.architecture == "topk":
        parts = [z[:, list(features)] for _, _, z in activation_blocks(dictionary, hidden)]
        return torch.cat([dictionary.weight.new_zeros(0, len(features)), *parts])
    normalized = dictionary.normalized(hidden)
    return dictionary.activations(dictionary.affine(normalized, list(features)), list(features))


def _reduce(dictionary: Dictionary, pre: Block, features: slice, uncounted: int, eps: float, fired: Firing) -> Firing:
    """Take in a block, where each activation depends on its own pre-activation and never falls where that rises."""
    highest = pre.amax(0)
    noise = torch.maximum(fired.noise, eps * torch.maximum(highest.amax(), -pre.amin()))
    peak = fired.peak[features]
    torch.maximum(peak, dictionary.activations(highest[None], features)[0], out=peak)
    counted = pre[uncounted:]
    n_active = dictionary.activations(counted, features).count_nonzero()
    near_switch = dictionary.switching(counted, noise, features)
    return Firing(fired.peak, fired.n_active + n_active, noise, fired.near_switch + near_switch)


def _reduce_topk(
    dictionary: Dictionary, pre: Block, features: slice, uncounted: int, eps: float, fired: Firing
) -> Firing:
    """Take in a block of all features of some tokens, of which each token keeps the k highest."""
    noise = torch.maximum(fired.noise, eps * torch.maximum(pre.amax(), -pre.amin()))
    top, kept = pre.topk(min(dictionary.k + 1, dictionary.d_sae), dim=1)
    z = top[:, : dictionary.k].relu()
    fired.peak.scatter_reduce_(0, kept[:, : dictionary.k].flatten(), z.flatten(), "amax")
    near_switch = dictionary.switching(top[uncounted:], noise)
    return Firing(fired.peak, fired.n_active + z[uncounted:].count_nonzero(), noise, fired.near_switch + near_switch)
