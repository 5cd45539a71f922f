"""What classifiers tell from features, over how many images and how many features they are given."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curate.interpret.probe.job import Representation
from curate.interpret.probe.study import Figure, ProbeRecord
from curate.palette import COLOURS, GREY, INK, MARKERS
from curate.report.drawing import figure_of, plain, save

_DASHES = (0, (4, 2))


def draw_probe(file: Path, record: ProbeRecord) -> None:
    """Macro F1 over the share learned from, and over the number of features, with bands of ± one standard error.

    Of each SAE the pooling that is best at the largest share, as it is and binarised (dashed), beside the vision tower.

    Args:
        file: without suffix; a .png and an .svg are written.
    """
    canvas = figure_of(9.2, 4.6, layout="constrained")
    axes: Any = canvas.subplots(1, 2, sharey=True)
    learning, counting = axes
    for representation, look in _shown(record):
        _line(learning, record.curve(representation), [each.train_share for each in record.curve(representation)], look)
        _line(
            counting,
            record.by_count(representation),
            [each.n_features for each in record.by_count(representation)],
            look,
        )
    for each in axes:
        each.axhline(record.chance, color=GREY, linewidth=1.1, linestyle=(0, (1, 1.5)), label="chance", zorder=2)
        each.grid(color="#DDDDDD", linewidth=0.6)
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
    learning.set_ylim(0, 1.02)
    learning.set_ylabel("macro F1")
    shares = sorted({each.train_share for each in record.figures})
    learning.set_xticks(shares, [f"{share:.0%}" for share in shares])
    learning.set_xlabel("share of the images learned from")
    counting.set_xlabel("features given to the classifier")
    counting.set_xscale("log")
    counting.xaxis.set_major_formatter("{x:,.0f}")
    learning.set_title("all features", fontsize=10)
    counting.set_title(f"{shares[-1]:.0%} of the images learned from", fontsize=10)
    repeats = len(record.figures[0].macro_f1.values)
    note = f"{record.images:,} images, {len(record.classes)} classes; " + (
        f"bands: ± one standard error over {repeats} splits" if repeats > 1 else "one split: no bands"
    )
    handles, labels = learning.get_legend_handles_labels()
    canvas.legend(
        handles, labels, loc="outside lower center", ncols=4, frameon=False, title=note, title_fontsize="small"
    )
    for kind in ("png", "svg"):
        save(canvas, Path(f"{file}.{kind}"))


def _shown(record: ProbeRecord) -> Iterator[tuple[Representation, dict[str, Any]]]:
    """What is drawn, and how it looks."""
    saes = list(dict.fromkeys(each.sae for each in record.representations if each.sae is not None))
    for index, sae in enumerate(saes):
        look = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
        own = [each for each in record.representations if each.sae == sae]
        for binarised, style in ((False, "-"), (True, _DASHES)):
            of = [each for each in own if (each.threshold is not None) == binarised]
            if of:
                best = max(of, key=lambda each: record.curve(each)[-1].macro_f1.mean)
                whose = f"{plain(Path(sae).name)}, layer {best.hook_layer}: " if len(saes) > 1 else ""
                yield best, {**look, "linestyle": style, "label": f"{whose}{best.label}"}
    yield Representation(), {"color": INK, "marker": "x", "linestyle": "-", "label": Representation().label}


def _line(axes: Any, figures: Sequence[Figure], places: Sequence[float], look: dict[str, Any]) -> None:
    means = np.array([each.macro_f1.mean for each in figures])
    errors = np.array([each.macro_f1.standard_error or 0.0 for each in figures])
    axes.plot(places, means, markersize=4.5, linewidth=1.5, zorder=3, **look)
    axes.fill_between(places, means - errors, means + errors, color=look["color"], alpha=0.15, linewidth=0)
