"""The page of a report, and what it holds in numbers for machines."""

from collections.abc import Iterator
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from curate import __version__
from curate.report.html import figures
from curate.report.html.duplicates import LEAST_COSINE
from curate.report.html.galleries import Place
from curate.report.html.gather import LABELS, MEMBERS, REASONS, Report
from curate.report.html.provenance import provenance
from curate.report.html.scores import TOKENS
from curate.report.pages import environment

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

CHANGED = "The data no longer hold this sample as it was scored."
LIKELIHOOD, LENGTH = "loglik", "length"
CONTROLS = (LIKELIHOOD, LENGTH)  # in a section of their own; length is the number of text tokens
NAMES = {"n_text_tokens": "text tokens", "n_image_tokens": "image tokens"}


def render(report: Report, pages: "Environment") -> str:
    """The whole page.

    Args:
        pages: of `templates`.
    """
    scores, metrics = report.scores, report.record.metrics
    others = [name for name in metrics if name not in (report.by, *CONTROLS)]
    controls = [name for name in (*TOKENS, LIKELIHOOD) if name in scores.spreads and not scores.spreads[name].constant]
    return pages.get_template("page/report.html").render(
        report=report,
        record=report.record,
        scores=scores,
        title=PurePath(str(report.request.run)).name or str(report.request.run),
        version=__version__,
        provenance=list(provenance(report.record)),
        columns=[*metrics, *TOKENS],
        names={name: NAMES.get(name, name) for name in (*metrics, *TOKENS)},
        histograms=list(_histograms(report)),
        against_metrics=list(_against(report, others)),
        against_length=list(_against(report, [name for name in controls if name != report.by])),
        weights=_weights(report),
        live=_live(report),
        box=lambda values: _box(report, values),
        place=lambda row: _place(report, row),
        sweep_figures=list(_sweep(report)),
        comparison_figures=[list(_compared(report, number)) for number in range(len(report.compared))],
        n_labels=LABELS,
        n_reasons=REASONS,
        members=MEMBERS,
        least_cosine=LEAST_COSINE,
    )


def templates() -> "Environment":
    """The page's templates.

    Raises:
        ConfigurationError: a library is not installed.
    """
    pages = environment("html")
    pages.filters |= {"count": "{:,}".format, "score": _score, "percent": _percent, "signed": "{:+.2f}".format}
    return pages


def summary(report: Report, path: str, size: int) -> dict[str, Any]:
    """What the page holds, for machines."""
    copies = report.duplicates
    groups = {"copies": copies.copies, "same_image": copies.same_image, "near": copies.near}
    return {
        "report": path,
        "bytes": size,
        "run": str(report.request.run),
        "status": report.record.status,
        "by": report.by,
        "scored": report.scores.rows,
        "sampled": report.scores.drawn,
        "quarantined": report.record.counts.quarantined,
        "kept": report.keep,
        "cut": report.cut,
        "galleries": {each.name: [card.rank for card in each.cards] for each in report.galleries},
        "shown": len(report.contents),
        "unavailable": report.unavailable,
        "duplicates": {
            name: None if found is None else {"groups": found.groups, "rows": found.rows}
            for name, found in groups.items()
        },
        "weights": report.features.live is not None,
        "calibration": report.calibration and str(report.calibration.folder),
        "sweep": report.sweep and str(report.sweep.folder),
        "compared": [
            {
                "run": str(each.run),
                "shared": each.comparison.shared,
                "spearman": each.comparison.spearman,
                "overlap": {str(at.ratio): at.share for at in each.comparison.overlaps},
            }
            for each in report.compared
        ],
    }


def _score(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%" if 0 < share < 0.1 else f"{100 * share:.0f}%"


def _histograms(report: Report) -> Iterator["Markup"]:
    scores = report.scores
    for number, metric in enumerate(report.record.metrics):
        title = f"Distribution of {metric}: all rows, and those that are kept"
        draw = partial(figures.histogram, scores.columns[metric], metric, scores.kept, "rows")
        yield figures.drawn(f"histogram-{number}", title, draw)


def _against(report: Report, names: list[str]) -> Iterator[tuple["Markup", str]]:
    """The metric that decides against other columns, each with what their correlation is."""
    scores = report.scores
    points = figures.drawn_points(scores.drawn)
    for name in names if scores.drawn else ():
        rho = report.correlations[report.by, name]
        said = "no rank correlation: one is the same in all rows" if rho is None else f"rank correlation {rho:+.2f}"
        shown = NAMES.get(name, name)
        x, y = scores.columns[name][points], scores.columns[report.by][points]
        draw = partial(figures.scatter, x, y, (shown, report.by), scores.kept[points])
        number = list(scores.columns).index(name)
        yield figures.drawn(f"scatter-{number}", f"{report.by} over {shown}", draw), said


def _weights(report: Report) -> "Markup | None":
    live = report.features.live
    if live is None or not bool((live.weight != 0).any()):
        return None
    weight = live.weight[live.weight != 0].numpy()
    title = f"Distribution of the weights of {len(weight):,} features"
    return figures.drawn("weights", title, lambda: figures.histogram(weight, "feature weight", what="features"))


def _live(report: Report) -> list[tuple[str, int, str]]:
    """How many features fire on what: a name, a number, and what it means."""
    live = report.features.live
    if live is None:
        return []
    return [
        ("cross-modal", len(live.cross_modal), "active on at least one text and one image token"),
        ("text only", len(live.text_only), "active on text tokens alone"),
        ("image only", len(live.image_only), "active on image tokens alone"),
        ("inactive", live.inactive, "active on none of these tokens"),
    ]


def _box(report: Report, values: tuple[float, ...]) -> list[float]:
    """Where scores lie between the lowest and the highest of all, from 0 to 100."""
    spread = report.scores.spreads[report.by]
    width = spread.highest - spread.lowest
    return [round(100 * (value - spread.lowest) / width, 2) if width > 0 else 50.0 for value in values]


def _place(report: Report, source_row: int) -> Place:
    content = report.contents.get(source_row)
    return Place(content, None if content is not None else report.unavailable or CHANGED)


def _sweep(report: Report) -> Iterator["Markup"]:
    if report.sweep is None:
        return
    from curate.experiments.sweep_plot import figure7, figure8, has_weights

    record = report.sweep.record
    if record.means:
        yield figures.drawn("sweep-7", "Relative score over the share of the data", lambda: figure7(record))
    if has_weights(record):
        yield figures.drawn("sweep-8", "Relative score over mean feature weight", lambda: figure8(record))


def _compared(report: Report, number: int) -> Iterator["Markup"]:
    found = report.compared[number].comparison
    if found.shared < 2:
        return
    ratios = [float(each.ratio) for each in found.overlaps]
    shares, chance = [each.share for each in found.overlaps], [each.chance for each in found.overlaps]
    title = "Share of the kept samples that both runs keep, over the share that is kept"
    yield figures.drawn(f"overlap-{number}", title, partial(figures.overlaps, ratios, shares, chance))
    points = figures.drawn_points(found.shared)
    title = "Each sample's place in the other run over its place in this one"
    labels = ("place in this run", "place in the other")
    draw = partial(figures.scatter, points + 1.0, found.second[points] + 1.0, labels)
    yield figures.drawn(f"places-{number}", title, draw)
