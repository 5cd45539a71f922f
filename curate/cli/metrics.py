"""`curate metrics`."""

from typing import Annotated

import typer


def metrics(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the metrics that samples can be scored by."""
    from curate.cli.console import print_json
    from curate.metrics import METRICS

    if json:
        print_json(
            [{"name": metric.name, "summary": metric.summary, "needs": metric.needs} for metric in METRICS.values()]
        )
        return
    for metric in METRICS.values():
        typer.echo(f"{metric.name:<16}{metric.summary}")
