"""`curate sae fold`."""

from pathlib import Path
from typing import Annotated

import typer

from curate.cli.sae_measuring import MODEL, Measuring, with_measuring


@with_measuring
def fold(
    sae: Annotated[str, typer.Argument(metavar="SAE", help="A folder, or another name of an SAE.", show_default=False)],
    on: Annotated[
        str,
        typer.Option(
            help="Model to estimate the scale on (hub id or folder).", show_default=False, rich_help_panel=MODEL
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the folded copy; must be new or empty.", show_default=False)],
    measuring: Measuring,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Estimate an SAE's missing activation scale on a model, and write a copy with it folded in.

    It measures first whether the scale is missing at all, and refuses an SAE whose weights have it already.

    The scale is √d_model over the mean norm of the model's hidden states at the hook layer, first positions and BOS
    left out. It equals the scale of the training only if model and data are those of the training.
    """
    from curate.cli.console import ERR, OUT, print_json, printable
    from curate.cli.sae_measuring import measure_on
    from curate.harvest.fold import check_open, check_unfolded, settle
    from curate.harvest.reading import measured
    from curate.sae.copy import check_new, write_copy

    check_new(output)
    found = measure_on(sae, on, measuring)
    check_open(found.info)
    reading = measured(found.info, found.harvest)
    check_unfolded(found.info, reading)
    text = f"{sae}: its activation scale is not folded ({reading.figures}); estimating it on {measuring.limit:,} rows"
    ERR.print(printable(f"{text} of {found.plan.corpus.name}"), soft_wrap=True)
    settled = settle(found.info, reading, found.harvest, found.source)
    write_copy(settled.info, output, settled.facts)
    scale = settled.info.scale
    if json:
        answer = {"sae": sae, "output": output, "activation_scale": scale}
        print_json({**answer, "reading": reading.model_dump(mode="json"), "estimated_from": found.source})
        return
    text = f"activation scale, as estimated on {found.harvest.model.name}: {scale:.6g}"
    OUT.print(printable(text), soft_wrap=True)
    OUT.print("folded copy:", printable(str(output)), soft_wrap=True)
