"""The first pass: feature weights from a sample of the data."""

import contextlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from curate.errors import ConfigurationError, NonFinite, OutOfMemory
from curate.metrics.parameters import MetricParameters
from curate.metrics.weights import FeatureWeights, Places, TopTokens, feature_weights
from curate.models.family import CutModel
from curate.models.packing import to_device
from curate.sae.dictionary import Dictionary
from curate.sae.firing import activation_blocks
from curate.scoring.hidden import hidden_alone
from curate.scoring.prepare import Prepared


class WeightsPass:
    """One worker's share of the weight samples: the strongest tokens of each feature and modality.

    Args:
        rows: source rows of all weight samples, ascending, on whatever worker. A token's place in this
            order decides between equal activations, so the division of work does not matter.
        context: the most tokens that a sample has.
    """

    def __init__(
        self,
        model: CutModel,
        dictionary: Dictionary,
        parameters: MetricParameters,
        rows: Sequence[int],
        context: int,
    ) -> None:
        if len(rows) * context >= 2**32:
            raise ConfigurationError(f"--weight-samples {len(rows):,} is too many at {context:,} tokens each")
        self.model, self.dictionary, self.parameters, self.context = model, dictionary, parameters, context
        self.first_token = {row: ordinal * context for ordinal, row in enumerate(rows)}
        self.n_samples = 0
        self.text: TopTokens | None = None
        self.image: TopTokens | None = None

    @torch.inference_mode()
    def add(self, sample: Prepared) -> None:
        """Run a sample through the model and keep what is strongest; skip it if it has no hidden states to use."""
        with contextlib.suppress(NonFinite, OutOfMemory):
            self.take(sample, hidden_alone(self.model.hidden_states, sample.inputs))

    @torch.inference_mode()
    def take(self, sample: Prepared, hidden: Float[Tensor, "tokens d_model"]) -> None:
        """Keep what is strongest of a sample's hidden states; single activations that are not finite are skipped."""
        text, image = self._top_tokens(hidden)
        first = self.first_token[sample.source_row]
        for top, mask in ((text, ~sample.inputs.is_image), (image, sample.inputs.is_image)):
            places = to_device(hidden.device, mask.nonzero()[:, 0])
            states, index = hidden[places], first + places
            for tokens, features, z in activation_blocks(self.dictionary, states):
                top.add(z, states[tokens], index[tokens], features)
        self.n_samples += 1

    @torch.inference_mode()
    def merge(self, text: TopTokens, image: TopTokens, n_samples: int) -> None:
        """Take in another worker's share."""
        own_text, own_image = self._top_tokens(text.vectors)
        device = str(own_text.keys.device)
        text.to(device)
        image.to(device)
        own_text.merge(text)
        own_image.merge(image)
        self.n_samples += n_samples

    @torch.inference_mode()
    def weights(self) -> FeatureWeights:
        """The feature weights of all samples taken in; no feature has one where no sample could be used."""
        if self.text is None or self.image is None:
            none = torch.zeros(self.dictionary.d_sae, dtype=torch.float64)
            return FeatureWeights(none, none.bool())
        return feature_weights(self.text, self.image)

    def places(self) -> dict[str, Places]:
        """Where the strongest tokens of each modality are, `text` and `image`; none where no sample could be used."""
        found = {}
        rows = torch.tensor(list(self.first_token))
        for modality, top in (("text", self.text), ("image", self.image)):
            if top is not None:
                index, activation = (part.cpu() for part in top.indices())
                there = index >= 0
                row = torch.where(there, rows[index.clamp(min=0) // self.context], -1)
                found[modality] = Places(row, torch.where(there, index % self.context, -1), activation)
        return found

    def _top_tokens(self, like: torch.Tensor) -> tuple[TopTokens, TopTokens]:
        if self.text is None or self.image is None:
            top_k, rule = self.parameters.top_k, self.parameters.weight_rule
            shape = (self.dictionary.d_sae, like.shape[-1], top_k, rule, self.dictionary.weight.device, like.dtype)
            self.text, self.image = TopTokens(*shape), TopTokens(*shape)
        return self.text, self.image
