"""What a calibration found: figures of each metric and damage, and what they say in words, favourable or not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

WELL, SOMEWHAT = 0.8, 0.6
UNKNOWN = "too few samples to tell"
CONTROLS = ("length", "loglik", "random")
FEWEST = 20  # with fewer, a standard error says too little
LAST = (
    "A metric that misses a damage will not keep such samples out: if your data may have it, do not pay for a "
    "selection by that metric."
)


class Found(BaseModel):
    """One metric against one damage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str
    damage: str
    n: int = Field(description="samples, each with its damaged copy")
    auroc: float = Field(description="probability that an original scores higher than a damaged copy, ties half")
    standard_error: float = Field(description="of it, by Obuchowski, since copies are paired with originals")
    own_share: float = Field(description="share of originals that score higher than their own copy, ties half")
    own_standard_error: float
    length_differs: bool = Field(description="whether the number of text tokens alone tells some of them")
    matched_auroc: float | None = Field(description="AUROC over comparisons of equally many text tokens")
    matched_standard_error: float | None
    matched_comparisons: int

    @property
    def verdict(self) -> str:
        """As of `_verdict`; of too few samples, that they are."""
        return _verdict(self.auroc, self.standard_error) if self.n >= FEWEST else UNKNOWN


class Calibration(BaseModel):
    """The whole of `calibration.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    job: dict[str, Any]
    hashes: dict[str, str | None] = Field(description="of the originals' table, model, SAE and feature weights")
    hook_layer: int
    samples: int = Field(description="that were damaged")
    unreadable: int = Field(description="rows that were drawn and could not be read")
    not_applicable: dict[str, int] = Field(description="samples that a damage cannot be done to")
    quarantined: int = Field(description="originals and copies that could not be scored")
    found: list[Found]
    sentences: list[str]


def _verdict(auroc: float, error: float) -> str:
    """What is beyond two standard errors: that it finds the damage, prefers it, or at best hardly does either."""
    low, high = auroc - 2 * error, auroc + 2 * error
    if high < 0.5:
        return "prefers" if auroc <= 1 - SOMEWHAT else "hardly prefers"
    if low <= 0.5:
        return "misses" if low > 1 - SOMEWHAT and high < SOMEWHAT else UNKNOWN
    return "finds well" if auroc >= WELL else "finds somewhat" if auroc >= SOMEWHAT else "hardly finds"


def sentences(found: Sequence[Found]) -> list[str]:
    """One of each metric: which damages it finds, misses and prefers; then what length explains, and what follows."""
    said = []
    for metric in dict.fromkeys(each.metric for each in found):
        own = [each for each in found if each.metric == metric]
        parts = []
        for verdict in ("finds well", "finds somewhat", "hardly finds", "misses", "hardly prefers", "prefers", UNKNOWN):
            named = [
                f"{each.damage} ({_figure(each.auroc, each.standard_error)})" for each in own if each.verdict == verdict
            ]
            if named:
                parts.append(f"{verdict}: {', '.join(named)}")
        said.append(f"{metric}{' (a control)' if metric in CONTROLS else ''} {'; '.join(parts)}.")
    said += _of_length(found)
    by_chance = (
        f"{len(found):,} verdicts by two standard errors: where there is nothing to tell, 1 in 20 says otherwise."
    )
    return [*said, by_chance, LAST]


def _of_length(found: Sequence[Found]) -> list[str]:
    said = []
    for damage in dict.fromkeys(each.damage for each in found if each.length_differs):
        own = [each for each in found if each.damage == damage and each.metric != "length"]
        if any(each.matched_auroc is None for each in own):
            said.append(f"{damage} changes the length, and too few samples of equal length are left to tell more.")
            continue
        matched = {
            f"{each.metric} ({_figure(each.matched_auroc, each.matched_standard_error)})": _verdict(
                each.matched_auroc, each.matched_standard_error
            )
            for each in own
            if each.matched_auroc is not None and each.matched_standard_error is not None
        }
        found_by = [name for name, verdict in matched.items() if "finds" in verdict]
        parts = [
            f"still found by {', '.join(found_by)}" if found_by else "found by no metric beyond two standard errors"
        ]
        if preferred := [name for name, verdict in matched.items() if "prefers" in verdict]:
            parts.append(f"preferred by {', '.join(preferred)}")
        said.append(f"{damage} changes the length; among samples of equal length it is {' and '.join(parts)}.")
    return said


def _figure(value: float | None, error: float | None) -> str:
    return f"{value:.2f} ± {error:.2f}"


def draw(file: Path, found: Sequence[Found]) -> None:
    """Draw AUROC of each metric (row) and damage (column) as a heat map around 0.5."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(each.metric for each in found))
    damages = list(dict.fromkeys(each.damage for each in found))
    at = {(each.metric, each.damage): each for each in found}
    values = [[at[m, d].auroc if (m, d) in at else float("nan") for d in damages] for m in metrics]
    figure = Figure(figsize=(2.2 + 1.15 * len(damages), 1.5 + 0.5 * len(metrics)), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    # Orange and purple, which the colour-blind can tell apart; white is where a metric cannot tell.
    picture = axes.imshow(values, cmap="PuOr_r", vmin=0, vmax=1, aspect="auto")
    for row, metric in enumerate(metrics):
        for column, damage in enumerate(damages):
            if (metric, damage) not in at:
                continue
            each = at[metric, damage]
            mark = "*" if each.length_differs else ""
            ink = "white" if abs(each.auroc - 0.5) > 0.3 else "black"
            axes.text(column, row, f"{each.auroc:.2f}{mark}", ha="center", va="center", color=ink, fontsize=10)
    names = [f"{metric} (control)" if metric in CONTROLS else metric for metric in metrics]
    axes.set_yticks(range(len(metrics)), names)
    axes.set_xticks(range(len(damages)), [damage.replace(" ", "\n") for damage in damages])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(picture, ax=axes, label="AUROC", ticks=[0, 0.25, 0.5, 0.75, 1])
    axes.set_title("originals over damaged copies: 1 finds, 0.5 cannot tell, 0 prefers the damage", fontsize=10)
    if any(each.length_differs for each in found):
        axes.set_xlabel("* the number of text tokens alone tells some of them", fontsize=9)
    figure.savefig(file, dpi=150)
