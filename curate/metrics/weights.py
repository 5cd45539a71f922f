"""Feature weights: how alike a feature's strongest text tokens and image tokens are.

First pass of scoring. Memory is K × d_model per feature and modality, whatever the number of tokens, and
the result does not depend on how tokens were cut into chunks or divided among workers.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from curate.metrics.parameters import WeightRule

MERGED_REACH = 30
_FEATURES_PER_BLOCK = 4096
_LOW = 2**32 - 1


class FeatureWeights(NamedTuple):
    """The weight of each feature (0 where it has none), and whether it has one."""

    weight: Float[Tensor, " d_sae"]
    has_weight: Bool[Tensor, " d_sae"]


class TopTokens:
    """The strongest tokens of every feature in one modality, kept while tokens stream by.

    A token's strength on a feature is one integer, its key: the bits of the activation (which order as the
    activations do, being positive) above the complement of the token's index. Keys never tie, the earlier of
    two equal activations wins, and 0 means that there is none. So any order of merges ends in the same state.

    Attributes:
        keys: the K best keys of each feature, in no order.
        vectors: the hidden states of those tokens.
        reach: the 30 best keys of each feature, for the merged rule.
    """

    def __init__(self, d_sae: int, d_model: int, top_k: int, device: torch.device, dtype: torch.dtype) -> None:
        self.keys: Int[Tensor, "d_sae k"] = torch.zeros(d_sae, top_k, dtype=torch.int64, device=device)
        self.vectors: Float[Tensor, "d_sae k d_model"] = torch.zeros(d_sae, top_k, d_model, dtype=dtype, device=device)
        self.reach: Int[Tensor, "d_sae reach"] = torch.zeros(d_sae, MERGED_REACH, dtype=torch.int64, device=device)

    def to(self, device: str) -> None:
        """Move to another device, in place."""
        self.keys, self.vectors, self.reach = (part.to(device) for part in (self.keys, self.vectors, self.reach))

    def add(
        self,
        z: Float[Tensor, "tokens d_sae"],
        hidden: Float[Tensor, "tokens d_model"],
        index: Int[Tensor, " tokens"],
    ) -> None:
        """Take in tokens of this modality.

        Args:
            z: their activations, z ≥ 0; only positive ones count.
            hidden: their hidden states at the hook layer.
            index: a number below 2³² for each token, ascending; the same token's in whatever worker.
        """
        keys = (z.float().view(torch.int32).long() << 32) | (_LOW - index)[:, None]
        keys = torch.where(z > 0, keys, 0)
        reach = keys.topk(min(MERGED_REACH, len(keys)), dim=0).values.T.contiguous()
        candidates = reach[:, : self.keys.shape[1]]
        token = torch.searchsorted(index, _LOW - (candidates & _LOW)).clamp(max=len(index) - 1)
        self._merge(candidates, reach, lambda feature, slot: hidden[token[feature, slot]])

    def merge(self, other: "TopTokens") -> None:
        """Take in what another worker kept of other tokens."""
        self._merge(other.keys, other.reach, lambda feature, slot: other.vectors[feature, slot])

    def _merge(
        self,
        candidates: Int[Tensor, "d_sae candidates"],
        reach: Int[Tensor, "d_sae candidate_reach"],
        vectors_of: Callable[[Int[Tensor, " n"], Int[Tensor, " n"]], Float[Tensor, "n d_model"]],
    ) -> None:
        k = self.keys.shape[1]
        self.reach = torch.cat((self.reach, reach), dim=1).topk(self.reach.shape[1], dim=1).values
        weakest = torch.cat((self.keys, candidates), dim=1).topk(k, dim=1).values[:, -1:]
        incoming = (candidates >= weakest) & (candidates > 0)
        free = (self.keys < weakest) | (self.keys == 0)
        free &= free.cumsum(1) <= incoming.sum(1, keepdim=True)
        # As many slots are freed as candidates come in, feature by feature, so the two lists align.
        feature, slot = free.nonzero(as_tuple=True)
        source_feature, source_slot = incoming.nonzero(as_tuple=True)
        self.keys[feature, slot] = candidates[source_feature, source_slot]
        self.vectors[feature, slot] = vectors_of(source_feature, source_slot)


def feature_weights(text: TopTokens, image: TopTokens, rule: WeightRule) -> FeatureWeights:
    """Mean cosine similarity between the hidden states of each feature's top text and top image tokens.

    The mean is over all K × K pairs (SAE-V paper, section 3.1).

    Args:
        rule: `per-modality`, the K strongest tokens of each modality (paper); or `merged`, which asks that
            all 2K be among the 30 strongest of both modalities together (published code). Either way a
            feature with fewer than K tokens in a modality has no weight.
    """
    full = (text.keys > 0).all(1) & (image.keys > 0).all(1)
    if rule == "merged":
        last = torch.cat((text.reach, image.reach), dim=1).topk(MERGED_REACH, dim=1).values[:, -1:]
        full &= (text.keys >= last).all(1) & (image.keys >= last).all(1)
    weight = torch.zeros(len(full), dtype=torch.float64, device=full.device)
    for features in full.nonzero().flatten().split(_FEATURES_PER_BLOCK):
        weight[features] = (_mean_direction(text, features) * _mean_direction(image, features)).sum(1)
    return FeatureWeights(weight, full)


def _mean_direction(top: TopTokens, features: Int[Tensor, " features"]) -> Float[Tensor, "features d_model"]:
    # Slots are filled as tokens come, and a mean's last bits depend on the order of its terms.
    order = top.keys[features].argsort(dim=1, descending=True)
    vectors = top.vectors[features[:, None], order]
    return torch.nn.functional.normalize(vectors.double(), dim=2).mean(1)
