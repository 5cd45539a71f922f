"""Which features of a run are live: what each weighs, and on which modality it fires. No model is needed for it."""

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor
from upath import UPath

from curate.errors import ConfigurationError
from curate.manifest.record import WEIGHTS_FOLDER
from curate.manifest.weights import WeightsRecord, read_places, read_weights


class LiveFeatures(NamedTuple):
    """An SAE's features, by the samples that feature weights were computed from.

    Attributes:
        weight: 0 for a feature with fewer than K tokens in a modality, which has none.
        text_peak: each feature's strongest activation on a text token; image_peak: on an image token.
        delta: a feature is active above it.
    """

    record: WeightsRecord
    weight: Float[Tensor, " d_sae"]
    text_peak: Float[Tensor, " d_sae"]
    image_peak: Float[Tensor, " d_sae"]
    delta: float

    @property
    def on_text(self) -> Bool[Tensor, " d_sae"]:
        return self.text_peak > self.delta

    @property
    def on_image(self) -> Bool[Tensor, " d_sae"]:
        return self.image_peak > self.delta

    @property
    def cross_modal(self) -> list[int]:
        """Active on at least one text and one image token."""
        return (self.on_text & self.on_image).nonzero()[:, 0].tolist()

    @property
    def text_only(self) -> list[int]:
        return (self.on_text & ~self.on_image).nonzero()[:, 0].tolist()

    @property
    def image_only(self) -> list[int]:
        return (self.on_image & ~self.on_text).nonzero()[:, 0].tolist()

    @property
    def inactive(self) -> int:
        """Features that are active on none of these tokens."""
        return int((~self.on_text & ~self.on_image).sum())

    def heaviest(self, top: int) -> list[int]:
        """The features of the largest weight, this first; none without weight."""
        ordered = self.weight.argsort(descending=True, stable=True)[:top].tolist()
        return [feature for feature in ordered if float(self.weight[feature]) != 0]


def live_features(run: UPath, delta: float) -> LiveFeatures:
    """Read them from a run's feature weights.

    Raises:
        ConfigurationError: there are none, or they do not say where tokens are.
    """
    weight, record = read_weights(run / WEIGHTS_FOLDER)
    text, image = (read_places(run / WEIGHTS_FOLDER, modality)[2] for modality in ("text", "image"))
    if text.shape[1] == 0 or image.shape[1] == 0:
        raise ConfigurationError(f"the feature weights of {run} do not say where tokens are: score again without them")
    return LiveFeatures(record, weight, text.amax(1), image.amax(1), delta)
