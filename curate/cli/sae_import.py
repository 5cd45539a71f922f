"""`curate sae import`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from curate.cli.sae_measuring import Measuring, On, note_unused, with_measuring


@with_measuring
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder in any known format, or another name of an SAE; the .pt file of one of many in a folder.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the copy; must be new or empty.", show_default=False)],
    measuring: Measuring,
    on: On = None,
    fold_decoder_norm: Annotated[
        bool,
        typer.Option(
            "--fold-decoder-norm",
            help="Multiply each activation with the norm of its feature's decoder row, as Neuronpedia shows them.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a copy of an SAE in sae_lens's format, which every run reads.

    The copy encodes as the source does. This is the one command that reads SAEs published as pickles (`ae.pt` of
    dictionary_learning, `layerN.sae.pt` of Qwen-Scope): once, as tensors alone, in a process of its own.
    """
    from curate import demo
    from curate.cli.console import ERR, printable
    from curate.sae.copy import check_new, check_norms_foldable, with_layer, write_copy
    from curate.sae.pickled import opened

    check_new(output)
    with opened(demo.resolve(source, demo.SAE)) as info:
        size = info.weights.stat().st_size
        ERR.print(printable(f"{source}: {info.format}, {info.d_sae:,} features, {size:,} bytes"), soft_wrap=True)
        if fold_decoder_norm:
            check_norms_foldable(info)
        info = with_layer(info, measuring.hook_layer)
        note_unused(on, info)
        reading, origin = None, {"name": source, "format": info.format, "sha256": info.sha256}
        facts: dict[str, object] = {"imported_from": origin}
        if info.scale is None:
            settled = _settled(source, info, on, measuring)
            info, reading, facts = settled.info, settled.reading, {**facts, **settled.facts}
        if info.scale != 1:
            facts = {"activation_scale": info.scale, **facts}
        write_copy(info, output, facts, fold_decoder_norm)
    _print(source, output, info, reading, json)


def _settled(source: str, info: Any, on: str | None, measuring: Measuring) -> Any:
    from curate.cli.sae_measuring import measure_on
    from curate.errors import ConfigurationError
    from curate.harvest.fold import settle
    from curate.harvest.reading import measured
    from curate.sae.dictionary import SCALE_IS_OPEN

    if on is None:
        raise ConfigurationError(
            f"{source}: {SCALE_IS_OPEN}; name its model, to measure it: "
            f"curate sae import {source} --on MODEL --output DIR"
        )
    found = measure_on(source, on, measuring, {source: info})
    return settle(info, measured(info, found.harvest), found.harvest, found.source)


def _print(source: str, output: Path, info: Any, reading: Any, json: bool) -> None:
    from curate.cli.console import ERR, OUT, print_json, printable
    from curate.sae.load import inspect_dictionary

    copy = inspect_dictionary(str(output))
    if json:
        print_json(
            {
                "source": source,
                "output": output,
                "format": info.format,
                "architecture": copy.architecture,
                "d_model": copy.d_model,
                "d_sae": copy.d_sae,
                "hook_layer": copy.hook_layer,
                "model_name": copy.model_name,
                "units": copy.units,
                "activation_scale": info.scale,
                "reading": None if reading is None else reading.model_dump(mode="json"),
                "licence": info.licence,
                "sha256": copy.sha256,
                "notes": list(info.notes),
            }
        )
        return
    for note in (*info.notes, *(() if reading is None else (reading.note,))):
        ERR.print("[yellow]note:[/yellow]", printable(note), soft_wrap=True)
    OUT.print("copy:", printable(str(output)), soft_wrap=True)
