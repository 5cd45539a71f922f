"""Figures 7 and 8 of the SAE-V paper, of a sweep: performance over the share of the data, and over feature weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curate.experiments.sweep_job import FULL, RANDOM
from curate.experiments.sweep_results import Mean, SweepRecord
from curate.manifest.atomic import write_atomically
from curate.palette import COLOURS, GREY, INK, MARKERS
from curate.storage import location

_ONE_POINT = 1


def draw_figure7(file: Path, record: SweepRecord) -> None:
    """Write `figure7` as a .png and an .svg; `file` has no suffix."""
    _save(figure7(record), file)


def draw_figure8(file: Path, record: SweepRecord) -> None:
    """Write `figure8` as a .png and an .svg; `file` has no suffix."""
    _save(figure8(record), file)


def has_weights(record: SweepRecord) -> bool:
    """Whether there is anything to see in `figure8`."""
    return any(cell.tuned and cell.tuned.mean_weight is not None for cell in record.cells)


def figure7(record: SweepRecord) -> Any:
    """Score over the share of the data: one panel for each method, one line for each metric, bands of ± one SE."""
    methods = list(dict.fromkeys(each.method for each in record.means))
    figure, panels = _panels(max(1, len(methods)))
    metrics = _metrics(record)
    for axes, method in zip(panels, methods, strict=False):
        of = [each for each in record.means if each.method == method]
        full = next((each for each in of if each.metric == FULL), None)
        for index, metric in enumerate(metrics):
            # All data are the last point of every metric.
            points = sorted((each for each in of if each.metric in (metric, FULL)), key=lambda each: each.ratio)
            _line(axes, points, metric, index)
        if full is not None:
            _level(axes, full.mean, full.standard_error, "all data", (0, (5, 2)))
        if record.base is not None:
            _level(axes, record.base.relative, None, "base model", (0, (1, 1.5)))
        axes.set_title(method.upper())
        axes.set_xlabel("share of the data")
    seeds = len({cell.seed for cell in record.cells})
    bands = f"bands: ± one standard error over {seeds} seeds" if seeds > 1 else "one seed: no bands"
    _finish(figure, panels[0], bands)
    return figure


def figure8(record: SweepRecord) -> Any:
    """Score over mean feature weight: a panel for each method, a point for each training, a colour for each metric."""
    methods = list(dict.fromkeys(cell.method for cell in record.cells))
    figure, panels = _panels(len(methods))
    for axes, method in zip(panels, methods, strict=True):
        for index, metric in enumerate([*_metrics(record), FULL]):
            points = [
                (cell.tuned.mean_weight, cell.tuned.relative)
                for cell in record.cells
                if cell.method == method and cell.metric == metric and cell.tuned and cell.tuned.mean_weight is not None
            ]
            if points:
                style = {"facecolor": "none"} if metric == FULL else {}
                axes.scatter(*zip(*points, strict=True), s=22, label=_label(metric), **style, **_look(metric, index))
        base = record.base
        if base is not None and base.mean_weight is not None:
            axes.scatter(base.mean_weight, base.relative, s=90, marker="*", color=INK, label="base model")
        found = next((each for each in record.correlations if each.method == method), None)
        text = "" if found is None else f": r = {found.pearson:+.2f}, ρ = {found.spearman:+.2f} (n = {found.n})"
        axes.set_title(f"{method.upper()}{text}")
        axes.set_xlabel("mean feature weight of the tuned model")
        axes.locator_params(axis="x", nbins=4)
    _finish(figure, panels[0], "r: Pearson, ρ: Spearman")
    return figure


def _metrics(record: SweepRecord) -> list[str]:
    """The metrics of a sweep, random last."""
    names = list(dict.fromkeys(cell.metric for cell in record.cells if cell.metric not in (FULL, RANDOM)))
    return [*names, *([RANDOM] if any(cell.metric == RANDOM for cell in record.cells) else [])]


def _label(metric: str) -> str:
    return "all data" if metric == FULL else metric


def _look(metric: str, index: int) -> dict[str, Any]:
    if metric == FULL:
        return {"edgecolor": INK, "marker": "o"}
    if metric == RANDOM:
        return {"color": GREY, "marker": "x"}
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def _panels(n: int) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * n, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, n, squeeze=False, sharey=True)
    axes[0, 0].set_ylabel("relative score (%)")
    return figure, list(axes[0])


def _line(axes: Any, points: Sequence[Mean], metric: str, index: int) -> None:
    look = _look(metric, index)
    ratios, values = [each.ratio for each in points], [each.mean for each in points]
    random = metric == RANDOM
    style = {"linestyle": (0, (4, 2))} if random else {}
    axes.plot(ratios, values, label=metric, markersize=4.5, linewidth=1.5, zorder=3, **style, **look)
    if len(points) > _ONE_POINT:
        # A point of one seed has no band.
        errors = np.array([np.nan if each.standard_error is None else each.standard_error for each in points])
        axes.fill_between(
            ratios, values - errors, values + errors, color=look["color"], alpha=0.28 if random else 0.13, linewidth=0
        )


def _level(axes: Any, value: float, error: float | None, label: str, dashes: Any) -> None:
    axes.axhline(value, color=INK, linewidth=1.1, linestyle=dashes, label=label, zorder=2)
    if error is not None:
        axes.axhspan(value - error, value + error, color=INK, alpha=0.08, linewidth=0)


def _finish(figure: Any, first: Any, note: str) -> None:
    for axes in figure.axes:
        axes.grid(color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = first.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=4, frameon=False, title=note, title_fontsize="small"
    )


def _save(figure: Any, file: Path) -> None:
    for kind in ("png", "svg"):
        write_atomically(
            location(f"{file}.{kind}"), lambda temporary, kind=kind: figure.savefig(temporary, dpi=150, format=kind)
        )
