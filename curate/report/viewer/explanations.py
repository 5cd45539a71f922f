"""Explanations of a run's samples for a page: loaded when the first is asked for, made one at a time."""

import base64
import io
import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from upath import UPath

from curate.interpret.examples import called, strongest
from curate.interpret.explain import EXPLAINED, Explained, Explanation, at_tokens, explain_row, named, where
from curate.interpret.lens import Lens, open_run
from curate.report.drawing import heat_pixels, shown

FEATURES = 10
_LEVELS = 9  # of colour on tokens


class ShownToken(NamedTuple):
    """A piece of text on the page, and how dark it is: 0 to 9."""

    text: str
    level: int


class ShownFeature(NamedTuple):
    """A feature on the page.

    Attributes:
        heat: the image under the feature's heat, as a data URL; None where it fires on no patch.
    """

    feature: int
    contribution: float
    weight: float | None
    called: str
    where: str
    heat: str | None
    tokens: list[ShownToken]


class ShownExplanation(NamedTuple):
    """An explanation on the page."""

    explanation: Explanation
    tokens: list[ShownToken]
    features: list[ShownFeature]


class Explainer:
    """Explains samples of one run.

    Args:
        device: `auto`, `cpu` or `cuda`.
        labels: what features are called.
    """

    def __init__(self, run: UPath, device: str, labels: Mapping[int, str]) -> None:
        self._run, self._device, self._labels = run, device, labels
        self._lens: Lens | None = None
        self._lock = threading.Lock()

    def explain(self, rank: int, metric: str) -> ShownExplanation:
        """Explain a sample's score; by the run's first sum over features where the metric is none.

        Raises:
            ConfigurationError, DataError: as of `open_run` and `explain_row`.
        """
        with self._lock:
            if self._lens is None:
                self._lens = open_run(self._run, self._device)
            explained = explain_row(self._lens, f"#{rank}", metric if metric in EXPLAINED else None)
            first = [each.feature for each in explained.explanation.features[:FEATURES]]
            examples = strongest(self._lens, first, 1)
        return _shown(named(explained, self._labels, examples.of))


def _shown(explained: Explained) -> ShownExplanation:
    explanation = explained.explanation
    features = []
    for column, each in enumerate(explanation.features[:FEATURES]):
        values = explained.activations[:, column]
        on_image = values[explained.is_image]
        fires = any(token.box and value > 0 for token, value in zip(explanation.tokens, values.tolist(), strict=True))
        features.append(
            ShownFeature(
                each.feature,
                each.contribution,
                each.weight,
                shown(called(each.label, each.examples)),
                where(explained, each),
                _url(heat_pixels(explained.image, explained.patches, on_image, float(values.max()))) if fires else None,
                _tokens(explanation, values.tolist()),
            )
        )
    return ShownExplanation(explanation, _tokens(explanation, at_tokens(explanation)), features)


def _tokens(explanation: Explanation, values: Sequence[float]) -> list[ShownToken]:
    """The text's tokens; those of the image are shown on the image."""
    highest = max(values, default=0.0)
    return [
        ShownToken(shown(token.text), round(_LEVELS * max(0.0, value) / highest) if highest > 0 else 0)
        for token, value in zip(explanation.tokens, values, strict=True)
        if token.text is not None
    ]


def _url(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
