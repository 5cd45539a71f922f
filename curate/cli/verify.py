"""`curate verify`."""

from typing import Annotated

import typer

from curate.cli.arguments import RunFolder


def verify(
    run: RunFolder,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that a run folder is whole: checksums, schema, counts, ranks, values. Exit code 1 if it is not."""
    from dataclasses import asdict

    from curate.cli.console import OUT, print_json, printable
    from curate.manifest.verify import verify_run

    checks = verify_run(run)
    if json:
        print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            OUT.print(
                "[green]ok  [/green]" if check.ok else "[red]FAIL[/red]", printable(f"{check.name}: {check.detail}")
            )
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
