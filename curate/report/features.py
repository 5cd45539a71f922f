"""Feature cards, and the features of classes of images, drawn."""

from collections.abc import Sequence
from pathlib import Path

from curate.interpret.heat import Heat
from curate.interpret.run_features import RunFeature
from curate.palette import GREY
from curate.report.drawing import axes_at, draw_contexts, draw_heat, draw_image, figure_of, save, text_at

_WIDTH, _MARGIN, _GAP, _LINE, _HEAD = 10.0, 0.15, 0.12, 0.2, 0.55
_ON_CARD, _OF_CLASS = 1.8, 1.35  # an image's width and height at most


def draw_card(file: Path, feature: RunFeature, heats: Sequence[Heat]) -> None:
    """A feature's card: the text tokens it fires on most strongly, in their context, and the images.

    Args:
        heats: of the images of its strongest image tokens; each is drawn as it is, and under the feature's heat.
    """
    lines = [(each.before, each.token or "", each.after, each.activation) for each in feature.examples]
    lines = lines[: sum(each.modality == "text" for each in feature.examples)]
    tallest = max((_fitted(each, _ON_CARD)[1] for each in heats), default=0.0)
    pictures_top = _MARGIN + _HEAD + len(lines) * _LINE + _GAP
    figure = figure_of(_WIDTH, pictures_top + (2 * tallest + _GAP if heats else 0) + _MARGIN)
    weight = "no feature weight" if feature.weight is None else f"feature weight {feature.weight:+.3f}"
    peaks = f"strongest on text {feature.text_peak:.2f}, on images {feature.image_peak:.2f}"
    named = f"feature {feature.feature}" + (f": {feature.label}" if feature.label else "")
    text_at(figure, _MARGIN, _MARGIN, named, size=13, weight="bold")
    text_at(figure, _MARGIN, _MARGIN + 0.27, f"{weight}; {peaks}{_separators(feature)}", color=GREY)
    if lines:
        words = axes_at(figure, _MARGIN, _MARGIN + _HEAD, _WIDTH - 2 * _MARGIN, len(lines) * _LINE)
        draw_contexts(words, lines, feature.text_peak)
    for column, each in enumerate(heats):
        width, height = _fitted(each, _ON_CARD)
        left = _MARGIN + column * (_ON_CARD + _GAP)
        draw_image(axes_at(figure, left, pictures_top, width, height), each.image)
        below = axes_at(figure, left, pictures_top + tallest + _GAP, width, height)
        draw_heat(below, each.image, each.patches, each.values[:, 0], feature.image_peak)
    save(figure, file, dpi=130)


def draw_classes(file: Path, title: str, rows: Sequence[tuple[str, Sequence[Heat]]]) -> None:
    """A row for each class and feature: what is said of it, and its strongest images of the class under its heat."""
    heights = [max((_fitted(each, _OF_CLASS)[1] for each in heats), default=0.3) + _GAP for _, heats in rows]
    figure = figure_of(_WIDTH, 2 * _MARGIN + 0.4 + sum(heights))
    text_at(figure, _MARGIN, _MARGIN, title, size=12, weight="bold")
    most = max((len(heats) for _, heats in rows), default=0)
    top = _MARGIN + 0.4
    for (said, heats), height in zip(rows, heights, strict=True):
        text_at(figure, _MARGIN, top, said)
        highest = max((float(each.values.max()) for each in heats), default=0.0)
        for column, each in enumerate(heats):
            left = _WIDTH - _MARGIN - (most - column) * (_OF_CLASS + _GAP) + _GAP
            draw_heat(
                axes_at(figure, left, top, *_fitted(each, _OF_CLASS)),
                each.image,
                each.patches,
                each.values[:, 0],
                highest,
            )
        top += height
    save(figure, file, dpi=130)


def _separators(feature: RunFeature) -> str:
    """What the heat does not show: where its strongest image tokens are no patches."""
    on_images = [each.box for each in feature.examples if each.modality == "image"]
    n = on_images.count(None)
    return f"; {n} of its {len(on_images)} strongest image tokens separate rows of patches" if n else ""


def _fitted(each: Heat, most: float) -> tuple[float, float]:
    """Width and height in inches, with the image's proportions."""
    scale = most / max(each.image.size)
    return each.image.width * scale, each.image.height * scale
