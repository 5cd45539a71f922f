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
_LEAST = torch.finfo(torch.float32).tiny  # the least of full precision, which no setting of a CPU flushes to zero


class FeatureWeights(NamedTuple):
    """The weight of each feature (0 where it has none), and whether it has one."""

    weight: Float[Tensor, " d_sae"]
    has_weight: Bool[Tensor, " d_sae"]


class Places(NamedTuple):
    """Where each feature's K strongest tokens are, the strongest first.

    Attributes:
        row: the source row of the token's sample; −1 where a feature has fewer than K tokens.
        position: the token's place in its text.
        activation: 0 where there is none.
    """

    row: Int[Tensor, "d_sae k"]
    position: Int[Tensor, "d_sae k"]
    activation: Float[Tensor, "d_sae k"]


class TopTokens:
    """The strongest tokens of every feature in one modality, kept while tokens stream by.

    A token's strength on a feature is one integer, its key: the bits of the activation (which order as the
    activations do, being positive) above the complement of the token's index. Keys never tie, the earlier of
    two equal activations wins, and 0 means that there is none. So any order of merges ends in the same state.

    Attributes:
        rule: which feature weights it is for.
        keys: the K best keys of each feature, in no order.
        vectors: the hidden states of those tokens.
        reach: the best keys of each feature, 30 for the merged rule, else K.
        floor: the weakest activation that may still enter a feature's reach.
    """

    def __init__(
        self, d_sae: int, d_model: int, top_k: int, rule: WeightRule, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.rule: WeightRule = rule
        reach = max(top_k, MERGED_REACH) if rule == "merged" else top_k
        self.keys: Int[Tensor, "d_sae k"] = torch.zeros(d_sae, top_k, dtype=torch.int64, device=device)
        self.vectors: Float[Tensor, "d_sae k d_model"] = torch.zeros(d_sae, top_k, d_model, dtype=dtype, device=device)
        self.reach: Int[Tensor, "d_sae reach"] = torch.zeros(d_sae, reach, dtype=torch.int64, device=device)
        self.floor: Float[Tensor, " d_sae"] = torch.full((d_sae,), _LEAST, device=device)

    def to(self, device: str) -> None:
        """Move to another device, in place."""
        self.keys, self.vectors, self.reach, self.floor = (
            part.to(device) for part in (self.keys, self.vectors, self.reach, self.floor)
        )

    def add(
        self,
        z: Float[Tensor, "tokens features"],
        hidden: Float[Tensor, "tokens d_model"],
        index: Int[Tensor, " tokens"],
        features: slice = slice(None),
    ) -> None:
        """Take in tokens of this modality.

        Few of them are among the strongest once some tokens have passed, and only these cost more than a comparison.

        Args:
            z: their activations, z ≥ 0; only positive ones count, of float32's normal numbers.
            hidden: their hidden states at the hook layer.
            index: a number below 2³² for each token, ascending; the same token's in whatever worker.
            features: of which the activations are.
        """
        token, feature = (z >= self.floor[features]).nonzero(as_tuple=True)
        strength = z[token, feature]
        feature += features.start or 0
        keys = (strength.float().view(torch.int32).long() << 32) | (_LOW - index[token])
        keys = torch.where(strength.isfinite(), keys, 0)
        # Of each feature, the strongest first.
        order = keys.argsort(descending=True)
        order = order[feature[order].argsort(stable=True)]
        token, feature, keys = token[order], feature[order], keys[order]
        features_found, of_feature, counts = feature.unique_consecutive(return_inverse=True, return_counts=True)
        place = torch.arange(len(keys), device=keys.device) - (counts.cumsum(0) - counts)[of_feature]
        # Those out of reach all go to one more column, which is cut off.
        width = self.reach.shape[1]
        slots = of_feature, place.clamp(max=width)
        reach = torch.zeros(len(counts), width + 1, dtype=torch.int64, device=keys.device)
        tokens = torch.zeros_like(reach)
        reach[slots], tokens[slots] = keys, token
        reach = reach[:, :width]
        self._merge(features_found, reach[:, : self.keys.shape[1]], reach, lambda row, slot: hidden[tokens[row, slot]])

    def indices(self) -> tuple[Int[Tensor, "d_sae k"], Float[Tensor, "d_sae k"]]:
        """The tokens' indices (−1 where there is none) and activations (0), the strongest first."""
        keys = self.keys.sort(dim=1, descending=True).values
        there = keys > 0
        activation = (keys >> 32).int().view(torch.float32)
        return torch.where(there, _LOW - (keys & _LOW), -1), torch.where(there, activation, 0)

    def merge(self, other: "TopTokens") -> None:
        """Take in what another worker kept of other tokens."""
        everything = torch.arange(len(self.keys), device=self.keys.device)
        self._merge(everything, other.keys, other.reach, lambda row, slot: other.vectors[row, slot])

    def _merge(
        self,
        features: Int[Tensor, " rows"],
        candidates: Int[Tensor, "rows candidates"],
        reach: Int[Tensor, "rows candidate_reach"],
        vectors_of: Callable[[Int[Tensor, " n"], Int[Tensor, " n"]], Float[Tensor, "n d_model"]],
    ) -> None:
        """Take in candidates of these features, a row each."""
        keys, k = self.keys[features], self.keys.shape[1]
        farthest = torch.cat((self.reach[features], reach), dim=1).topk(self.reach.shape[1], dim=1).values
        self.reach[features] = farthest
        self.floor[features] = (farthest[:, -1] >> 32).int().view(torch.float32).clamp(min=_LEAST)
        weakest = torch.cat((keys, candidates), dim=1).topk(k, dim=1).values[:, -1:]
        incoming = (candidates >= weakest) & (candidates > 0)
        free = (keys < weakest) | (keys == 0)
        free &= free.cumsum(1) <= incoming.sum(1, keepdim=True)
        # As many slots are freed as candidates come in, feature by feature, so the two lists align.
        row, slot = free.nonzero(as_tuple=True)
        source_row, source_slot = incoming.nonzero(as_tuple=True)
        self.keys[features[row], slot] = candidates[source_row, source_slot]
        self.vectors[features[row], slot] = vectors_of(source_row, source_slot)


def feature_weights(text: TopTokens, image: TopTokens) -> FeatureWeights:
    """Mean cosine similarity between the hidden states of each feature's top text and top image tokens.

    The mean is over all K × K pairs (SAE-V paper, section 3.1).

    By the rule that both were made for: `per-modality`, the K strongest tokens of each modality (paper); or `merged`,
    which asks that all 2K be among the 30 strongest of both modalities together (published code). Either way a feature
    with fewer than K tokens in a modality has no weight.
    """
    full = (text.keys > 0).all(1) & (image.keys > 0).all(1)
    if text.rule == "merged":
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
