"""One process's scoring: batches of inputs in, scored samples out."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from curate.errors import NonFinite
from curate.manifest.rows import QuarantineRow, ScoredRow
from curate.metrics import METRICS
from curate.metrics.activity import measure_activity
from curate.metrics.cosine import contributions
from curate.metrics.metric import Evidence, Likely
from curate.models.family import CutModel, Read, Reading
from curate.sae.dictionary import Dictionary
from curate.scoring.parameters import ScoringParameters
from curate.scoring.prepare import SCORED, Prepared, quarantined

# Activations held at once: chunk tokens × d_sae. 64 MiB in float32, whatever the sample and the dictionary.
CHUNK_ELEMENTS = 2**24


def token_chunks(n_tokens: int, d_sae: int) -> Iterator[slice]:
    """Consecutive slices of a sample's tokens, each small enough to hold its activations."""
    step = max(1, CHUNK_ELEMENTS // d_sae)
    return (slice(start, min(start + step, n_tokens)) for start in range(0, n_tokens, step))


@dataclass(frozen=True)
class Scorer:
    """A model with its dictionary.

    Attributes:
        model: None where `whole` is given.
        weights: feature weights on the model's device; None if no metric needs them.
        whole: the whole model, in place of `model`, where a metric needs likelihood.
    """

    model: CutModel | None
    dictionary: Dictionary
    parameters: ScoringParameters
    weights: Float[Tensor, " d_sae"] | None
    whole: Read | None = None

    @torch.inference_mode()
    def score(self, batch: Sequence[Prepared]) -> list[ScoredRow | QuarantineRow]:
        """One forward pass, and one for each other text whose likelihood is needed.

        A sample whose hidden states are not finite is quarantined, the others are not.
        """
        inputs = [sample.inputs for sample in batch]
        if self.whole is None:
            assert self.model is not None, "a scorer without a model"
            hidden_states, likelihoods = self.model.hidden_states(inputs), [{} for _ in batch]
        else:
            readings = self.whole(inputs)
            hidden_states = [reading.hidden for reading in readings]
            likelihoods = self._likelihoods(self.whole, batch, readings)
        return [self._score_sample(*each) for each in zip(batch, hidden_states, likelihoods, strict=True)]

    def _likelihoods(
        self, whole: Read, batch: Sequence[Prepared], readings: Sequence[Reading]
    ) -> list[dict[Likely, float]]:
        """Of each sample, the mean log-probabilities that the metrics need; the scored text's are in its reading."""
        found: list[dict[Likely, float]] = [{} for _ in batch]
        for name in self.parameters.likelihood_of:
            scored = name == SCORED[self.parameters.text]
            for likelihood, reading in zip(
                found, readings if scored else whole([sample.likely[name] for sample in batch]), strict=True
            ):
                likelihood[name] = float(reading.log_probabilities.double().mean())
        return found

    def _score_sample(
        self, sample: Prepared, hidden: Float[Tensor, "tokens d_model"], likelihood: Mapping[Likely, float]
    ) -> ScoredRow | QuarantineRow:
        if not bool(hidden.isfinite().all()):
            return quarantined(
                sample.source_row, NonFinite("hidden states are NaN or infinite at the hook layer"), sample.sample_id
            )
        is_image = sample.inputs.is_image.to(hidden.device)
        noise = torch.zeros((), device=hidden.device)
        switching: list[Int[Tensor, ""]] = []

        def chunks() -> Iterator[tuple[Float[Tensor, "tokens d_sae"], Bool[Tensor, " tokens"]]]:
            nonlocal noise
            for part in token_chunks(len(hidden), self.dictionary.d_sae):
                pre = self.dictionary.pre_activations(hidden[part])
                z = self.dictionary.activations(pre)
                # Batch shapes change the order of sums, and so pre-activations, by about this much.
                noise = torch.maximum(noise, torch.finfo(hidden.dtype).eps * pre.abs().max())
                # The first token is the same in every sample, and l0 leaves it out.
                switching.append(self.dictionary.switching(pre[1:] if part.start == 0 else pre, noise))
                yield z, is_image[part]

        activity = measure_activity(chunks())
        if not bool(noise.isfinite()):
            return quarantined(
                sample.source_row, NonFinite("activations of the SAE are NaN or infinite"), sample.sample_id
            )
        near_switch = int(torch.stack(switching).sum())
        bound = self.dictionary.bound(self.parameters.delta)
        near = torch.minimum((activity.text - bound).abs(), (activity.image - bound).abs()).min() < noise
        # Where a feature jumps from zero to any height, a switch may carry it over delta.
        jumps = self.dictionary.architecture in ("topk", "gated") and near_switch > 0
        n_image = int(sample.inputs.is_image.sum())
        n_text = len(hidden) - n_image
        evidence = Evidence(sample.sample_id, activity, n_text, self.weights, likelihood, self.parameters)
        scores = {name: METRICS[name].score(evidence) for name in self.parameters.metrics}
        if bad := [name for name, score in scores.items() if not math.isfinite(score)]:
            return quarantined(
                sample.source_row, NonFinite(f"{', '.join(bad)} of the sample is NaN or infinite"), sample.sample_id
            )
        top: list[tuple[int, float]] = []
        if "cosine" in scores:
            added = contributions(evidence)
            # A stable sort, so that among equals the lower feature comes first on every device.
            values, features = added.sort(descending=True, stable=True)
            listed = (values != 0).nonzero().flatten()[: self.parameters.top_features]
            top = list(zip(features[listed].tolist(), values[listed].tolist(), strict=True))
        return ScoredRow(
            sample_id=sample.sample_id,
            source_row=sample.source_row,
            quality=sample.quality,
            scores=scores,
            n_text_tokens=n_text,
            n_image_tokens=n_image,
            top_features=top,
            near_delta=bool(near) or jumps,
            near_switch=near_switch,
        )
