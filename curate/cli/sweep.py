"""`curate sweep`."""

from typing import Annotated, Any, Literal

import typer

from curate.cli.arguments import (
    DEMO,
    MODEL,
    AllowModelMismatch,
    AllowPoorFit,
    DryRun,
    PrintJob,
    only_described,
    typed,
    validated,
    without_configured_for_demo,
)
from curate.errors import ConfigurationError, RunStopped

DATA, GRID, TRAINING, EVALUATION, RESOURCES = "Data", "Grid", "Training", "Evaluation", "Resources"
_OF_DATA = ("dataset", "data_dir", "split", "limit", "sae", "allow_model_mismatch", "allow_poor_fit")
_OF_TRAINING = ("lr", "epochs", "max_steps", "batch_size", "gradient_accumulation_steps", "lora_r")
_OF_SWEEP = ("run", "seeds", "workers", "model_score", "model_score_samples", "parallel", "address", "keep_models")


def sweep(
    ctx: typer.Context,
    output: Annotated[str, typer.Option(help="Folder for all that is made.")] = "runs/sweep",
    run: Annotated[
        str | None, typer.Option(help="A finished run to select from, in place of scoring.", rich_help_panel=DATA)
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="A name that `curate datasets` lists, or a table's path or URL.", rich_help_panel=DATA),
    ] = None,
    data_dir: Annotated[str | None, typer.Option(help="Copy of a named data set.", rich_help_panel=DATA)] = None,
    split: Annotated[
        str | None, typer.Option(help="A split, several joined by +, or all.", rich_help_panel=DATA)
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N rows.", rich_help_panel=DATA)] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Hub id or folder of the model that scores and is tuned, if not as configured for curate score.",
            envvar=["CURATE_SWEEP_MODEL", "CURATE_SCORE_MODEL"],
            rich_help_panel=MODEL,
        ),
    ] = None,
    sae: Annotated[
        str | None,
        typer.Option(
            help="SAE trained on that model, if not as configured for curate score.",
            envvar=["CURATE_SWEEP_SAE", "CURATE_SCORE_SAE"],
            rich_help_panel=MODEL,
        ),
    ] = None,
    allow_model_mismatch: AllowModelMismatch = False,
    allow_poor_fit: AllowPoorFit = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU if there is one.", rich_help_panel=MODEL)
    ] = "auto",
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metric", help="Metrics joined by commas; cosine,cooccurrence,l0,ifd,random.", rich_help_panel=GRID
        ),
    ] = None,
    ratios: Annotated[
        str | None,
        typer.Option(
            help="Shares of the data joined by commas; 0.1 to 0.9. All of it is always among them.",
            rich_help_panel=GRID,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Trainings on each selection.", rich_help_panel=GRID)] = 3,
    methods: Annotated[
        str, typer.Option("--method", help="sft, dpo, or both joined by a comma.", rich_help_panel=GRID)
    ] = "sft,dpo",
    preset: Annotated[
        Literal["paper", "demo"] | None,
        typer.Option(
            help="Defaults of training: the paper's Table 4, or the demo's, which nothing named means.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate, at its highest.", rich_help_panel=TRAINING)] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the samples.", rich_help_panel=TRAINING)] = None,
    max_steps: Annotated[
        int | None, typer.Option(help="Optimizer steps, instead of epochs.", rich_help_panel=TRAINING)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples per forward pass of one worker.", rich_help_panel=TRAINING)
    ] = None,
    gradient_accumulation_steps: Annotated[
        int | None, typer.Option(help="Forward passes per optimizer step.", rich_help_panel=TRAINING)
    ] = None,
    lora_r: Annotated[
        int | None, typer.Option(help="Rank of LoRA; without, all is trained.", rich_help_panel=TRAINING)
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes of each training.", rich_help_panel=RESOURCES)] = 1,
    bench: Annotated[
        str | None,
        typer.Option(help="As curate evaluate takes it; by default demo.", rich_help_panel=EVALUATION),
    ] = None,
    questions: Annotated[
        int | None, typer.Option(help="Only the bench's first N questions.", rich_help_panel=EVALUATION)
    ] = None,
    judge_url: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible endpoint.", rich_help_panel=EVALUATION)
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="As it names it.", rich_help_panel=EVALUATION)] = None,
    model_score: Annotated[
        bool,
        typer.Option(
            "--model-score", help="Mean feature weight of every tuned model, too: Figure 8.", rich_help_panel=EVALUATION
        ),
    ] = False,
    model_score_samples: Annotated[
        int, typer.Option(help="Samples that it is computed from.", rich_help_panel=EVALUATION)
    ] = 200,
    parallel: Annotated[
        int | None,
        typer.Option(
            help="Trainings or evaluations at a time; by default one for each GPU, else CPU.", rich_help_panel=RESOURCES
        ),
    ] = None,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster.", rich_help_panel=RESOURCES)] = None,
    keep_models: Annotated[
        bool,
        typer.Option("--keep-models", help="Do not remove tuned models once evaluated.", rich_help_panel=RESOURCES),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew in a folder with a sweep.")] = False,
    print_job: PrintJob = False,
    dry_run: DryRun = False,
    json: Annotated[bool, typer.Option("--json", help="Print sweep.json.")] = False,
) -> None:
    """Train on the best part of the data by each metric, evaluate every model, and draw the paper's Figure 7.

    Everything else of scoring, training and evaluation can be said in a job file; --print-job writes one. A sweep that
    is cut off goes on by the same command; metrics, ratios, seeds and methods can be added to one that is there.
    """
    from curate.experiments.sweep_job import PRESETS, SweepJob

    given = ctx.params
    if run is None:
        given = without_configured_for_demo(ctx, given)
    elif named_too := [name for name in _OF_DATA if typed(ctx, name)]:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in named_too)
        raise ConfigurationError(f"--run: its data are scored already; leave out {options}")
    dataset, model, sae = (given[name] for name in ("dataset", "model", "sae"))
    on_demo = run is None and dataset in (None, DEMO) and model == DEMO
    defaults = PRESETS["demo"] if on_demo else {}
    training = PRESETS["demo"]["training"] if preset == "demo" or (preset is None and on_demo) else {}

    def named(**options: Any) -> dict[str, Any]:
        return {name: value for name, value in options.items() if value is not None}

    content: dict[str, Any] = {"output": output, **named(**{name: given[name] for name in _OF_SWEEP})}
    spec = named(name=model, device=device)
    if run is None:
        rows = {**defaults.get("score", {}).get("dataset", {}), **named(data_dir=data_dir, split=split, limit=limit)}
        content["score"] = {"dataset": {**named(name=dataset), **rows}, "model": spec, **named(sae=sae)}
        content["score"] |= {"allow_model_mismatch": allow_model_mismatch, "allow_poor_fit": allow_poor_fit}
    content["training"] = {**training, **named(**{name: given[name] for name in _OF_TRAINING})}
    evaluation = {**defaults.get("evaluation", {}), **named(bench=bench, limit=questions)}
    if run is not None and not typed(ctx, "model"):
        if typed(ctx, "device"):
            raise ConfigurationError("--device goes with --model: name the model, too")
    elif model is not None:
        evaluation["model"] = spec
    content["evaluation"] = {**evaluation, "judge": named(url=judge_url, model=judge_model)}
    content["methods"] = [name.strip() for name in methods.split(",")]
    content |= {
        name: [part.strip() for part in text.split(",")]
        for name, text in (("metrics", metrics), ("ratios", ratios))
        if text
    }
    job = validated(SweepJob, content)
    if not only_described(job, print_job, dry_run, json, overwrite):
        run_job(job, json, overwrite)


def run_job(job: Any, json: bool = False, overwrite: bool = False) -> None:
    """Run the sweep, with a bar, and print its table and what it says."""
    from curate.cli.console import OUT, print_json, printable
    from curate.cli.progress import progress
    from curate.experiments.sweep import sweep as run_sweep
    from curate.experiments.sweep_plan import plan as make_plan

    plan = make_plan(job)
    with progress() as report:
        record = run_sweep(plan, report, overwrite)
    if json:
        print_json(record.model_dump(mode="json"))
    else:
        for method in job.methods:
            _print_table(record, method)
        if record.published:
            _print_published(record.published)
        for sentence in record.findings:
            OUT.print("-", printable(sentence), soft_wrap=True)
        for what in ("sweep.json", "sweep.csv", "figure7.png", *(["figure8.png"] if job.model_score else [])):
            OUT.print(f"{what.partition('.')[0]}:", printable(f"{job.output}/{what}"), soft_wrap=True)
    if record.missing:
        first = record.base_error or next(cell.error for cell in record.cells if cell.error)
        raise RunStopped(
            f"{record.missing:,} of {len(record.cells) + 1:,} cells are missing, the first: {first}; the same command "
            "tries them again, and repeats nothing else"
        )


def _print_table(record: Any, method: str) -> None:
    from rich.table import Table

    from curate.cli.console import OUT, printable

    of = [each for each in record.means if each.method == method]
    metrics = list(dict.fromkeys(each.metric for each in of))
    found = {(each.metric, each.ratio): each for each in of}
    base = f"; base model {record.base.relative:.1f}" if record.base else ""
    title = f"{method}: relative score (%) ± standard error over seeds{base}"
    OUT.print(printable(title), style="bold", soft_wrap=True)
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("ratio", no_wrap=True)
    for metric in metrics:
        table.add_column(metric, justify="right")
    for ratio in sorted({each.ratio for each in of}):
        cells = [found.get((metric, ratio)) for metric in metrics]
        table.add_row(f"{ratio:g}", *("-" if cell is None else _shown(cell) for cell in cells))
    OUT.print(table)


def _shown(mean: Any) -> str:
    error = "" if mean.standard_error is None else f"±{mean.standard_error:.1f}"
    return f"{mean.mean:.1f}{error}"


def _print_published(comparisons: Any) -> None:
    """The paper's figures and this sweep's, each also over the score of all data."""
    from rich.table import Table

    from curate.cli.console import OUT, printable

    first = comparisons[0]
    OUT.print(printable(f"published: {first.source}, on {first.bench}"), style="bold", soft_wrap=True)
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("method", "metric"):
        table.add_column(name, no_wrap=True)
    for name in ("ratio", "published", "of all data", "here", "of all data"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in comparisons:
        here = "-" if each.here is None else f"{each.here:.2f}"
        share = "-" if each.here_percent_of_all_data is None else f"{each.here_percent_of_all_data:.0f}%"
        published = (f"{each.ratio:g}", f"{each.score:.2f}", f"{each.percent_of_all_data:g}%")
        table.add_row(each.method, each.metric, *published, here, share)
    OUT.print(table)
