"""`curate evaluate summarize`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer


def summarize(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="REVIEWS...", help="Review files: ours, or published ones.", show_default=False),
    ],
    published: Annotated[
        bool,
        typer.Option(
            "--published",
            help="As LLaVA's summarize_gpt_review.py: means of the recorded scores, failures as −1; for each category "
            "relative score, reference × 10 and candidate × 10.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Sum up review files: relative scores with 95% intervals, failures counted and left out.

    Scores are read from the judges' replies anew.
    """
    from curate.cli.console import OUT, print_json, printable
    from curate.evaluation.benches.folder import read_rows
    from curate.evaluation.reviews import Review, scored
    from curate.evaluation.summary import published as as_published
    from curate.evaluation.summary import summarize as summed_up

    reviews = {str(file): read_rows(file, Review) for file in files}
    found: dict[str, Any]
    if published:
        found = {name: as_published(rows) for name, rows in reviews.items()}
    else:
        found = {name: summed_up(*scored(row.reread() for row in rows)) for name, rows in reviews.items()}
    if json and published:
        print_json({name: {key: line.model_dump() for key, line in lines.items()} for name, lines in found.items()})
    elif json:
        print_json({name: {**_judged(reviews[name]), **summary.model_dump()} for name, summary in found.items()})
    elif published:
        for name, lines in found.items():
            OUT.print(printable(name))
            for key, line in lines.items():
                OUT.print(printable(f"{key} {line.relative} {line.reference} {line.candidate}"))
    else:
        for name, summary in found.items():
            judged = _judged(reviews[name])
            by = ", ".join(judged["judges"]) or "a judge that the file does not name"
            print_summary(f"{name}, judged by {by}, {', '.join(judged['orders'])}", summary)


def _judged(reviews: Sequence[Any]) -> dict[str, list[str]]:
    """By whom, and in which orders: files with several are summed up, and say so."""
    return {
        "judges": sorted({review.review_model for review in reviews if review.review_model}),
        "orders": sorted({review.order for review in reviews}),
    }


def print_summary(title: str, summary: Any) -> None:
    """A table of the scores: by category, pooled and macro mean."""
    from rich.table import Table

    from curate.cli.console import OUT, printable

    OUT.print(printable(title), style="bold", soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in ("n", "reference", "candidate", "relative", "95%"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, figures in [*summary.categories.items(), ("pooled", summary.pooled)]:
        means = f"{figures.n:,}", f"{figures.reference:.2f}", f"{figures.candidate:.2f}"
        table.add_row(printable(name), *means, f"{figures.relative:.1f}", _interval(figures))
    table.add_row("macro mean", "", "", "", f"{summary.macro.relative:.1f}", _interval(summary.macro))
    OUT.print(table)
    OUT.print(f"{summary.failures:,} of {summary.n + summary.failures:,} failed to be judged, and are left out")


def _interval(figures: Any) -> str:
    return "-" if figures.low is None else f"{figures.low:.1f} to {figures.high:.1f}"
