"""Figure 6 of the SAE-V paper, of a study of patches: what is left of images over the share of patches; a gallery."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from curate.interpret.patches.job import GALLERY, METHODS, PLOT, ROWS, Method
from curate.interpret.patches.masks import masked_pixels, n_kept
from curate.interpret.patches.plan import PatchesPlan
from curate.interpret.patches.results import RANDOM, Found, ImageRow, PatchesRecord
from curate.interpret.patches.study import read_rows
from curate.palette import COLOURS, GREY, INK, MARKERS
from curate.report.drawing import figure_of, plain, save

_RIGHT, _WRONG = COLOURS[0], COLOURS[1]
_DODGE = 0.012
_CELL = 1.4  # inches
_CHECKS = 24  # checks along an image's longer edge
_LIGHT, _DARK = 255, 205


def draw_patches(folder: Path, record: PatchesRecord) -> None:
    """Accuracy over the share of patches that are kept, a line for each method; whole images are at 100%."""
    figure = figure_of(6.4, 4.5, layout="constrained")
    axes: Any = figure.add_subplot()
    whole = next(each for each in record.found if each.method is None)
    axes.axhline(whole.accuracy.value, color=INK, linewidth=1.1, linestyle=(0, (5, 2)), label="whole images")
    axes.axhspan(whole.accuracy.low, whole.accuracy.high, color=INK, alpha=0.08, linewidth=0)
    axes.axhline(1 / len(record.classes), color=INK, linewidth=1.1, linestyle=(0, (1, 1.5)), label="guessing")
    methods = [name for name in METHODS if any(each.method == name for each in record.found)]
    for place, name in enumerate(methods):
        look = {"color": COLOURS[place], "marker": MARKERS[place]}
        if name == RANDOM:
            look = {"color": GREY, "marker": "x", "linestyle": (0, (4, 2))}
        own = [each for each in record.found if each.method == name]
        _line(axes, whole, own, name, (place - (len(methods) - 1) / 2) * _DODGE, look)
    ratios = sorted({each.ratio for each in record.found})
    axes.set_xticks(ratios, [f"{100 * ratio:g}%" for ratio in ratios])
    axes.invert_xaxis()
    axes.set_ylim(0, 1.03)
    axes.set_yticks(np.linspace(0, 1, 6), [f"{percent}%" for percent in range(0, 101, 20)])
    axes.set_xlabel("patches kept")
    axes.set_ylabel("accuracy")
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    title = f"{whole.n:,} images of {len(record.classes)} classes; bars and band: 95% intervals"
    figure.legend(loc="outside lower center", ncols=4, frameon=False, title=title, title_fontsize="small")
    for kind in ("png", "svg"):
        save(figure, folder / f"{PLOT}.{kind}")


def _line(axes: Any, whole: Found, own: list[Found], name: str, shift: float, look: dict[str, Any]) -> None:
    """A method's line, from whole images on; points are moved apart so that no bar hides another."""
    at = [each.ratio + shift for each in own]
    values = [each.accuracy.value for each in own]
    ends = [[each.accuracy.value - each.accuracy.low, each.accuracy.high - each.accuracy.value] for each in own]
    # The first point is every method's, and has its interval as a band.
    points, every = [1.0, *at], range(1, len(at) + 1)
    axes.plot(points, [whole.accuracy.value, *values], label=name, markevery=every, linewidth=1.5, markersize=5, **look)
    axes.errorbar(at, values, yerr=np.transpose(ends), fmt="none", ecolor=look["color"], capsize=2.5, elinewidth=1.2)


def draw_gallery(folder: Path, the_plan: PatchesPlan) -> None:
    """Some images, a row each: whole, then what each method keeps of them, with what the model takes them for."""
    job, images = the_plan.job, the_plan.images
    rows = chosen(folder / ROWS, job.gallery)
    if not rows:
        return
    builder, places = the_plan.subject.load_builder(), {name: place for place, name in enumerate(images.ids)}
    whole = [images.decode(places[row.id]) for row in rows]
    heights = [min(1.0, image.height / image.width) for image in whole]
    columns = 1 + len(job.methods)
    height = _CELL * sum(heights) + 0.3 * len(rows) + 0.4
    figure = figure_of(_CELL * columns, height, layout="constrained")
    grid: Any = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for row, image, cells in zip(rows, whole, grid, strict=True):
        patches = builder.patches(image)
        shown: dict[Method | None, Image.Image] = {None: image}
        for method, order in row.ranked.items():
            kept = order[: n_kept(job.shown_ratio, len(order))]
            shown[method] = checkered(image, masked_pixels(patches, kept).numpy())
        predicted = {each.method: each.predicted for each in row.outcomes if each.ratio in (1.0, job.shown_ratio)}
        for axes, (method, picture) in zip(cells, shown.items(), strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            is_right = predicted[method] == row.label
            said = f"{'✓' if is_right else '✗'} {plain(images.classes[predicted[method]])}"
            axes.set_xlabel(said, fontsize=9, color=_RIGHT if is_right else _WRONG)
    for axes, title in zip(grid[0], ["whole image", *job.methods], strict=True):
        axes.set_title(title, fontsize=9, fontweight="bold")
    note = f"{100 * job.shown_ratio:g}% of the patches are kept; where it is checkered, the model sees one colour"
    figure.supxlabel(note, fontsize=9)
    save(figure, folder / GALLERY)


def chosen(path: Path, n: int) -> list[ImageRow]:
    """So many images of the file that could be looked at, of each class as many as of any other where it has them."""
    seen: Counter[int] = Counter()
    in_turn: list[tuple[int, ImageRow]] = []
    for row in read_rows(path):
        if row.error is None and seen[row.label] < n:
            in_turn.append((seen[row.label], row))
            seen[row.label] += 1
    return [row for _, row in sorted(in_turn, key=lambda each: (each[0], each[1].label))[:n]]


def checkered(image: Image.Image, masked: np.ndarray) -> Image.Image:
    """The image with checks where it is masked, which no image is taken for.

    Args:
        masked: booleans, [height, width].
    """
    edge = max(1, max(image.size) // _CHECKS)
    row, column = np.indices(masked.shape) // edge
    pixels = np.array(image)
    pixels[masked] = np.where((row + column) % 2, _LIGHT, _DARK)[masked][:, None]
    return Image.fromarray(pixels)
