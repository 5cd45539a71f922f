"""`curate select`."""

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import typer

from curate.cli.arguments import RunFolder, folder


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise typer.BadParameter(f"{text!r} is not a number") from error


def select(
    run: RunFolder,
    ratio: Annotated[
        Decimal | None, typer.Option(parser=_decimal, metavar="FRACTION", help="Keep the best fraction of the rows.")
    ] = None,
    top: Annotated[int | None, typer.Option(help="Keep the best N rows.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Keep rows that score at least X.")] = None,
    by: Annotated[
        str | None, typer.Option(help="Any metric that the run computed; by default the one it is ranked by.")
    ] = None,
    output: Annotated[
        Any,
        typer.Option(
            "--output", "-o", parser=folder, metavar="FOLDER", help="Folder to write; by default one inside the run."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print selection.json.")] = False,
) -> None:
    """Keep the best part of a run, by any metric it computed. Needs no model.

    Give exactly one of --ratio, --top and --min-score.
    """
    from pydantic import ValidationError

    from curate.cli.console import ERR, OUT, printable
    from curate.cli.score import option_error
    from curate.manifest.record import read_record
    from curate.manifest.select import Rule
    from curate.manifest.select import select as write_selection

    try:
        rule = Rule(by=by or read_record(run).metrics[0], ratio=ratio, top=top, min_score=min_score)
    except ValidationError as error:
        raise option_error(error) from error
    folder, selection = write_selection(run, rule, output)
    if json:
        print(selection.model_dump_json(indent=2))
        return
    if selection.run_status != "complete":
        ERR.print(f"[yellow]note:[/yellow] the run is {selection.run_status}: this is the best of a part of the data")
    OUT.print(f"{selection.selected:,} of {selection.scored:,} samples kept by {rule}")
    OUT.print("selection:", printable(str(folder / "selection.parquet")), soft_wrap=True)
