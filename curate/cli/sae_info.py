"""`curate sae info`."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer


def info(
    sae: Annotated[
        str,
        typer.Argument(metavar="SAE", help="A sae_lens folder, RELEASE:SAE_ID, or demo.", show_default=False),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show everything known about a dictionary: what it reads, its form, its scale, and how it was trained."""
    from rich.table import Table

    from curate import demo
    from curate.cli.console import OUT, print_json, printable
    from curate.sae.dictionary import inspect_dictionary
    from curate.sae.info import describe

    facts = {"sae": sae, **describe(inspect_dictionary(demo.resolve(sae, demo.SAE)))}
    if json:
        print_json(facts)
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, text in _rows(facts):
        table.add_row(name, printable(text, 1000))
    OUT.print(table)
    for note in facts["notes"]:
        OUT.print("[yellow]note:[/yellow]", printable(note), soft_wrap=True)


def _rows(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    unknown = "the file does not say"
    yield "SAE", facts["sae"]
    if facts["path"] != facts["sae"]:
        yield "folder", facts["path"]
    yield "on disk", f"{facts['bytes']:,} bytes, {facts['dtype']}, sha256 {facts['sha256']}"
    trained = facts["trained_as"]
    yield "architecture", facts["architecture"] + (f", as sae_lens saves a trained {trained}" if trained else "")
    yield "features", f"{facts['d_sae']:,} = {facts['expansion']:g} × {facts['d_model']:,}"
    if facts["k"] is not None:
        yield "k", f"{facts['k']:,} active features per token"
    if facts["thresholds"] is not None:
        yield "thresholds", _range(facts["thresholds"])
    yield "decoder norms", _range(facts["decoder_norms"])
    layer, hook = facts["hook_layer"], facts["hook_name"]
    yield "hook layer", unknown if layer is None else f"{layer}" + (f" ({hook})" if hook else "")
    digest = facts["model_hash"]
    yield "model", (facts["model_name"] or unknown) + (f", hash {digest}" if digest else "")
    where = {None: "no scale", "no": "a scale that is not folded and unknown: curate sae fold estimates it"}
    scale = where.get(facts["folded"], f"scale {facts['activation_scale']}, folded {facts['folded']}")
    yield "normalisation", f"{facts['normalize_activations']}; {scale}"
    if facts["l0"] is not None:
        yield "L0 in training", str(facts["l0"])
    if facts["dead_features"] is not None:
        yield "dead features", str(facts["dead_features"])
    yield "sae_lens", str(facts["sae_lens_version"] or unknown)
    if facts["training"]:
        yield "training", ", ".join(f"{name} {value}" for name, value in facts["training"].items())


def _range(values: list[float]) -> str:
    smallest, median, largest = (f"{value:.4g}" for value in values)
    return f"{smallest} to {largest}, median {median}"
