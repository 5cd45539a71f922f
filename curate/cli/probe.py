"""`curate probe`."""

from typing import Annotated, Any, Literal

import typer

from curate.cli.arguments import AllowModelMismatch, DryRun, PrintJob, only_described, parts, validated
from curate.cli.study import Classes, Device, Dtype, HookLayer, Images, Model, SAEs, Sample, Seed, Split, images_spec

FEATURES, CLASSIFIERS, OUTPUT = "Features", "Classifiers", "Output"


def probe(
    output: Annotated[str, typer.Option("--output", "-o", help="Folder of all that is made.", show_default=False)],
    images: Images = "demo-shapes",
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
    poolings: Annotated[
        str,
        typer.Option(
            help="Of activations over tokens, joined by commas: sum, max, or top-K, which sums each token's K "
            "strongest.",
            rich_help_panel=FEATURES,
        ),
    ] = "sum,max,top-1,top-5",
    tokens: Annotated[Literal["image", "all"], typer.Option(help="Those pooled.", rich_help_panel=FEATURES)] = "image",
    binarise: Annotated[
        str,
        typer.Option(
            help="Thresholds, joined by commas, above which a pooled feature is 1, else 0; features are taken as they "
            "are, too. none takes them only so.",
            rich_help_panel=FEATURES,
        ),
    ] = "0",
    train_shares: Annotated[
        str, typer.Option(help="Shares of the images to learn from; the rest judge.", rich_help_panel=CLASSIFIERS)
    ] = "0.1,0.2,0.3,0.4,0.5",
    feature_counts: Annotated[
        str,
        typer.Option(
            help="With the largest share, also with so many features alone, those of the highest ANOVA F.",
            rich_help_panel=CLASSIFIERS,
        ),
    ] = "1,5,10,50,100,500",
    repeats: Annotated[int, typer.Option(help="Random splits at each share.", rich_help_panel=CLASSIFIERS)] = 3,
    workers: Annotated[
        int, typer.Option(help="Processes that fit classifiers, with one thread each.", rich_help_panel=CLASSIFIERS)
    ] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a probe that is there.", rich_help_panel=OUTPUT)
    ] = False,
    print_job: PrintJob = False,
    dry_run: DryRun = False,
    json: Annotated[bool, typer.Option("--json", help="Print probe.json.", rich_help_panel=OUTPUT)] = False,
) -> None:
    """Do pooled features tell classes of images, and do they better than the vision tower's own?

    Reads labelled images once, pools each SAE's features over their tokens, fits linear classifiers on a part of the
    images and judges them on the rest by macro F1. Cut off, it goes on by the same command.
    """
    from curate.interpret.probe.job import ProbeJob

    content: dict[str, Any] = {
        "output": output,
        "images": images_spec(images, split, classes, sample, seed),
        "model": {"name": model, "dtype": dtype, "device": device},
        "hook_layer": hook_layer,
        "allow_model_mismatch": allow_model_mismatch,
        "saes": sae,
        "poolings": parts(poolings),
        "tokens": tokens,
        "binarise": () if binarise == "none" else parts(binarise),
        "train_shares": parts(train_shares),
        "feature_counts": parts(feature_counts),
        "repeats": repeats,
        "seed": seed,
        "workers": workers,
    }
    job = validated(ProbeJob, content)
    if not only_described(job, print_job, dry_run, json, overwrite):
        run_job(job, json, overwrite)


def run_job(job: Any, json: bool = False, overwrite: bool = False) -> None:
    """Probe as the job says, with a bar, and print what classifiers can tell."""
    from pathlib import Path

    from curate.cli.console import OUT, print_notes, printable
    from curate.cli.progress import progress
    from curate.interpret.probe.plan import plan
    from curate.interpret.probe.study import PICTURE
    from curate.interpret.probe.study import probe as run_probe
    from curate.pipeline.progress import Progress
    from curate.report.probe import draw_probe

    the_plan = plan(job)
    with progress() as report:
        record = run_probe(
            the_plan,
            lambda done, total: report(Progress("images", done, total)),
            lambda done, total: report(Progress("classifiers", done, total)),
            overwrite,
        )
    draw_probe(Path(job.output) / PICTURE, record)
    print_notes(record.notes, record.left_out, "probe.json")
    if json:
        print(record.model_dump_json(indent=2))
        return
    _print_table(record)
    if failed := sum(figure.not_converged for figure in record.figures):
        OUT.print(f"{failed:,} classifiers did not converge; a job file may give a higher max_iter")
    OUT.print("picture:", printable(f"{job.output}/{PICTURE}.png"), soft_wrap=True)


def _print_table(record: Any) -> None:
    """Macro F1 by representation and share; the best of each share is bold, the baseline last."""
    from rich.table import Table

    from curate.cli.console import OUT, printable

    title = "macro F1, by the share of images learned from"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    of = record.representations
    several = len({each.sae for each in of if each.sae is not None}) > 1
    if several:
        table.add_column("SAE", overflow="fold", min_width=8)
        table.add_column("layer", justify="right")
    table.add_column("features", no_wrap=True)
    curves = [record.curve(each) for each in of]
    for figure in curves[0]:
        table.add_column(f"{figure.train_share:g}", justify="right", no_wrap=True)
    best = [max(figure.macro_f1.mean for figure in column) for column in zip(*curves, strict=True)]
    for each, curve in zip(of, curves, strict=True):
        named = [printable(each.sae or ""), "" if each.hook_layer is None else str(each.hook_layer)] if several else []
        cells = [
            f"[bold]{figure.macro_f1.mean:.3f}[/bold]" if figure.macro_f1.mean == top else f"{figure.macro_f1.mean:.3f}"
            for figure, top in zip(curve, best, strict=True)
        ]
        table.add_row(*named, each.label, *cells)
    OUT.print(table)
    OUT.print(
        f"{record.images:,} images of {len(record.classes):,} classes: chance is {record.chance:.3f}; probe.json has "
        "standard errors, accuracy and fewer features"
    )
