"""Figures as markup inside the page: their colours are its variables, so that one figure serves light and dark."""

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from curate.palette import COLOURS, GREY, INK

if TYPE_CHECKING:
    from markupsafe import Markup

LINE, DROPPED, MID = "#DDDDDD", "#BBBBBB", "#999999"
# What figures are drawn in, and what the page calls it. Nothing else may be left of matplotlib's colours.
VARIABLES = {
    **{colour.lower(): f"var(--series-{place})" for place, colour in enumerate(COLOURS)},
    GREY.lower(): "var(--grey)",
    INK.lower(): "var(--ink)",
    "#000000": "var(--ink)",
    LINE.lower(): "var(--line)",
    DROPPED.lower(): "var(--dropped)",
    MID.lower(): "var(--grey)",
    "#ffffff": "var(--ground)",
}
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "curate",  # the same figure is the same markup
    "text.parse_math": False,  # a dollar sign in a metric's name is no formula's
    "path.simplify": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), INK),
    **{"font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8},
    **{"axes.spines.top": False, "axes.spines.right": False},
}
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")
_SIZE = re.compile(r"[\d.]+px")
_WIDTH, _HEIGHT = 3.5, 2.4  # of a small figure, in inches
BINS = 40
FEW_POINTS, MOST_POINTS = 500, 2_000
_LAYERS = 8  # points that lie over each other look darker, up to so many


def drawn(name: str, title: str, draw: Callable[[], Any]) -> "Markup":
    """A matplotlib figure as an `<svg>`.

    Args:
        name: letters and hyphens that no other figure of the page has: its ids begin so.
        title: what it shows, for who cannot see it.
        draw: makes the figure.
    """
    from markupsafe import Markup
    from matplotlib import rc_context

    with rc_context(_STYLE):
        file = io.StringIO()
        draw().savefig(file, format="svg", metadata={"Date": None})
    return Markup(_inline(ET.fromstring(file.getvalue()), title, f"{name}-"))


def _inline(svg: ET.Element, title: str, prefix: str) -> str:
    """An SVG document as an element of a page: no metadata, no style sheet, no font, no colour and no id of its own."""
    for parent in list(svg.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in svg.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        if (target := element.attrib.pop(f"{{{_XLINK}}}href", None)) is not None:
            element.set("href", f"#{prefix}{target.removeprefix('#')}")
        for name in ("id", "clip-path"):
            if name in element.attrib:
                value = element.attrib[name]
                element.set(name, value.replace("url(#", f"url(#{prefix}") if name == "clip-path" else prefix + value)
        if "style" in element.attrib:
            element.set("style", _themed(element.attrib["style"]))
    width, height = (float(svg.attrib.pop(name).removesuffix("pt")) for name in ("width", "height"))
    svg.attrib.pop("version", None)
    svg.set("style", f"width: {width / 72 * 96:.0f}px; aspect-ratio: {width:g} / {height:g}")
    svg.set("role", "img")
    svg.set("aria-labelledby", f"{prefix}title")
    named = ET.Element("title", {"id": f"{prefix}title"})
    named.text = title
    svg.insert(0, named)
    return ET.tostring(svg, encoding="unicode", short_empty_elements=False)


def _themed(style: str) -> str:
    """Declarations with the page's colours, and with the page's font in the same size."""
    kept = []
    for declaration in style.split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font" and (size := _SIZE.search(value)):
            kept.append(f"font-size: {size[0]}")
        elif name and name not in ("font", "font-family"):
            kept.append(f"{name}: {_COLOUR.sub(lambda found: VARIABLES[found[0].lower()], value)}")
    return "; ".join(kept)


def _axes(height: float = _HEIGHT) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes: Any = figure.add_subplot()
    axes.set_axisbelow(True)
    return figure, axes


def histogram(
    values: Float[np.ndarray, " rows"], label: str, kept: Bool[np.ndarray, " rows"] | None = None, what: str = "samples"
) -> Any:
    """How often each value occurs; those of kept samples in another colour."""
    figure, axes = _axes()
    edges = _edges(values)
    whole = np.histogram(values, edges)[0]
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    if kept is None:
        axes.stairs(whole, edges, fill=True, color=COLOURS[0])
    else:
        axes.stairs(whole, edges, fill=True, color=DROPPED, label="all")
        axes.stairs(np.histogram(values[kept], edges)[0], edges, fill=True, color=COLOURS[0], label="kept")
    axes.set_xlabel(label)
    axes.set_ylabel(what)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(nbins=5)
    axes.margins(x=0.02)
    return figure


def _edges(values: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " edges"]:
    """Of bins of equal width; of one, where the values' range cannot be divided."""
    try:
        return np.histogram_bin_edges(values, BINS) if len(values) else np.linspace(0, 1, BINS + 1)
    except ValueError:
        return np.array([values.min(), values.max()])


def scatter(
    x: Float[np.ndarray, " points"],
    y: Float[np.ndarray, " points"],
    labels: tuple[str, str],
    kept: Bool[np.ndarray, " points"] | None = None,
) -> Any:
    """Points; those of kept samples in another colour."""
    figure, axes = _axes(2.6)
    axes.grid(color=LINE, linewidth=0.6)
    groups = [(~kept, MID), (kept, COLOURS[0])] if kept is not None else [(np.ones(len(x), bool), COLOURS[0])]
    size = 4.5 if len(x) <= FEW_POINTS else 2.6
    for chosen, colour in groups:
        for layer in range(_LAYERS):
            _points(axes, x[chosen][layer::_LAYERS], y[chosen][layer::_LAYERS], colour, size)
    axes.autoscale_view()
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.locator_params(nbins=5)
    return figure


def _points(axes: Any, x: np.ndarray, y: np.ndarray, colour: str, size: float) -> None:
    """Points as one path, of strokes without length and with round ends: a third of the bytes of a mark for each."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    if not len(x):
        return
    vertices = np.repeat(np.column_stack([x, y]), 2, axis=0)
    codes = np.tile([Path.MOVETO, Path.LINETO], len(x))
    style: dict[str, Any] = {"facecolor": "none", "edgecolor": colour, "alpha": 0.6, "linewidth": size}
    axes.add_patch(PathPatch(Path(vertices, codes), capstyle="round", **style))


def overlaps(ratios: Sequence[float], shares: Sequence[float], chance: Sequence[float]) -> Any:
    """The share of kept samples that two runs have in common over the ratio, beside that of unrelated orders."""
    figure, axes = _axes(2.6)
    axes.grid(color=LINE, linewidth=0.6)
    axes.plot(ratios, shares, color=COLOURS[0], marker="o", markersize=4, linewidth=1.5, label="these runs")
    axes.plot(ratios, chance, color=GREY, linestyle=(0, (4, 2)), linewidth=1.2, label="by chance")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.03)
    ticks = np.linspace(0, 1, 6)
    axes.set_xticks(ticks, [f"{tick:.0%}" for tick in ticks])
    axes.set_yticks(ticks, [f"{tick:.0%}" for tick in ticks])
    axes.set_xlabel("kept")
    axes.set_ylabel("of these, kept by both")
    axes.legend(frameon=False, loc="lower right")
    return figure


def drawn_points(n: int, most: int = MOST_POINTS) -> Int[np.ndarray, " points"]:
    """Which of n points are drawn: all, or so many of them, by lot, always the same."""
    return np.arange(n) if n <= most else np.sort(np.random.default_rng(0).choice(n, most, replace=False))
