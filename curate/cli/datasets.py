"""`curate datasets`."""

from typing import Annotated

import typer


def datasets(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the data sets that `--dataset` knows by name, and what each is for: to score, or to train SAEs."""
    from curate.cli.console import print_json
    from curate.datasets import DEMO, DOCUMENTS, LAYOUTS

    drawn = "drawn scenes with planted defects, made on the fly"
    known = [{"name": DEMO, "summary": drawn, "splits": ["train"], "for": ["score", "train"]}]
    for layouts, uses in ((LAYOUTS, ["score", "train"]), (DOCUMENTS, ["train"])):
        known += [
            {"name": name, "summary": layout.summary, "splits": list(layout.patterns), "for": uses}
            for name, layout in layouts.items()
        ]
    if json:
        print_json(known)
        return
    for entry in known:
        splits, uses = ", ".join(entry["splits"]), ", ".join(entry["for"])
        typer.echo(f"{entry['name']:<16}{entry['summary']} (splits: {splits}; for: {uses})")
    typer.echo("Any other parquet, arrow or jsonl file or folder: --dataset PATH [--columns question=…,image=…,…]")
    typer.echo("To train, also tables of documents (images and texts, image and text, or text) and .txt files")
