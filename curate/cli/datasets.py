"""`curate datasets`."""

from typing import Annotated

import typer


def datasets(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the data sets that `--dataset` knows by name."""
    from curate.cli.console import print_json
    from curate.datasets import DEMO, LAYOUTS

    known = [{"name": DEMO, "summary": "drawn scenes with planted defects, made on the fly", "splits": ["train"]}]
    known += [{"name": n, "summary": layout.summary, "splits": list(layout.patterns)} for n, layout in LAYOUTS.items()]
    if json:
        print_json(known)
        return
    for entry in known:
        typer.echo(f"{entry['name']:<16}{entry['summary']} ({', '.join(entry['splits'])})")
    typer.echo("Any other parquet, arrow or jsonl file or folder: --dataset PATH [--columns question=…,image=…,…]")
