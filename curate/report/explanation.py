"""The picture of an explanation: what fires where in the image and in the text, for each of the strongest features."""

from pathlib import Path

import numpy as np

from curate.interpret.examples import called
from curate.interpret.explain import Explained, at_tokens, where
from curate.palette import GREY
from curate.report.drawing import (
    axes_at,
    draw_heat,
    draw_image,
    draw_tokens,
    figure_of,
    save,
    shown,
    text_at,
    wrapped,
)

_WIDTH, _IMAGE, _MARGIN, _GAP = 10.0, 1.7, 0.15, 0.2
_COLUMNS, _LINE, _HEAD = 88, 0.17, 0.42
_MOST_LINES, _MOST_CHARACTERS, _MOST_FEATURES = 14, 105, 20


def draw_explanation(file: Path, explained: Explained, top: int) -> None:
    """Write a .png or .svg: first all features together, by what they add; then up to `top`, or 20, by themselves."""
    explanation, image = explained.explanation, explained.image
    texts = [token.text for token in explanation.tokens]
    # The image's tokens are drawn over the image.
    said = [place for place, text in enumerate(texts) if text is not None]
    lines = wrapped([str(texts[place]) for place in said], _COLUMNS)
    cut = "; the text is cut" if len(lines) > _MOST_LINES else ""
    lines = lines[:_MOST_LINES]
    chosen = explanation.features[: min(top, _MOST_FEATURES)]
    scale = _IMAGE / max(image.size)
    words = len(lines) * _LINE
    row_height = max(image.height * scale, _HEAD + words) + _GAP
    figure = figure_of(_WIDTH, _MARGIN * 2 + _HEAD + row_height * (1 + len(chosen)))
    what = f"sample {explanation.sample_id[:12]}: {explanation.metric} {explanation.score:.4g}"
    text_at(
        figure,
        _MARGIN,
        _MARGIN,
        f"{what}, the sum over {len(explanation.features):,} features{cut}",
        size=12,
        weight="bold",
    )
    left = _MARGIN + _IMAGE + _GAP
    for row in range(1 + len(chosen)):
        y = _MARGIN + _HEAD + row * row_height
        picture = axes_at(figure, _MARGIN, y, image.width * scale, image.height * scale)
        if row == 0:
            values = np.array(at_tokens(explanation))
            draw_image(picture, image)
            title, under = "all features: what those that fire at a token add", explanation.question
        else:
            feature, z = chosen[row - 1], explained.activations[:, row - 1]
            values = z.double().numpy()
            draw_heat(picture, image, explained.patches, z[explained.is_image], float(values.max()))
            weight = "" if feature.weight is None else f", weight {feature.weight:+.3f}"
            adds = f"adds {feature.contribution:+.4g}{weight}"
            title = f"feature {feature.feature}: {adds}; fires on {where(explained, feature)}"
            under = called(feature.label, feature.examples)
        text_at(figure, left, y, title)
        text_at(figure, left, y + 0.19, _cut(shown(under)), size=8, color=GREY)
        axes = axes_at(figure, left, y + _HEAD, _WIDTH - left - _MARGIN, words)
        draw_tokens(axes, lines, values[said].tolist(), float(values.max()), _COLUMNS)
    save(figure, file)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"
