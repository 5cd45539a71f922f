"""`curate select`."""

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import typer

from curate.cli.arguments import DryRun, PrintJob, RunFolder, folder, only_described, validated


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
    seed: Annotated[
        int | None, typer.Option(help="With --by random: another draw than the run's.", show_default=False)
    ] = None,
    output: Annotated[
        Any,
        typer.Option(
            "--output", "-o", parser=folder, metavar="FOLDER", help="Folder to write; by default one inside the run."
        ),
    ] = None,
    print_job: PrintJob = False,
    dry_run: DryRun = False,
    json: Annotated[bool, typer.Option("--json", help="Print selection.json.")] = False,
) -> None:
    """Keep the best part of a run, by any metric it computed. Needs no model.

    Give exactly one of --ratio, --top and --min-score.
    """
    from curate.manifest.select import SelectJob

    written = None if output is None else str(output)
    rule = {"by": by, "seed": seed, "ratio": ratio, "top": top, "min_score": min_score}
    job = validated(SelectJob, {"run": str(run), **rule, "output": written})
    if not only_described(job, print_job, dry_run, json):
        run_job(job, json)


def run_job(job: Any, json: bool = False) -> None:
    """Select as the job says, and say what is kept."""
    from curate.cli.console import ERR, OUT, printable
    from curate.manifest.select import select as write_selection

    folder, selection = write_selection(job)
    if json:
        print(selection.model_dump_json(indent=2))
        return
    if selection.run_status != "complete":
        ERR.print(f"[yellow]note:[/yellow] the run is {selection.run_status}: this is the best of a part of the data")
    OUT.print(f"{selection.selected:,} of {selection.scored:,} samples kept by {selection.rule}")
    OUT.print("selection:", printable(str(folder / "selection.parquet")), soft_wrap=True)
