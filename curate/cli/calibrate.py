"""`curate calibrate`."""

from typing import Annotated, Any, Literal

import typer

from curate.cli.arguments import (
    MODEL,
    AllowModelMismatch,
    AllowPoorFit,
    DryRun,
    PrintJob,
    only_described,
    validated,
    without_configured_for_demo,
)

DATA, METRICS, RESOURCES = "Data", "Metrics", "Resources"


def calibrate(
    ctx: typer.Context,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder of all that is made.", show_default=False)],
    samples: Annotated[
        int, typer.Option(help="Samples to draw; each is copied once for every damage.", rich_help_panel=DATA)
    ] = 500,
    damages: Annotated[
        str | None,
        typer.Option(
            help="Kinds, joined by commas; by default all: swapped image, blank image, noise image, exchanged "
            "responses, chosen of another, shuffled words, truncated.",
            rich_help_panel=DATA,
            show_default=False,
        ),
    ] = None,
    dataset: Annotated[
        str, typer.Option(help="A name that `curate datasets` lists, or a table's path or URL.", rich_help_panel=DATA)
    ] = "demo",
    data_dir: Annotated[
        str | None, typer.Option(help="Copy of a named data set: a folder or URL.", rich_help_panel=DATA)
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="For a table whose columns have other names: question=…,image=…,chosen=…,rejected=…",
            rich_help_panel=DATA,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="A split, several joined by +, or all.", rich_help_panel=DATA)] = "train",
    limit: Annotated[int | None, typer.Option(help="Draw from the first N rows only.", rich_help_panel=DATA)] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize images to N × N first.", rich_help_panel=DATA)] = None,
    seed: Annotated[int, typer.Option(help="Of the draw, and of the damages.", rich_help_panel=DATA)] = 0,
    model: Annotated[
        str | None,
        typer.Option(
            help="As of curate score, and as configured for it; by default demo for the demo data.",
            envvar=["CURATE_CALIBRATE_MODEL", "CURATE_SCORE_MODEL"],
            rich_help_panel=MODEL,
        ),
    ] = None,
    sae: Annotated[
        str | None,
        typer.Option(
            help="SAE trained on that model, if not as configured for curate score.",
            envvar=["CURATE_CALIBRATE_SAE", "CURATE_SCORE_SAE"],
            rich_help_panel=MODEL,
        ),
    ] = None,
    hook_layer: Annotated[
        int | None, typer.Option(help="Layer that the SAE reads, where its file does not say.", rich_help_panel=MODEL)
    ] = None,
    allow_model_mismatch: AllowModelMismatch = False,
    allow_poor_fit: AllowPoorFit = False,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Of the model.", rich_help_panel=MODEL)
    ] = "auto",
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU if there is one.", rich_help_panel=MODEL)
    ] = "auto",
    metric: Annotated[
        str | None,
        typer.Option(help="Metrics to judge; by default all that `curate metrics` lists.", rich_help_panel=METRICS),
    ] = None,
    text: Annotated[
        Literal["prompt+chosen", "prompt", "prompt+rejected"],
        typer.Option(help="Tokens that SAE metrics score.", rich_help_panel=METRICS),
    ] = "prompt+chosen",
    delta: Annotated[
        str,
        typer.Option(metavar="NUMBER|auto", help="Activation bound, as of `curate score`.", rich_help_panel=METRICS),
    ] = "auto",
    weights: Annotated[
        str | None,
        typer.Option(help="Feature weights of a run; by default computed from the originals.", rich_help_panel=METRICS),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Tokens per forward pass; by default 8,192 on a GPU and 3,072 on a CPU.", rich_help_panel=RESOURCES
        ),
    ] = None,
    actors: Annotated[int, typer.Option(help="Scoring actors, each with a model.", rich_help_panel=RESOURCES)] = 1,
    address: Annotated[str | None, typer.Option(help="Running Ray cluster.", rich_help_panel=RESOURCES)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a calibration that is there.")] = False,
    print_job: PrintJob = False,
    dry_run: DryRun = False,
    json: Annotated[bool, typer.Option("--json", help="Print calibration.json.")] = False,
) -> None:
    """How well does each metric tell good from bad on your data, with your model and SAE?

    Draws samples, makes copies that are damaged in known ways, scores both, and says which damages each metric finds,
    misses or prefers, before any training is paid for. Cut off, it goes on by the same command.
    """
    from curate.cli.score import job_arguments
    from curate.experiments.calibrate_job import CalibrateJob

    own = ("output", "samples", "damages", "seed", "overwrite", "print_job", "dry_run", "json")
    options = without_configured_for_demo(ctx, ctx.params)
    given = {name: value for name, value in options.items() if name not in own and value is not None}
    content: dict[str, Any] = {"output": output, "samples": samples, "seed": seed, "score": job_arguments(given)}
    if damages is not None:
        content["damages"] = [damage.strip() for damage in damages.split(",")]
    job = validated(CalibrateJob, content)
    if not only_described(job, print_job, dry_run, json, overwrite):
        run_job(job, json, overwrite)


def run_job(job: Any, json: bool = False, overwrite: bool = False) -> None:
    """Calibrate as the job says, and say what was found."""
    from pathlib import Path

    from curate.cli.console import OUT, printable
    from curate.cli.progress import progress
    from curate.experiments.calibrate import calibrate as run_calibration
    from curate.experiments.calibrate import plan as make_plan
    from curate.experiments.calibrate_job import PLOT
    from curate.experiments.calibration import draw

    plan = make_plan(job)
    with progress() as report:
        record = run_calibration(plan, report, overwrite)
    draw(Path(job.output) / PLOT, record.found)
    if json:
        print(record.model_dump_json(indent=2))
        return
    _print_table(record)
    for sentence in record.sentences:
        OUT.print("-", printable(sentence), soft_wrap=True)
    left_out = {damage: count for damage, count in record.not_applicable.items() if count}
    if left_out:
        counts = ", ".join(f"{count:,} {damage}" for damage, count in left_out.items())
        OUT.print("samples that cannot be damaged so:", counts)
    if record.unreadable or record.quarantined:
        OUT.print(f"left out: {record.unreadable:,} unreadable rows, {record.quarantined:,} that could not be scored")
    OUT.print("picture:", printable(f"{job.output}/{PLOT}"), soft_wrap=True)


def _print_table(record: Any) -> None:
    from rich.table import Table

    from curate.cli.console import OUT, printable

    title = f"AUROC ± standard error of {record.samples:,} originals over their damaged copies; of equal length below"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0))
    damages = list(dict.fromkeys(each.damage for each in record.found))
    table.add_column("metric", no_wrap=True)
    for damage in damages:
        table.add_column(damage, justify="right", max_width=10)
    found = {(each.metric, each.damage): each for each in record.found}
    for metric in dict.fromkeys(each.metric for each in record.found):
        cells = [_cell(found.get((metric, damage))) for damage in damages]
        table.add_row(printable(metric, 14), *cells)
    OUT.print(table)


def _cell(found: Any) -> str:
    if found is None:
        return "-"

    def shown(value: float, error: float) -> str:
        return f"{value:.2f}±{error:.2f}".replace("±0.", "±.")

    cell = shown(found.auroc, found.standard_error)
    if found.matched_auroc is not None:
        return f"{cell}\n{shown(found.matched_auroc, found.matched_standard_error)}"
    return f"{cell}\ntoo few" if found.length_differs else cell
