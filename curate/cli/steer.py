"""`curate steer`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from curate.cli.arguments import AllowModelMismatch, DryRun, PrintJob, only_described, parts, refuse, validated
from curate.cli.study import (
    IMAGES,
    SAE,
    Classes,
    Device,
    Dtype,
    HookLayer,
    Images,
    Model,
    Sample,
    Seed,
    Split,
    images_spec,
)
from curate.errors import ConfigurationError

OF_A_SET = (
    *("images", "split", "classes", "sample", "label", "seed", "concept", "random_directions", "batch_size"),
    *("print_job", "dry_run"),
)
EDIT, ANSWERS = "Edit", "Answers"


def steer(
    ctx: typer.Context,
    feature: Annotated[
        str,
        typer.Option("--feature", help="Feature to edit by; several, joined by commas, at once.", show_default=False),
    ],
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder of all that is made.", show_default=False)
    ] = None,
    mode: Annotated[
        Literal["add", "clamp", "ablate"],
        typer.Option(
            help="Add strength units to the feature's activation, clamp it to so many, or ablate it: make it 0.",
            rich_help_panel=EDIT,
        ),
    ] = "add",
    strength: Annotated[
        str | None,
        typer.Option(
            help="In units of the feature's own activation, joined by commas; below 0 it is subtracted. By default "
            "-4,-2,-1.",
            show_default=False,
            rich_help_panel=EDIT,
        ),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(
            help="The activation that strength 1 is, of each feature; by default its mean where it is active.",
            show_default=False,
            rich_help_panel=EDIT,
        ),
    ] = None,
    positions: Annotated[
        Literal["all", "image", "text"],
        typer.Option(help="Which tokens are edited; those that are said are text.", rich_help_panel=EDIT),
    ] = "all",
    random_directions: Annotated[
        int, typer.Option(help="Random directions of equal norm that are tried, too.", rich_help_panel=EDIT)
    ] = 5,
    image: Annotated[
        Path | None,
        typer.Option(
            help="One image in place of a set: answers side by side, and no figures.",
            show_default=False,
            rich_help_panel=IMAGES,
        ),
    ] = None,
    images: Images = "demo-shapes",
    split: Split = "train",
    classes: Classes = None,
    sample: Sample = None,
    label: Annotated[
        str | None, typer.Option(help="Ask only about images of this class.", rich_help_panel=IMAGES)
    ] = None,
    seed: Seed = 0,
    model: Model = None,
    sae: SAE = None,
    hook_layer: HookLayer = None,
    allow_model_mismatch: AllowModelMismatch = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    question: Annotated[
        str, typer.Option(help="What the model is asked.", rich_help_panel=ANSWERS)
    ] = "Describe the image.",
    concept: Annotated[
        str | None,
        typer.Option(
            help="Words, joined by commas: an answer that has one of them names the concept. By default the --label.",
            show_default=False,
            rich_help_panel=ANSWERS,
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Of an answer.", rich_help_panel=ANSWERS)] = 64,
    batch_size: Annotated[
        int, typer.Option(help="Images that are answered about together.", rich_help_panel=ANSWERS)
    ] = 8,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a steering that is there.")] = False,
    print_job: PrintJob = False,
    dry_run: DryRun = False,
    json: Annotated[bool, typer.Option("--json", help="Print steering.json, or image.json.")] = False,
) -> None:
    """What does a feature do to what the model says?

    Answers questions about images with hidden states pushed along the feature's decoder direction, at the layer that
    the SAE reads, and says how often the answers still name a concept, against random directions of equal norm. Cut
    off, it goes on by the same command.

    `curate steer --image cat.jpg --model MODEL --sae SAE --feature 7` shows the answers about one image side by side.
    """
    from curate.interpret.steer.job import SteerImage, SteerJob

    edit = {
        "features": parts(feature),
        "mode": mode,
        "strengths": parts(strength),
        "units": parts(unit),
        "positions": positions,
    }
    spec = {"name": model, "dtype": dtype, "device": device}
    if image is not None:
        refuse(ctx, OF_A_SET, "goes with a set of images, not with one --image")
        if model is None:
            raise ConfigurationError("--image: name the --model that is asked about it")
        content = {
            "image": image,
            "model": spec,
            "sae": sae,
            "hook_layer": hook_layer,
            "allow_model_mismatch": allow_model_mismatch,
            "edit": edit,
            "question": question,
            "max_new_tokens": max_new_tokens,
            "output": output,
        }
        _steer_image(validated(SteerImage, content), overwrite, json)
        return
    content = {
        "output": output,
        "images": images_spec(images, split, classes, sample, seed),
        "model": spec,
        "sae": sae,
        "hook_layer": hook_layer,
        "allow_model_mismatch": allow_model_mismatch,
        "edit": edit,
        "question": question,
        "label": label,
        "concept": parts(concept) or [],
        "random_directions": random_directions,
        "seed": seed,
        "max_new_tokens": max_new_tokens,
        "batch_size": batch_size,
    }
    if output is None:
        raise ConfigurationError("--output: name the folder of all that is made; --image alone needs none")
    job = validated(SteerJob, content)
    if not only_described(job, print_job, dry_run, json, overwrite):
        run_job(job, json, overwrite)


def _steer_image(asked: Any, overwrite: bool, json: bool) -> None:
    from curate.cli.console import OUT, printable
    from curate.cli.side_by_side import side_by_side
    from curate.interpret.steer.one_image import steer_image

    found = steer_image(asked, overwrite)
    if json:
        print(found.model_dump_json(indent=2))
        return
    _print_units(found.units)
    OUT.print(side_by_side([(f"strength {strength:g}", found.unedited, said) for strength, said in found.edited]))
    if asked.output is not None:
        OUT.print("answers:", printable(f"{asked.output}/image.json"), soft_wrap=True)


def run_job(job: Any, json: bool = False, overwrite: bool = False) -> None:
    """Steer as the job says, and print what it does."""
    from curate.cli.console import OUT, print_notes, printable
    from curate.cli.progress import progress
    from curate.cli.side_by_side import side_by_side
    from curate.interpret.steer.job import PLOT, RECORD
    from curate.interpret.steer.plan import plan
    from curate.interpret.steer.study import steer as run_study
    from curate.pipeline.progress import Progress
    from curate.report.steer import draw_steering

    the_plan = plan(job)
    with progress() as report:
        record = run_study(the_plan, lambda done, total: report(Progress("steer", done, total)), overwrite)
    draw_steering(Path(the_plan.job.output) / PLOT, record)
    print_notes(record.notes, record.left_out, RECORD)
    if json:
        print(record.model_dump_json(indent=2))
        return
    _print_units(record.units)
    _print_table(record)
    shown = max(record.effects, key=lambda effect: abs(effect.naming.difference.value))
    OUT.print(side_by_side([(each.image, each.before, each.after) for each in shown.examples]))
    OUT.print(f"the first images, not chosen, at strength {shown.strength:g}")
    for sentence in record.findings:
        OUT.print("-", printable(sentence), soft_wrap=True)
    OUT.print("picture:", printable(f"{job.output}/{PLOT}.png"), soft_wrap=True)


def _print_units(units: Any) -> None:
    from curate.cli.console import OUT

    for each in units:
        OUT.print(
            f"feature {each.feature}: strength 1 is an activation of {each.unit:.4g}; it is active on {each.tokens:,} "
            f"tokens of {each.images:,} prompts",
            soft_wrap=True,
        )


def _print_table(record: Any) -> None:
    from rich.table import Table

    from curate.cli.console import OUT, printable
    from curate.interpret.steer.effects import signed

    what = " or ".join(f"'{word}'" for word in record.concept)
    OUT.print(
        printable(f"{record.images:,} images; {record.named.value:.0%} of the unedited answers name {what}"),
        soft_wrap=True,
    )
    title = "with the edit; below, the mean over random directions of equal norm"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("strength", justify="right", no_wrap=True)
    for name in ("name it", "removed", "brought in", "other words left", "log p of it", "of other tokens"):
        table.add_column(name, justify="right", max_width=11)
    for effect in record.effects:
        shares = (effect.naming, effect.removed, effect.brought, effect.kept)
        cells = [_cell(each, "{:.0%}".format) for each in shares]
        cells += [_cell(each, signed) for each in (effect.concept_tokens, effect.other_tokens)]
        table.add_row(f"{effect.strength:g}", *cells)
    OUT.print(table)


def _cell(compared: Any, form: Callable[[float], str]) -> str:
    return "-" if compared is None else f"{form(compared.own.value)}\n{form(compared.random.value)}"
