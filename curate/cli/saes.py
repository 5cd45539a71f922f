"""`curate saes`."""

from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from curate.sae.known import KnownSAE


def saes(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Only SAEs that fit this model: a hub id, or its last part.", show_default=False
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the published SAEs that are known by name, and the models that they fit."""
    from curate.cli.console import OUT, print_json, printable
    from curate.sae.known import known_saes

    found = [sae for sae in known_saes() if model is None or sae.fits(model)]
    if json:
        print_json([sae.model_dump(mode="json") for sae in found])
    elif found:
        _print_table(found)
    else:
        train = f"curate sae train --model {model} --hook-layer N --dataset DATA --output DIR"
        text = f"no known SAE fits {model}; train one with: {train}"
        OUT.print(printable(text), soft_wrap=True)


def _print_table(found: "list[KnownSAE]") -> None:
    """One table for each list of models, all with the same columns."""
    from rich.table import Table

    from curate.cli.console import OUT

    longest = max(len(sae.name) for sae in found) + 1
    layers, trained_on, licence, size = (13, 10, 12, 7) if longest + 65 <= OUT.width else (7, 7, 7, 6)
    columns = {"layers": layers, "features": 8, "kind": 9, "trained on": trained_on, "licence": licence, "size": size}
    for index, (models, group) in enumerate(groupby(found, key=lambda sae: sae.models)):
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=index == 0)
        table.add_column("name", width=longest)
        for name, width in columns.items():
            justify = "right" if name in ("features", "size") else "left"
            table.add_column(name, width=width, justify=justify, overflow="fold")
        for sae in group:
            table.add_row(
                sae.name + ("*" if sae.pickled else ""),
                sae.layer_text,
                f"{sae.d_sae:,}",
                sae.architecture,
                sae.trained_on or "-",
                sae.licence or "-",
                sae.size_text or "-",
            )
        OUT.print(table)
        OUT.print(f"  for {', '.join(models)}\n", style="dim")
    OUT.print("Name one with --sae NAME, or with --sae NAME:LAYER where it has several layers.")
    for sae in found:
        for model in sae.default_for:
            OUT.print(f"Default for {model}: {sae.name}")
    if any(sae.pickled for sae in found):
        OUT.print("* A pickle; convert it once: curate sae import NAME:LAYER --output DIR")
    OUT.print("A size is that of one layer; - stands for what is not published or not confirmed.")
