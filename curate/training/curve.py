"""The curve of a training, read and drawn."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Line = dict[str, float]
# Okabe and Ito's colours, which colour-blind people can tell apart.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#999999"
_PANELS = (("loss", "loss"), ("rewards/margins", "reward margin"), ("rewards/accuracies", "reward accuracy"))


def read_curve(file: Path) -> list[Line]:
    """The lines of `curve.jsonl`: a step's figures, or those of a validation, whose names begin with `eval_`."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def draw(curve: Sequence[Line], file: Path) -> None:
    """Draw losses of training and validation over steps, and for DPO reward margins and accuracies."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(name, title) for name, title in _PANELS if any(name in line for line in curve)]
    figure = Figure(figsize=(4.5 * len(panels), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (name, title) in enumerate(panels, start=1):
        axes: Any = figure.add_subplot(1, len(panels), index)
        for key, label, style in (
            (name, "training", {"color": BLUE, "linewidth": 1.2}),
            (f"eval_{name}", "validation", {"color": VERMILION, "marker": "o", "markersize": 4, "linewidth": 1.6}),
        ):
            points = [(line["step"], line[key]) for line in curve if key in line]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, **style)
        if name == "rewards/margins":
            axes.axhline(0, color=GREY, linewidth=0.8)
        if name == "rewards/accuracies":
            axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("step")
        axes.set_title(title)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
