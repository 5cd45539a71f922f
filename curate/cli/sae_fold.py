"""`curate sae fold`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from curate.cli.arguments import pairs, validated


def fold(
    sae: Annotated[
        str, typer.Argument(metavar="SAE", help="A sae_lens folder, or RELEASE:SAE_ID.", show_default=False)
    ],
    on: Annotated[
        str, typer.Option(help="Hub id or folder of the model that it is to be used with.", show_default=False)
    ],
    output: Annotated[Path, typer.Option(help="Folder for the folded copy; must be new or empty.", show_default=False)],
    dataset: Annotated[
        str, typer.Option(help="A name that `curate datasets` lists, or the path or URL of tables or texts.")
    ] = "demo",
    data_dir: Annotated[str | None, typer.Option(help="Copy of a named data set: a folder or URL.")] = None,
    columns: Annotated[
        str | None, typer.Option(help="For a table whose columns have other names: text=…,image=…")
    ] = None,
    split: Annotated[str, typer.Option(help="A split, several joined by +, or all.")] = "train",
    files: Annotated[int | None, typer.Option(help="Of documents on the hub, the first N files; by default 1.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize images to N × N first.")] = None,
    limit: Annotated[int, typer.Option(help="The first N rows.", min=1)] = 200,
    hook_layer: Annotated[int | None, typer.Option(help="Block that it reads, where its file does not say.")] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Of the model; auto is bfloat16 on a GPU, else float32."),
    ] = "auto",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU if there is one.")] = "auto",
    batch_size: Annotated[int, typer.Option(help="Tokens per forward pass of the model.", min=1)] = 8192,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Estimate an old SAE's missing activation scale on a model, and write a copy with it folded in.

    The scale is √d_model over the mean norm of the model's hidden states at the hook layer, first positions and BOS
    left out. It is that of the training only as far as model and data are.
    """
    from curate.cli.console import ERR, OUT, print_json, printable
    from curate.harvest.evaluate_job import SAEEvaluateJob, plan
    from curate.harvest.fold import check_foldable, hidden_states
    from curate.harvest.fold import fold as write

    data: dict[str, Any] = {"name": dataset, "data_dir": data_dir, "columns": pairs("columns", columns)}
    content: dict[str, Any] = {
        "saes": (sae,),
        "models": ({"name": on, "dtype": dtype, "device": device},),
        "dataset": {**data, "split": split, "files": files, "image_size": image_size, "limit": limit},
        "hook_layer": hook_layer,
        "batch_size": batch_size,
        "loss": False,
    }
    job = validated(SAEEvaluateJob, content)
    # To be judged and to be folded, a dictionary must fit its model in the same way.
    the_plan = plan(job)
    ((info,), ((harvest, _),)) = the_plan.saes.values(), the_plan.passes
    check_foldable(info, output)
    ERR.print(
        printable(
            f"{sae}: normalize_activations is {info.config['normalize_activations']} and its scale is in no file; "
            f"estimating it on {len(the_plan.corpus):,} rows of {the_plan.corpus.name}"
        ),
        soft_wrap=True,
    )
    source = {
        "model": harvest.model.name,
        "model_hash": harvest.model.sha256,
        "hook_layer": harvest.hook_layer,
        "dataset": the_plan.corpus.name,
        "dataset_sha256": the_plan.dataset_sha256,
        "rows": len(the_plan.corpus),
    }
    scale = write(info, hidden_states(harvest), output, source)
    if json:
        print_json({"sae": sae, "output": output, "activation_scale": scale, "estimated_from": source})
        return
    OUT.print(printable(f"activation scale, as estimated on {harvest.model.name}: {scale:.6g}"), soft_wrap=True)
    OUT.print("folded copy:", printable(str(output)), soft_wrap=True)
