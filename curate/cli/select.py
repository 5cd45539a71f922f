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
    overrides: Annotated[
        Any,
        typer.Option(
            parser=folder,
            metavar="FILE",
            help="Decisions made in curate view, RUN/annotations.jsonl: they come after the rule.",
        ),
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

    rule = {"by": by, "seed": seed, "ratio": ratio, "top": top, "min_score": min_score}
    files = {"overrides": overrides, "output": output}
    given = {name: str(path) for name, path in files.items() if path is not None}
    job = validated(SelectJob, {"run": str(run), **rule, **given})
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
    kept = f"{selection.selected:,} of {selection.scored:,} samples kept by {selection.rule}{_decided(selection)}"
    OUT.print(printable(kept), soft_wrap=True)
    OUT.print("selection:", printable(str(folder / "selection.parquet")), soft_wrap=True)


def _decided(selection: Any) -> str:
    """What people's decisions have to do with it."""
    if not selection.overrides and not selection.overrides_elsewhere:
        return ""
    decisions = [each.decision for each in selection.overrides]
    by = ", ".join(sorted({each.by for each in selection.overrides}))
    said = f", then by {by}: keep {decisions.count('keep'):,}, drop {decisions.count('drop'):,}" if decisions else ""
    others = selection.overrides_elsewhere
    return said + (f"; {others:,} decisions are about samples that the run has not scored" if others else "")
