"""`curate patches`."""

from typing import Annotated, Any, Literal

import typer

from curate.cli.arguments import MODEL, AllowModelMismatch, DryRun, PrintJob, only_described, parts, validated
from curate.cli.study import SAE, Classes, Device, Dtype, HookLayer, Images, Model, Sample, Seed, Split, images_spec

MASKS, ANSWERS = "Masks", "Answers"


def patches(
    output: Annotated[str, typer.Option("--output", "-o", help="Folder of all that is made.", show_default=False)],
    images: Images = "demo-shapes",
    split: Split = "train",
    classes: Classes = None,
    sample: Sample = None,
    seed: Seed = 0,
    model: Model = None,
    sae: SAE = None,
    hook_layer: HookLayer = None,
    allow_model_mismatch: AllowModelMismatch = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Tokens per forward pass; by default 8,192 on a GPU and 3,072 on a CPU.", rich_help_panel=MODEL
        ),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="What patches are ranked by, joined by commas.", rich_help_panel=MASKS)
    ] = "l0,l1,cooccurrence,cosine,random",
    ratios: Annotated[
        str, typer.Option(help="Shares of the patches that are kept, joined by commas.", rich_help_panel=MASKS)
    ] = "0.75,0.5,0.25",
    fill: Annotated[
        Literal["mean", "black"],
        typer.Option(
            help="Colour of masked patches: mean is the model's own, for which its input is 0.", rich_help_panel=MASKS
        ),
    ] = "mean",
    delta: Annotated[
        str, typer.Option(metavar="NUMBER|auto", help="Activation bound, as in `curate score`.", rich_help_panel=MASKS)
    ] = "auto",
    weights: Annotated[
        str | None,
        typer.Option(
            help="Feature weights of a run, for cosine; by default computed from the images with their questions.",
            rich_help_panel=MASKS,
        ),
    ] = None,
    question: Annotated[
        str | None,
        typer.Option(help="What the model is asked; by default as the images' set has it.", rich_help_panel=ANSWERS),
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(
            help="How a class is answered, such as 'It is a {class}.'; by default as the images' set has it.",
            rich_help_panel=ANSWERS,
        ),
    ] = None,
    score: Annotated[
        Literal["mean", "sum"],
        typer.Option(help="Over an answer's tokens, of their log-probabilities.", rich_help_panel=ANSWERS),
    ] = "mean",
    gallery: Annotated[int, typer.Option(help="Images in gallery.png.")] = 6,
    gallery_ratio: Annotated[
        float | None, typer.Option(help="The ratio that it shows; by default 0.5, or else the lowest.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a study of patches that is there.")] = False,
    print_job: PrintJob = False,
    dry_run: DryRun = False,
    json: Annotated[bool, typer.Option("--json", help="Print patches.json.")] = False,
) -> None:
    """Which patches of an image matter?

    Keeps the patches that each method ranks highest, masks the others, and asks the model again what it sees: accuracy
    by method and ratio, against patches drawn at random and against whole images. Cut off, it goes on by the same
    command.
    """
    from curate.interpret.patches.job import PatchesJob

    content = {
        "output": output,
        "images": images_spec(images, split, classes, sample, seed),
        "model": {"name": model, "dtype": dtype, "device": device},
        "sae": sae,
        "hook_layer": hook_layer,
        "allow_model_mismatch": allow_model_mismatch,
        "batch_size": batch_size,
        "methods": parts(methods),
        "ratios": parts(ratios),
        "fill": fill,
        "delta": delta,
        "weights": weights,
        "question": question,
        "answer": answer,
        "score": score,
        "seed": seed,
        "gallery": gallery,
        "gallery_ratio": gallery_ratio,
    }
    job = validated(PatchesJob, content)
    if not only_described(job, print_job, dry_run, json, overwrite):
        run_job(job, json, overwrite)


def run_job(job: Any, json: bool = False, overwrite: bool = False) -> None:
    """Mask patches as the job says, and print what is left."""
    from pathlib import Path

    from curate.cli.console import OUT, print_notes, printable
    from curate.cli.progress import progress
    from curate.interpret.patches.plan import plan
    from curate.interpret.patches.study import study_patches
    from curate.pipeline.progress import Progress
    from curate.report.patches import draw_gallery, draw_patches

    the_plan = plan(job)
    folder = Path(the_plan.job.output)
    with progress() as report:
        record = study_patches(the_plan, lambda stage, done, total: report(Progress(stage, done, total)), overwrite)
    draw_patches(folder, record)
    draw_gallery(folder, the_plan)
    notes, used = list(record.notes), record.weights
    if used is not None and used.features_without_weight:
        without = f"{used.features_without_weight:,} of {used.features:,}"
        notes.append(f"{without} features have no weight and add nothing to cosine")
    print_notes(notes, record.left_out, "patches.json")
    if json:
        print(record.model_dump_json(indent=2))
        return
    _print_table(record)
    OUT.print("pictures:", printable(f"{job.output}/patches.png, {job.output}/gallery.png"), soft_wrap=True)


def _print_table(record: Any) -> None:
    from rich.table import Table

    from curate.cli.console import OUT, printable

    whole = record.found[0]
    OUT.print(f"{record.images:,} whole images: accuracy {_shares(whole.accuracy, '.0f')}")
    title = "with the patches that are kept; below, the difference from random"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    ratios = list(dict.fromkeys(each.ratio for each in record.found[1:]))
    table.add_column("%, with 95% intervals", no_wrap=True)
    for ratio in ratios:
        table.add_column(f"{100 * ratio:g}% kept", no_wrap=True)
    found = {(each.method, each.ratio): each for each in record.found}
    for name in dict.fromkeys(each.method for each in record.found[1:]):
        table.add_row(printable(name), *(_cell(found[name, ratio]) for ratio in ratios))
    OUT.print(table)


def _cell(found: Any) -> str:
    versus = found.versus_random
    return _shares(found.accuracy, ".0f") + ("" if versus is None else f"\n{_shares(versus.difference, '+.0f')}")


def _shares(found: Any, form: str) -> str:
    value, low, high = (format(100 * each, form) for each in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})"
