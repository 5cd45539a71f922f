"""`curate report`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from curate.cli.arguments import folder
from curate.errors import ConfigurationError

PAGE, STUDIES = "Page", "What goes with the run"


def report(
    runs: Annotated[
        list[Any],
        typer.Argument(
            parser=folder,
            metavar="RUN [RUN2 …]",
            help="Run folder, or its URL; each further one is compared with the first.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page: one file.", rich_help_panel=PAGE)] = Path(
        "report.html"
    ),
    ratio: Annotated[
        str, typer.Option(help="The cut: the best fraction of samples that is kept.", rich_help_panel=PAGE)
    ] = "0.2",
    by: Annotated[
        str | None,
        typer.Option(help="Metric to go by; by default the one the run is ranked by.", rich_help_panel=PAGE),
    ] = None,
    gallery: Annotated[
        int,
        typer.Option(
            help="Samples of each gallery.",
            min=1,
            max=24,  # images of noise and long texts stay within 15 MB
            rich_help_panel=PAGE,
        ),
    ] = 8,
    labels: Annotated[
        Path | None,
        typer.Option(help="What features are called: explanations as Neuronpedia exports.", rich_help_panel=STUDIES),
    ] = None,
    calibration: Annotated[
        Any,
        typer.Option(
            parser=folder,
            metavar="FOLDER",
            help="A calibration; by default one beside the run.",
            rich_help_panel=STUDIES,
            show_default=False,
        ),
    ] = None,
    sweep: Annotated[
        Any,
        typer.Option(
            parser=folder,
            metavar="FOLDER",
            help="A sweep; by default the one that the run lies in.",
            rich_help_panel=STUDIES,
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.", rich_help_panel=PAGE)] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print what the page holds, as JSON.", rich_help_panel=PAGE)
    ] = False,
) -> None:
    """Write all that a run says into one page that opens offline: scores, metrics, features, samples, duplicates.

    `curate report RUN` writes `report.html`; `curate report RUN RUN2` also compares two runs. The page holds no
    script and loads nothing, whatever the data hold.
    """
    from pydantic import ValidationError

    from curate.cli.arguments import option_error
    from curate.cli.console import ERR, OUT, print_json, printable
    from curate.manifest.record import read_record
    from curate.manifest.rule import Rule

    if output.is_dir():
        raise ConfigurationError(f"--output {output} is a folder; name a file in it")
    if output.exists() and not overwrite:
        raise ConfigurationError(f"--output {output} is there already; --overwrite replaces it")
    if not output.absolute().parent.is_dir():
        raise ConfigurationError(f"--output {output}: there is no folder {output.parent}")
    try:
        share = Rule.model_validate({"ratio": ratio, "by": ""}).ratio
    except ValidationError as error:
        raise option_error(error) from error
    assert share is not None
    for run in runs:
        read_record(run)  # which says what is no run before all that draws is imported
    with ERR.status("loading") as status:
        from curate.manifest.atomic import write_text
        from curate.report.html.gather import Request, gather
        from curate.report.html.page import render, summary, templates
        from curate.storage import location

        pages = templates()
        first, *others = runs
        request = Request(first, tuple(others), by, share, gallery, labels, calibration, sweep)
        found = gather(request, status.update)
        status.update("drawing")
        write_text(location(str(output)), render(found, pages))
    held = summary(found, str(output), output.stat().st_size)
    if found.unavailable:
        text = f"texts and images are not shown: {found.unavailable}"
        ERR.print("[yellow]note:[/yellow]", printable(text), soft_wrap=True)
    if json:
        print_json(held)
        return
    drawn = f", figures of {held['sampled']:,} drawn by lot" if found.scores.sampled else ""
    OUT.print(f"{held['scored']:,} samples, {held['kept']:,} kept{drawn}; {held['bytes'] / 1e6:.1f} MB")
    OUT.print("report:", printable(str(output)), soft_wrap=True)
