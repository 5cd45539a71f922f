"""Heat over an image's patches, and tokens of a text in the same colours."""

import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from curate.manifest.atomic import write_atomically
from curate.models.patches import Patches
from curate.palette import GREY, INK
from curate.storage import location

# One hue, from light to dark: told apart by whoever sees few colours, and in grey.
COLOURMAP = "YlOrRd"
MONOSPACE = "DejaVu Sans Mono"
_LIGHTEST, _FAINTEST, _STRONGEST = 0.55, 0.35, 0.85
_MOST_PIXELS = 448
_DARK = 0.55
_ADVANCE = 0.602  # of a monospaced character, in its font's size


def figure_of(width: float, height: float, **given: Any) -> Any:
    """An empty figure, in inches, that no screen shows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), **given)
    FigureCanvasAgg(figure)
    return figure


def axes_at(figure: Any, left: float, top: float, width: float, height: float) -> Any:
    """Axes in a figure; all in inches from its upper left corner."""
    across, down = figure.get_size_inches()
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def text_at(figure: Any, left: float, top: float, text: str, **style: Any) -> None:
    """Text below a point of a figure, in inches from its upper left corner; no sign in it is a formula's."""
    across, down = figure.get_size_inches()
    style = {"color": INK, "size": 9.5, **style}
    lines = "\n".join(map(shown, text.split("\n")))
    figure.text(left / across, 1 - top / down, lines, va="top", parse_math=False, **style)


def save(figure: Any, file: Path, dpi: int = 150) -> None:
    """Write a .png or .svg, atomically. A character that the font lacks is drawn as an empty box.

    The same figure is the same file, which by default would hold the date.
    """
    import matplotlib

    kind = file.suffix.lower().lstrip(".")
    options: dict[str, Any] = {"dpi": dpi, "format": kind, "metadata": {"Date": None} if kind == "svg" else {}}
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": file.stem}):
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        write_atomically(location(str(file)), lambda temporary: figure.savefig(temporary, **options))


def draw_image(axes: Any, image: Image) -> None:
    """An image with its proportions, without axes."""
    axes.imshow(_small(image))
    axes.set_axis_off()


def draw_heat(
    axes: Any, image: Image, patches: Patches, values: Float[Tensor, " image_tokens"], highest: float
) -> None:
    """An image in light grey, each place under the colour of the strongest of its tokens, at whatever resolution.

    Args:
        highest: the value of the darkest colour; 0 has none.
    """
    axes.imshow(heat_pixels(image, patches, values, highest))
    axes.set_axis_off()


def heat_pixels(
    image: Image, patches: Patches, values: Float[Tensor, " image_tokens"], highest: float
) -> Float[np.ndarray, "height width 3"]:
    """What `draw_heat` draws: red, green and blue from 0 to 1, at most 448 pixels high and wide."""
    from matplotlib import colormaps

    small = _small(image)
    grey = np.asarray(small.convert("L"), dtype=float) / 255
    strongest = patches.strongest(values, *small.size).numpy()
    share = np.clip(strongest / highest, 0, 1) if highest > 0 else np.zeros_like(strongest)
    colours = colormaps[COLOURMAP](share)[..., :3]
    over = np.where(share > 0, _FAINTEST + (_STRONGEST - _FAINTEST) * share, 0)[..., None]
    return over * colours + (1 - over) * (_LIGHTEST + (1 - _LIGHTEST) * grey)[..., None]


def _small(image: Image) -> Image:
    """A photograph's every pixel would make pictures of many megabytes."""
    small = image.copy()
    small.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
    return small


def shown(text: str) -> str:
    """A token's text as it is drawn: line breaks as signs, without control and direction characters."""
    signs = {"\n": "⏎", "\t": "⇥"}
    return "".join(
        signs.get(each, each if unicodedata.category(each)[0] != "C" else "\N{REPLACEMENT CHARACTER}") for each in text
    )


def plain(text: str) -> str:
    """A text of data for a title or legend: no sign in it is a formula's."""
    return shown(text).replace("$", r"\$")


def wrapped(tokens: Sequence[str], columns: int) -> list[list[tuple[int, int, str]]]:
    """Tokens in lines: of each its number, the column where it begins, and its text; long ones are cut in two."""
    lines: list[list[tuple[int, int, str]]] = [[]]
    at = 0
    for number, token in enumerate(tokens):
        for piece in _pieces(shown(token), columns):
            if at + _width(piece) > columns and at:
                lines.append([])
                at = 0
            lines[-1].append((number, at, piece))
            at += _width(piece)
    return lines


def draw_tokens(
    axes: Any, lines: Sequence[Sequence[tuple[int, int, str]]], values: Sequence[float], highest: float, columns: int
) -> None:
    """Lines of tokens, each on the colour of its value; the axes are in characters, from the top left."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    box = axes.get_window_extent()
    size = min(box.width / columns / _ADVANCE, box.height / max(1, len(lines)) / 1.35) * 72 / axes.figure.dpi
    for row, line in enumerate(lines):
        for number, at, text in line:
            share = min(1.0, max(0.0, values[number] / highest)) if highest > 0 else 0.0
            if share > 0:
                colour = colormaps[COLOURMAP](share)
                axes.add_patch(Rectangle((at, row + 0.05), _width(text), 0.9, facecolor=colour, linewidth=0))
            ink = "white" if share > _DARK else INK
            axes.text(
                at, row + 0.5, text, family=MONOSPACE, size=size, color=ink, va="center_baseline", parse_math=False
            )
    axes.set_xlim(0, columns)
    axes.set_ylim(max(1, len(lines)), 0)
    axes.set_axis_off()


def draw_contexts(axes: Any, lines: Sequence[tuple[str, str, str, float]], highest: float, size: float = 9) -> None:
    """Tokens one below the other, each between what stands before and after it, with its value at the right."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    characters = axes.get_window_extent().width / axes.figure.dpi * 72 / (size * _ADVANCE)
    side = int(characters * 0.42)
    style: dict[str, Any] = {"family": MONOSPACE, "size": size, "va": "center_baseline", "parse_math": False}
    for row, (before, token, after, value) in enumerate(lines):
        before, token, after = shown(before)[-side:], shown(token), shown(after)[:side]
        share = min(1.0, value / highest)
        axes.add_patch(Rectangle((0, row + 0.06), _width(token), 0.88, facecolor=colormaps[COLOURMAP](share)))
        axes.text(0, row + 0.5, before, ha="right", color=INK, **style)
        axes.text(0, row + 0.5, token, color="white" if share > _DARK else INK, **style)
        axes.text(_width(token), row + 0.5, after, color=INK, **style)
        axes.text(characters - side, row + 0.5, f"{value:.2f}", ha="right", color=GREY, **style)
    axes.set_xlim(-side, characters - side)
    axes.set_ylim(len(lines), 0)
    axes.set_axis_off()


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)


def _pieces(text: str, columns: int) -> list[str]:
    return [text[start : start + columns] for start in range(0, len(text), columns)]
