"""`curate quarantine`."""

from typing import Annotated

import typer

from curate.cli.arguments import RunFolder


def quarantine(
    run: RunFolder,
    error: Annotated[str | None, typer.Option(help="Only rows with this error.")] = None,
    examples: Annotated[int, typer.Option(min=0, help="Rows to show for each error.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print all rows as JSON.")] = False,
) -> None:
    """Show what a run could not score, and why. Works on unfinished runs too.

    Mend the rows, then `curate retry RUN` scores them and no others.
    """
    from collections import Counter

    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from curate.cli.console import OUT, print_json, printable
    from curate.errors import DataError
    from curate.manifest.quarantine import quarantined_rows

    rows = quarantined_rows(run)
    counts = Counter(row["error"] for row in rows)
    if error is not None:
        if error not in counts:
            raise DataError(f"{run} has no row with error {error}; it has: {', '.join(counts) or 'none at all'}")
        rows = [row for row in rows if row["error"] == error]
    if json:
        print_json(rows)
        return
    if not rows:
        OUT.print("nothing is quarantined")
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("error", no_wrap=True)
    table.add_column("stage", no_wrap=True)
    table.add_column("source row", justify="right", no_wrap=True)
    table.add_column("reason")
    for name, count in Counter(row["error"] for row in rows).most_common():
        same = [row for row in rows if row["error"] == name]
        first = [f"{count:,}", name]
        if not examples:
            table.add_row(*first, same[0]["stage"])
        for row in same[:examples]:
            table.add_row(*first, row["stage"], f"{row['source_row']:,}", printable(row["reason"], 200))
            first = ["", ""]
    OUT.print(table)
    OUT.print("after a fix, score these rows alone with:", printable(f"curate retry {run}"), soft_wrap=True)
