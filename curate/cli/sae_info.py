"""`curate sae info`."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from curate.cli.sae_measuring import Measuring, On, note_unused, with_measuring


@with_measuring
def info(
    sae: Annotated[
        str,
        typer.Argument(metavar="SAE", help="A folder, another name of an SAE, or demo.", show_default=False),
    ],
    measuring: Measuring,
    on: On = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show everything known about an SAE: what it reads, its form, its scale, and how it was trained."""
    from rich.table import Table

    from curate import demo
    from curate.cli.console import OUT, print_json, printable
    from curate.sae.info import describe
    from curate.sae.load import inspect_dictionary

    found = inspect_dictionary(demo.resolve(sae, demo.SAE))
    facts = {"sae": sae, **describe(found), "reading": _reading(sae, found, on, measuring)}
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


def _reading(sae: str, info: Any, on: str | None, measuring: Measuring) -> dict[str, Any] | None:
    """What measuring gave, where there is something to measure and a model to measure it on."""
    from curate.cli.sae_measuring import measure_on
    from curate.harvest.reading import measured

    note_unused(on, info)
    if on is None or info.scale is not None:
        return None
    return measured(info, measure_on(sae, on, measuring, {sae: info}).harvest).model_dump(mode="json")


def _rows(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    unknown = "the file does not say"
    yield "SAE", facts["sae"]
    if facts["path"] != facts["sae"]:
        yield "folder", facts["path"]
    form = f"{facts['format']}, {facts['bytes']:,} bytes, {facts['dtype']}, sha256 {facts['sha256']}"
    yield "on disk", form
    if facts["licence"] is not None:
        yield "licence", facts["licence"]
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
    yield "normalisation", f"{facts['normalize_activations']}; {_scale(facts)}"
    units = "normalised to norm √d" if facts["units"] == "normalised" else "raw, of the residual stream"
    yield "activations", f"{units}; active above {facts['default_delta']:g} by default"
    if facts["l0"] is not None:
        yield "L0 in training", str(facts["l0"])
    if facts["dead_features"] is not None:
        yield "dead features", str(facts["dead_features"])
    yield "sae_lens", str(facts["sae_lens_version"] or unknown)
    if facts["training"]:
        yield "training", ", ".join(f"{name} {value}" for name, value in facts["training"].items())


def _scale(facts: dict[str, Any]) -> str:
    from curate.sae.dictionary import SCALE_IS_OPEN

    reading = facts["reading"]
    if reading is not None:
        from curate.sae.reading import Reading

        found = Reading.model_validate(reading)
        how = "folded into the weights" if found.taken == "folded" else "not folded"
        return f"scale {how}, as measured: {found.figures}"
    if facts["folded"] == "open":
        return f"{SCALE_IS_OPEN}; curate sae info {facts['sae']} --on MODEL measures it"
    if facts["folded"] is None:
        return "no scale"
    if facts["activation_scale"] is None:
        return f"scale folded {facts['folded']}, as measured"
    return f"scale {facts['activation_scale']}, folded {facts['folded']}"


def _range(values: list[float]) -> str:
    smallest, median, largest = (f"{value:.4g}" for value in values)
    return f"{smallest} to {largest}, median {median}"
