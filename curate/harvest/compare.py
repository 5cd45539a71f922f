"""SAEs side by side: seeds of one taken together, as a table's rows and as a picture."""

import html
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from upath import UPath

from curate.manifest.atomic import write_atomically
from curate.sae.dictionary import DictionaryInfo


class Spread(BaseModel):
    """A figure over the seeds of one SAE."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: float
    standard_error: float | None = Field(description="of the mean, from the seeds' standard deviation; None of one")


class Compared(BaseModel):
    """One SAE, or several that differ in their seed alone, on one model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str
    saes: tuple[str, ...]
    model: str
    figures: dict[str, Spread | None] = Field(description="None where a figure is not defined, or not of every seed")


def training_facts(sae: DictionaryInfo) -> Mapping[str, Any]:
    """What an SAE's metadata say of its training; empty where they say nothing."""
    metadata = sae.config.get("metadata")
    training = metadata.get("training") if isinstance(metadata, dict) else None
    return training if isinstance(training, dict) else {}


def compare(
    measured: Sequence[tuple[str, str, Mapping[str, float | None]]], saes: Mapping[str, DictionaryInfo]
) -> Iterator[Compared]:
    """One row for each group of SAEs that differ in their seed alone, and model.

    Args:
        measured: of each (SAE, model), the figures.
    """
    groups: list[list[str]] = []
    for name, info in saes.items():
        found = next((group for group in groups if all(_differ_in_seed(info, saes[each]) for each in group)), None)
        if found is None:
            groups.append([name])
        else:
            found.append(name)
    labels = _short([_label(group) for group in groups])
    if len(set(labels)) < len(labels):
        labels = [", ".join(group) for group in groups]
    figures = {(sae, model): values for sae, model, values in measured}
    for model in dict.fromkeys(model for _, model, _ in measured):
        for group, label in zip(groups, labels, strict=True):
            rows = [figures[sae, model] for sae in group]
            spreads = {measure: _spread([row[measure] for row in rows]) for measure in rows[0]}
            yield Compared(label=label, saes=tuple(group), model=model, figures=spreads)


def _differ_in_seed(one: DictionaryInfo, other: DictionaryInfo) -> bool:
    facts, others = training_facts(one), training_facts(other)
    if "seed" not in facts or "seed" not in others or facts["seed"] == others["seed"]:
        return False
    return _fixed(one) == _fixed(other)


def _fixed(sae: DictionaryInfo) -> tuple[object, ...]:
    """All that two seeds of one SAE have in common. How many of their tokens are of images differs by chance."""
    facts = {key: value for key, value in training_facts(sae).items() if key not in ("seed", "measured_image_share")}
    return sae.architecture, sae.d_model, sae.d_sae, sae.hook_layer, sae.model_name, sae.model_hash, facts


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    error = stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None
    return Spread(mean=fmean(known), standard_error=error)


def _label(group: Sequence[str]) -> str:
    if len(group) == 1:
        return group[0]
    alike = itertools.takewhile(lambda characters: len(set(characters)) == 1, zip(*group, strict=False))
    common = "".join(characters[0] for characters in alike).rstrip("-_./ ")
    return f"{common or group[0]} ({len(group)} seeds)"


def _short(names: Sequence[str]) -> list[str]:
    """Names without the folders before them, where that leaves them apart."""
    short = [name.rstrip("/").rpartition("/")[2] for name in names]
    return short if len(set(short)) == len(names) else list(names)


PANELS = {
    "mse": "reconstruction loss (MSE)",
    "explained_variance": "explained variance",
    "l0": "L0 (active features per token)",
    "loss_spliced": "next-token loss with reconstruction",
    "loss_recovered": "loss recovered",
    "features_on_both": "features active on both modalities",
}
COLUMNS, PLOT_HEIGHT, LEFT, TOP, BAR, GAP = 3, 150, 52, 34, 40, 28
NARROWEST = 230  # a panel, so that its title has room
INK, PALE, GRID = "#222222", "#666666", "#dddddd"
# Okabe & Ito's, which the colour-blind can tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C", "#F0E442")


class _Rect(NamedTuple):
    x: float
    y: float
    width: float
    height: float
    fill: str


class _Line(NamedTuple):
    x1: float
    y1: float
    x2: float
    y2: float
    ink: str


class _Text(NamedTuple):
    """`anchor`: which of its ends is at x; y is the base line."""

    x: float
    y: float
    text: str
    size: int
    anchor: str
    ink: str


_Shape = _Rect | _Line | _Text


def draw(path: UPath, rows: Sequence[Compared]) -> None:
    """Draw the comparison as bars with standard errors: .png by Pillow at twice the size, else SVG."""
    shapes, width, height = _picture(rows)
    if path.suffix.lower() == ".png":
        write_atomically(path, lambda temporary: _write_png(temporary, shapes, width, height))
    else:
        svg = _svg(shapes, width, height)
        write_atomically(path, lambda temporary: temporary.write_text(svg, encoding="utf-8"))


def _picture(rows: Sequence[Compared]) -> tuple[list[_Shape], int, int]:
    """The shapes, and the picture's size in pixels."""
    labels, models = (list(dict.fromkeys(names)) for names in ([r.label for r in rows], [r.model for r in rows]))
    measures = [measure for measure in PANELS if any(row.figures[measure] for row in rows)]
    group = max(len(labels) * BAR + GAP, NARROWEST // len(models))
    panel_width = LEFT + len(models) * group + 24
    columns = min(COLUMNS, len(measures))
    legend = 22 * len(labels) + 22
    panel_height = TOP + PLOT_HEIGHT + 40
    shapes: list[_Shape] = []
    for index, label in enumerate(labels):
        shapes.append(_Rect(16, 14 + 22 * index, 14, 14, COLOURS[index % len(COLOURS)]))
        shapes.append(_Text(38, 26 + 22 * index, label, 13, "start", INK))
    for index, measure in enumerate(measures):
        x, y = 16 + index % columns * panel_width, legend + index // columns * panel_height
        shapes += _panel(x, y, measure, rows, labels, models, group)
    longest = max((len(label) for label in labels), default=0)
    width = max(16 + columns * panel_width, 60 + 8 * longest)
    return shapes, width, legend + -(-len(measures) // columns) * panel_height


def _panel(
    x: float,
    y: float,
    measure: str,
    rows: Sequence[Compared],
    labels: Sequence[str],
    models: Sequence[str],
    group: float,
) -> Iterator[_Shape]:
    found = {(row.label, row.model): row.figures[measure] for row in rows}
    spreads = [spread for spread in found.values() if spread is not None]
    ends = [spread.mean + side * (spread.standard_error or 0) for spread in spreads for side in (-1, 1)]
    ticks = _ticks(min(0, *ends), max(0, *ends))
    low, high = ticks[0], ticks[-1]
    left, top, right = x + LEFT, y + TOP, x + LEFT + len(models) * group

    def place(value: float) -> float:
        return top + PLOT_HEIGHT * (high - value) / (high - low)

    yield _Text(x, y + 16, PANELS[measure], 14, "start", INK)
    for tick in ticks:
        yield _Line(left, place(tick), right, place(tick), PALE if tick == 0 else GRID)
        yield _Text(left - 6, place(tick) + 4, _short_number(tick, 4), 11, "end", PALE)
    names = _short(models)
    for m, model in enumerate(models):
        start = left + m * group + (group - len(labels) * BAR) / 2
        fits = max(8, int(group / 6.5))
        name = names[m] if len(names[m]) <= fits else names[m][: fits - 1] + "…"
        yield _Text(left + (m + 0.5) * group, top + PLOT_HEIGHT + 18, name, 12, "middle", INK)
        for index, label in enumerate(labels):
            spread, middle = found[label, model], start + (index + 0.5) * BAR
            if spread is None:
                yield _Text(middle, place(0) - 4, "n/a", 10, "middle", PALE)
                continue
            upper, lower = place(max(spread.mean, 0)), place(min(spread.mean, 0))
            yield _Rect(middle - BAR * 0.4, upper, BAR * 0.8, lower - upper, COLOURS[index % len(COLOURS)])
            error = spread.standard_error or 0
            tips = place(spread.mean + error), place(spread.mean - error)
            if spread.standard_error is not None:
                yield _Line(middle, *(tips[0], middle, tips[1]), INK)
                for tip in tips:
                    yield _Line(middle - 5, tip, middle + 5, tip, INK)
            at = min(tips[0], upper) - 4 if spread.mean >= 0 else max(tips[1], lower) + 12
            yield _Text(middle, at, _short_number(spread.mean, 3), 10, "middle", INK)


def _short_number(value: float, digits: int) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers a step apart that span both ends, with room for a label beyond the longest bar."""
    span = (high - low) or 1.0
    low, high = (low - 0.1 * span if low < 0 else 0.0), (high + 0.1 * span if high > 0 or low == 0 else 0.0)
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * index for index in range(first, last + 1)]


def _plain(text: str) -> str:
    return "".join(character for character in text if character.isprintable())


def _svg(shapes: Sequence[_Shape], width: int, height: int) -> str:
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="Helvetica, Arial, sans-serif">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for shape in shapes:
        if isinstance(shape, _Rect):
            size = f'width="{shape.width:.2f}" height="{shape.height:.2f}"'
            lines.append(f'<rect x="{shape.x:.2f}" y="{shape.y:.2f}" {size} fill="{shape.fill}"/>')
        elif isinstance(shape, _Line):
            ends = f'x1="{shape.x1:.2f}" y1="{shape.y1:.2f}" x2="{shape.x2:.2f}" y2="{shape.y2:.2f}"'
            lines.append(f'<line {ends} stroke="{shape.ink}"/>')
        else:
            style = f'font-size="{shape.size}" text-anchor="{shape.anchor}" fill="{shape.ink}"'
            text = html.escape(_plain(shape.text))
            lines.append(f'<text x="{shape.x:.2f}" y="{shape.y:.2f}" {style}>{text}</text>')
    return "\n".join([*lines, "</svg>\n"])


def _write_png(path: Path, shapes: Sequence[_Shape], width: int, height: int) -> None:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (2 * width, 2 * height), "white")
    pen = ImageDraw.Draw(image)
    anchors = {"start": "ls", "middle": "ms", "end": "rs"}
    for shape in shapes:
        if isinstance(shape, _Rect):
            x, y = 2 * shape.x, 2 * shape.y
            pen.rectangle((x, y, x + 2 * shape.width, y + 2 * shape.height), fill=shape.fill)
        elif isinstance(shape, _Line):
            pen.line((2 * shape.x1, 2 * shape.y1, 2 * shape.x2, 2 * shape.y2), fill=shape.ink, width=2)
        else:
            font = ImageFont.load_default(2 * shape.size)
            text = _plain(shape.text)
            pen.text((2 * shape.x, 2 * shape.y), text, fill=shape.ink, font=font, anchor=anchors[shape.anchor])
    image.save(path, "PNG", optimize=True)
