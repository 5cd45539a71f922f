"""`curate show`."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from curate.cli.arguments import RunFolder, refuse, validated

DEFAULT_ROWS = 5
GALLERY_ROWS, GALLERY_COLUMNS = 12, 72  # at most, and at least, that are shown with images unasked
ROWS, OUTPUT = "Rows", "Output"


def show(
    ctx: typer.Context,
    run: RunFolder,
    by: Annotated[
        str | None, typer.Option(help="Any metric that the run computed; by default the one it is ranked by.")
    ] = None,
    top: Annotated[int | None, typer.Option(help="The N best samples.", rich_help_panel=ROWS)] = None,
    bottom: Annotated[int | None, typer.Option(help="The N worst samples.", rich_help_panel=ROWS)] = None,
    ratio: Annotated[
        str | None,
        typer.Option(
            metavar="FRACTION",
            help="Where curate select would cut that keeps the best fraction: in the scores, by label, and what falls "
            "on either side.",
            rich_help_panel=ROWS,
        ),
    ] = None,
    around: Annotated[
        int | None,
        typer.Option(
            min=0,
            help=f"With --ratio: the N samples just above the cut and the N just below; {DEFAULT_ROWS} if not given.",
            show_default=False,
            rich_help_panel=ROWS,
        ),
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option(
            help="All that is known of one sample: its id, the beginning of it, or its rank as '#1'.",
            rich_help_panel=ROWS,
        ),
    ] = None,
    images: Annotated[
        bool | None,
        typer.Option(
            "--images/--no-images",
            help=f"Show images, where the terminal can: unasked those of one sample, or of up to {GALLERY_ROWS}.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=OUTPUT)] = False,
) -> None:
    """Show a run's best and worst samples, what falls on either side of a cut, or everything known of one sample.

    `curate show RUN --ratio 0.2 --by l0` shows which samples are the last kept and the first left out.
    """
    from curate.manifest.order import checked_metric
    from curate.manifest.record import read_record

    if json and images:
        refuse(ctx, ("images",), "does not go with --json")
    record = read_record(run)
    metric = checked_metric(run, record, by)
    if sample is not None:
        from curate.cli.show_sample import show_sample

        refuse(ctx, ("top", "bottom", "ratio", "around"), "does not go with --sample, which shows one alone")
        show_sample(run, record, metric, sample, images, json)
        return
    from curate.cli.shown import print_headline
    from curate.manifest.listing import list_run

    if ratio is None:
        refuse(ctx, ("around",), "goes with --ratio")
    share = _checked_ratio(metric, ratio)
    listing = list_run(run, record, metric)
    keep = None if share is None else _kept(share, len(listing.scores))
    parts = _parts(len(listing.scores), top, bottom, keep, around)
    if json:
        _print_json(record, listing, share, keep, parts)
        return
    print_headline(run, record, metric)
    _print_scores(listing, share, keep)
    _print_rows(record, listing, keep, parts, images)


def _checked_ratio(metric: str, ratio: str | None) -> Any:
    from curate.manifest.rule import Rule

    return None if ratio is None else validated(Rule, {"by": metric, "ratio": ratio}).ratio


def _kept(share: Any, rows: int) -> int:
    from curate.manifest.rule import share_of

    return share_of(share, rows)


def _parts(
    rows: int, top: int | None, bottom: int | None, keep: int | None, around: int | None
) -> list[tuple[str, range]]:
    """The ranks to show, in parts without a rank in common, best first, each with its name."""
    if top is None and bottom is None and keep is None:
        top = bottom = DEFAULT_ROWS
    top, bottom = max(0, top or 0), max(0, bottom or 0)
    if keep is None and top + bottom >= rows:
        return [("all", range(1, rows + 1))]
    wanted = [("best", 1, top), ("worst", rows - bottom + 1, rows)]
    if keep is not None:
        near = DEFAULT_ROWS if around is None else around
        wanted[1:1] = [("just above the cut", keep - near + 1, keep), ("just below the cut", keep + 1, keep + near)]
    parts, shown = [], 0
    for name, first, last in wanted:
        ranks = range(max(first, shown + 1), min(last, rows) + 1)
        if ranks:
            parts.append((f"{len(ranks):,} {name}", ranks))
            shown = ranks[-1]
    return parts


def _print_json(record: Any, listing: Any, share: Any, keep: int | None, parts: Sequence[tuple[str, range]]) -> None:
    from curate.cli.console import print_json
    from curate.cli.shown import read_samples

    rows = listing.rows([rank for _, ranks in parts for rank in ranks])
    rows = read_samples(record, rows).with_texts(rows)
    if keep is None:
        print_json(rows)
        return
    cut = float(listing.scores[keep - 1]) if keep else None
    labels = [label._asdict() for label in listing.labels(keep)]
    said = {"by": listing.metric, "ratio": str(share), "kept": keep, "scored": len(listing.scores), "cut": cut}
    print_json({**said, "labels": labels, "rows": [{"kept": row["rank"] <= keep, **row} for row in rows]})


def _print_scores(listing: Any, share: Any, keep: int | None) -> None:
    """The scores, and where they are cut, what share of them is kept, and of which labels."""
    from curate.cli.console import OUT, printable
    from curate.cli.histogram import print_histogram

    if len(listing.scores):
        print_histogram(listing.metric, listing.scores, keep)
    if keep is not None:
        text = f"{keep:,} of {len(listing.scores):,} samples kept by {listing.metric} at ratio {share}"
        OUT.print(printable(text), style="bold", soft_wrap=True)
        _print_labels(listing.labels(keep))


def _print_labels(labels: Sequence[Any], most: int = 12) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from curate.cli.console import OUT, printable
    from curate.cli.histogram import KEPT

    if not labels:
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("label", no_wrap=True)
    for name in ("samples", "kept", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", style=KEPT, no_wrap=True)
    for label, kept, samples in labels[:most]:
        name = printable("(none)" if label is None else label, 40)
        table.add_row(name, f"{samples:,}", f"{kept:,}", f"{kept / samples:.0%}", "█" * round(10 * kept / samples))
    OUT.print(table)
    if len(labels) > most:
        OUT.print(f"and {len(labels) - most:,} more labels")


def _print_rows(
    record: Any, listing: Any, keep: int | None, parts: Sequence[tuple[str, range]], images: bool | None
) -> None:
    from curate.cli.console import OUT
    from curate.cli.gallery import print_gallery, print_table
    from curate.cli.pictures import THUMBNAIL, pictures
    from curate.cli.shown import print_unavailable, read_samples

    rows = {row["rank"]: row for row in listing.rows([rank for _, ranks in parts for rank in ranks])}
    room = len(rows) <= GALLERY_ROWS and OUT.width >= GALLERY_COLUMNS
    drawer = pictures(images) if images or room else None
    samples = read_samples(record, list(rows.values()), drawer, THUMBNAIL)
    for title, ranks in parts:
        part = [rows[rank] for rank in ranks]
        if part:
            (print_gallery if drawer and samples.found else print_table)(title, part, samples, keep)
    print_unavailable(samples)
