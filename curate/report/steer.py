"""The picture of a steering: what edits do to answers over their strength, beside random directions of equal norm."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from curate.interpret.steer.record import Compared, Effect, SteerRecord
from curate.palette import COLOURS, GREY, INK, MARKERS
from curate.report.drawing import figure_of, plain, save

_DASHES = (0, (4, 2))


def draw_steering(file: Path, record: SteerRecord) -> None:
    """Answers that name the concept, words that are left of the others, and the unedited answers' log-probability.

    Args:
        file: without suffix; a .png and an .svg are written.
    """
    figure = figure_of(10.2, 3.7, layout="constrained")
    naming, kept, shifts = panels = figure.subplots(1, 3)
    effects = sorted(record.effects, key=lambda effect: effect.strength)
    what = plain(" or ".join(record.concept))
    naming.axhline(record.named.value, color=INK, linewidth=1.1, linestyle=(0, (1, 1.5)), label="no edit")
    _lines(naming, effects, lambda effect: effect.naming, COLOURS[0], MARKERS[0], "feature")
    _lines(kept, effects, lambda effect: effect.kept, COLOURS[0], MARKERS[0], None)
    _lines(shifts, effects, lambda effect: effect.concept_tokens, COLOURS[0], MARKERS[0], None)
    _lines(shifts, effects, lambda effect: effect.other_tokens, COLOURS[1], MARKERS[1], "feature, other tokens")
    naming.set_title(f"answers that name {what if len(what) < 20 else 'the concept'}")
    kept.set_title("other words that are left")
    shifts.set_title("change of log-probability")
    shifts.set_ylabel("nats a token")
    for axes in (naming, kept):
        axes.set_ylim(-0.03, 1.03)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    shifts.axhline(0, color=INK, linewidth=1.1, linestyle=(0, (1, 1.5)))
    for axes in panels:
        axes.set_xlabel("strength (mean activation)")
        axes.set_xticks([effect.strength for effect in effects], [f"{effect.strength:g}" for effect in effects])
        axes.margins(x=0.08)
        axes.grid(color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    n = len(record.effects[0].naming.each)
    title = f"{record.images:,} images; bars: 95% intervals; band: the {n:,} random directions, each for itself"
    figure.legend(loc="outside lower center", ncols=5, frameon=False, title=title, title_fontsize="small")
    for kind in ("png", "svg"):
        save(figure, Path(f"{file}.{kind}"))


def _lines(
    axes: Any,
    effects: Sequence[Effect],
    of: Callable[[Effect], Compared | None],
    colour: str,
    marker: str,
    label: str | None,
) -> None:
    """One figure over strength: of the features' own directions, and of random ones."""
    known = [(effect.strength, figure) for effect in effects if (figure := of(effect)) is not None]
    if not known:
        return
    at = [strength for strength, _ in known]
    own = [figure.own for _, figure in known]
    bars = [[each.value - each.low for each in own], [each.high - each.value for each in own]]
    axes.errorbar(
        at, [each.value for each in own], bars, color=colour, marker=marker, label=label, capsize=2.5, zorder=3
    )
    ink = GREY if marker == MARKERS[0] else colour
    each = [figure.each for _, figure in known]
    name = None if label is None else label.replace("feature", "random")
    random = [figure.random.value for _, figure in known]
    axes.plot(at, random, color=ink, marker="x", linestyle=_DASHES, label=name, zorder=4)
    axes.fill_between(at, list(map(min, each)), list(map(max, each)), color=ink, alpha=0.18, linewidth=0)
