"""`curate view`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from curate.cli.arguments import RunFolder, refuse

SERVER, EXPLAIN = "Server", "Explanations"


def view(
    ctx: typer.Context,
    run: RunFolder,
    annotations: Annotated[
        Path | None,
        typer.Option(help="File of pins, notes and decisions; by default RUN/annotations.jsonl.", show_default=False),
    ] = None,
    reviewer: Annotated[
        str | None,
        typer.Option(help="Who decides: written with each decision; by default your login name.", show_default=False),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Load the run's model and SAE when an explanation is asked for.", rich_help_panel=EXPLAIN
        ),
    ] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU if there is one.", rich_help_panel=EXPLAIN)
    ] = "auto",
    labels: Annotated[
        Path | None,
        typer.Option(help="What features are called: explanations as Neuronpedia exports.", rich_help_panel=EXPLAIN),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to answer at. Other machines reach any but the default; they need the token in the "
            "address that is printed, or of CURATE_VIEW_TOKEN.",
            rich_help_panel=SERVER,
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535, rich_help_panel=SERVER)] = 8400,
    address: Annotated[
        str | None,
        typer.Option(
            help="Of the dashboard of the cluster whose jobs are shown; by default as for curate jobs.",
            rich_help_panel=SERVER,
        ),
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open it in the browser.", rich_help_panel=SERVER)
    ] = False,
) -> None:
    """Look at a run in the browser, and choose from it: move the cut, filter, keep or drop samples by hand, export.

    What is exported is what `curate select` writes; the page shows the command. Ctrl-C ends it.
    """
    from curate.cli.console import ERR, printable

    if not explain:
        refuse(ctx, ("device",), "goes with --explain")
    from curate.report.viewer.serve import ViewOptions, serve

    def ready(where: str) -> None:
        ERR.print("look at", printable(str(run)), "on", printable(where), "(Ctrl-C ends it)", soft_wrap=True)
        if open_browser:
            import webbrowser

            webbrowser.open(where)

    options = ViewOptions(host, port, reviewer, annotations, labels, explain, device, address)
    try:
        serve(run, options, ready)
    except KeyboardInterrupt:  # the way to end it
        typer.echo("", err=True)
