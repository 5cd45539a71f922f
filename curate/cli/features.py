"""`curate features`."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from curate.cli.arguments import AllowModelMismatch, DryRun, PrintJob, folder, only_described, parts, refuse, validated
from curate.cli.study import IMAGES, Classes, Device, Dtype, HookLayer, Model, SAEs, Sample, Seed, Split, images_spec
from curate.errors import ConfigurationError

RUN_RECORD = "run-features.json"
_CARD = re.compile(rf"feature-\d+\.png|{re.escape(RUN_RECORD)}")
RUN, OUTPUT = "Run", "Output"


# Of the run's own, or of labelled images.
OF_IMAGES = (
    *("by_class", "rank", "clean", "poolings", "tokens", "split", "classes", "sample", "seed", "model", "sae"),
    *("hook_layer", "allow_model_mismatch", "dtype", "print_job", "dry_run"),
)


def features(
    ctx: typer.Context,
    run: Annotated[
        Any | None,
        typer.Argument(
            parser=folder, metavar="[RUN]", help="Run folder, or its URL; or name --images.", show_default=False
        ),
    ] = None,
    feature: Annotated[
        str | None,
        typer.Option(help="Show these, joined by commas; by default those of the largest weight.", rich_help_panel=RUN),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="What features are called: explanations as Neuronpedia exports.", rich_help_panel=RUN),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="demo-shapes, demo-colours, digits, a folder of one folder per class, or CIFAR-100's binary version.",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    by_class: Annotated[
        bool, typer.Option("--by-class", help="The features of each class, not of each image.", rich_help_panel=IMAGES)
    ] = False,
    rank: Annotated[
        Literal["mean", "difference"],
        typer.Option(
            help="A class's features by their mean over its images, or by how much that exceeds the mean elsewhere.",
            rich_help_panel=IMAGES,
        ),
    ] = "mean",
    clean: Annotated[
        float | None,
        typer.Option(
            help="Leave out features that fire on more images: a count, or up to 1 a share. By default 0.1, or twice "
            "the largest class where that is more.",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    poolings: Annotated[
        str,
        typer.Option(help="Of activations over tokens: sum, max, top-K; joined by commas.", rich_help_panel=IMAGES),
    ] = "sum",
    tokens: Annotated[Literal["image", "all"], typer.Option(help="Those pooled.", rich_help_panel=IMAGES)] = "image",
    split: Split = "train",
    classes: Classes = None,
    sample: Sample = None,
    seed: Seed = 0,
    model: Model = None,
    sae: SAEs = None,
    hook_layer: HookLayer = None,
    allow_model_mismatch: AllowModelMismatch = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    top: Annotated[int, typer.Option(help="Features to list.", min=1, rich_help_panel=OUTPUT)] = 10,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder to write; of labelled images runs/features-IMAGES by default.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what the folder holds.", rich_help_panel=OUTPUT)
    ] = False,
    print_job: PrintJob = False,
    dry_run: DryRun = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=OUTPUT)] = False,
) -> None:
    """What do features see? Those of a run, with their strongest tokens; or those of labelled images.

    `curate features RUN` lists which features fire on text, on images and on both, and shows those that weigh most;
    with --output it draws a card of each.

    `curate features --images FOLDER --by-class` lists what fires most in each class, once features that fire nearly
    everywhere are left out.
    """
    if (run is None) == (images is None):
        raise ConfigurationError("name a run, or --images")
    if run is not None:
        refuse(ctx, OF_IMAGES, "goes with --images, not with a run")
        _of_run(run, feature, labels, device, top, output, overwrite, json)
        return
    refuse(ctx, ("feature", "labels"), "goes with a run, not with --images")
    if not by_class:
        refuse(ctx, ("rank",), "goes with --by-class")
    from curate.interpret.features_job import FeaturesJob

    content: dict[str, Any] = {
        "output": output or f"runs/features-{Path(str(images)).name}",
        "images": images_spec(images, split, classes, sample, seed),
        "model": {"name": model, "dtype": dtype, "device": device},
        "hook_layer": hook_layer,
        "allow_model_mismatch": allow_model_mismatch,
        "saes": sae,
        "by_class": by_class,
        "poolings": parts(poolings),
        "tokens": tokens,
        "clean": clean,
        "rank": rank,
        "top": top,
    }
    job = validated(FeaturesJob, content)
    if not only_described(job, print_job, dry_run, json, overwrite):
        run_job(job, json, overwrite)


def _of_run(
    run: Any,
    feature: str | None,
    labels: Path | None,
    device: Any,
    top: int,
    output: str | None,
    overwrite: bool,
    json: bool,
) -> None:
    from curate.cli.console import ERR, OUT, print_json, print_notes, printable
    from curate.interpret.labels import read_labels
    from curate.interpret.lens import open_run
    from curate.interpret.run_features import example_heats, run_features

    try:
        chosen = [int(part) for part in parts(feature) or []]
    except ValueError as error:
        raise ConfigurationError(f"--feature {feature}: features are numbers, joined by commas") from error
    known = read_labels(labels) if labels is not None else {}
    place = None if output is None else Path(output)
    old = [] if place is None else _old_cards(place, overwrite)
    with ERR.status("loading"):
        lens = open_run(run, device)
    print_notes(lens.notes)
    with ERR.status("looking"):
        record, examples = run_features(lens, chosen, top, 5, known)
    if examples.unavailable:
        text = f"strongest tokens are not shown: {examples.unavailable}"
        ERR.print("[yellow]note:[/yellow]", printable(text), soft_wrap=True)
    if place is not None:
        from curate.manifest.atomic import write_text
        from curate.report.features import draw_card
        from curate.storage import location

        place.mkdir(parents=True, exist_ok=True)
        for file in old:
            file.unlink()
        with ERR.status("drawing"):
            for each in record.features:
                draw_card(place / f"feature-{each.feature}.png", each, example_heats(lens, each.feature, each.examples))
        write_text(location(str(place / RUN_RECORD)), record.model_dump_json(indent=2) + "\n")
    if json:
        print_json(record.model_dump(mode="json"))
        return
    _print_run(run, record)
    if place is not None:
        OUT.print("cards:", printable(str(place)), soft_wrap=True)


def _old_cards(folder: Path, overwrite: bool) -> list[Path]:
    """What a folder holds of another time, which is to be replaced.

    Raises:
        ConfigurationError: it is not to be, or the folder holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"--output {folder} is a file; name a folder")
    found = list(folder.iterdir()) if folder.is_dir() else []
    if foreign := sorted(file.name for file in found if not _CARD.fullmatch(file.name)):
        raise ConfigurationError(f"--output {folder} holds {foreign[0]}, which is no card's; choose another folder")
    if found and not overwrite:
        raise ConfigurationError(f"--output {folder} holds cards; choose another folder, or --overwrite")
    return found


def _print_run(run: Any, record: Any) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from curate.cli.console import OUT, printable
    from curate.interpret.examples import called

    OUT.print(
        printable(
            f"{run}: by {record.samples:,} samples, {len(record.cross_modal):,} features are active on text and "
            f"images, {len(record.text_only):,} on text alone, {len(record.image_only):,} on images alone, "
            f"{record.inactive:,} on nothing (layer {record.hook_layer}, delta {record.delta:g})"
        ),
        soft_wrap=True,
    )
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("feature", "weight", "on text", "on images"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("called")
    for each in record.features:
        weight = "none" if each.weight is None else f"{each.weight:+.4f}"
        cells = [str(each.feature), weight, f"{each.text_peak:.2f}", f"{each.image_peak:.2f}"]
        table.add_row(*cells, printable(called(each.label, each.examples), 90))
    OUT.print(table)


def run_job(job: Any, json: bool = False, overwrite: bool = False) -> None:
    """List the features of labelled images as the job says, with a bar."""
    from curate.cli.console import ERR, OUT, print_json, print_notes, printable
    from curate.cli.progress import progress
    from curate.interpret.features import features as list_features
    from curate.interpret.features import plan
    from curate.pipeline.progress import Progress
    from curate.report.class_features import draw_class_features

    the_plan = plan(job)
    with progress() as report:
        record = list_features(the_plan, lambda done, total: report(Progress("images", done, total)), overwrite)
    if job.by_class:
        with ERR.status("drawing"):
            draw_class_features(the_plan, record)
    print_notes(record.notes, record.left_out, "features.json")
    if json:
        print_json(record.model_dump(mode="json"))
        return
    for pooled in record.pooled:
        OUT.print(
            printable(
                f"{pooled.sae}, layer {pooled.hook_layer}, {pooled.pooling}: {pooled.firing:,} features fire on some "
                f"of {record.images:,} images; {len(pooled.cleaned):,} that fire on more than {record.most_images:,} "
                "are left out"
            ),
            soft_wrap=True,
        )
        for of in pooled.classes:
            said = (f"{each.feature} ({each.mean:.3g}, elsewhere {each.elsewhere:.2g})" for each in of.features)
            _print_features(of.label, said)
        for of in pooled.images[: job.top]:
            _print_features(f"{of.id} ({of.label})", (f"{each.feature} ({each.value:.3g})" for each in of.features))
        if len(pooled.images) > job.top:
            OUT.print(f"{len(pooled.images) - job.top:,} more images are in features.json")
    OUT.print("features:", printable(job.output), soft_wrap=True)


def _print_features(of: str, features: Iterable[str]) -> None:
    """The features of a class or an image on one line."""
    from curate.cli.console import OUT, printable

    line = printable(f"{of}  ")
    line.stylize("bold")
    OUT.print(line + printable(", ".join(features)), soft_wrap=True)
