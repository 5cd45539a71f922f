"""`curate score`."""

import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from curate.cli.arguments import (
    DEMO,
    MODEL,
    AllowModelMismatch,
    AllowPoorFit,
    DryRun,
    PrintJob,
    folder,
    only_described,
    pairs,
    typed,
    validated,
    without_configured_for_demo,
)
from curate.errors import ConfigurationError

DATA, METRICS, RUN, RESOURCES = "Data", "Metrics", "Run", "Resources"


def score(
    ctx: typer.Context,
    dataset: Annotated[
        str, typer.Option(help="A name that `curate datasets` lists, or a table's path or URL.", rich_help_panel=DATA)
    ] = DEMO,
    data_dir: Annotated[
        str | None,
        typer.Option(
            help="Copy of a named data set, in the hub's layout or by save_to_disk: a folder or URL.",
            rich_help_panel=DATA,
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="For a table whose columns have other names: question=…,image=…,chosen=…,rejected=…",
            rich_help_panel=DATA,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="A split, several joined by +, or all.", rich_help_panel=DATA)] = "train",
    limit: Annotated[int | None, typer.Option(help="Only the first N rows.", rich_help_panel=DATA)] = None,
    sample: Annotated[int | None, typer.Option(help="N rows drawn with the seed.", rich_help_panel=DATA)] = None,
    seed: Annotated[
        int, typer.Option(help="Of --sample, weight samples, the random metric, the demo data.", rich_help_panel=DATA)
    ] = 0,
    image_size: Annotated[
        int | None,
        typer.Option(help="Resize images to N × N first; the published code does at 336.", rich_help_panel=DATA),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Hub id or folder of a LLaVA-NeXT, LLaVA or Chameleon model; by default demo for the demo data, "
            "else llava-hf/llava-v1.6-mistral-7b-hf.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    sae: Annotated[
        str | None,
        typer.Option(
            help="SAE to score with: a folder, a name that `curate saes` lists, RELEASE:SAE_ID of sae_lens, or "
            "OWNER/REPO/FOLDER@REVISION on the hub. By default the one known for the model.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    hook_layer: Annotated[
        int | None,
        typer.Option(help="Layer that the SAE reads, where its file does not say.", rich_help_panel=MODEL),
    ] = None,
    allow_model_mismatch: AllowModelMismatch = False,
    allow_poor_fit: AllowPoorFit = False,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Of the model; auto is bfloat16 on a GPU, else float32.", rich_help_panel=MODEL),
    ] = "auto",
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU if there is one.", rich_help_panel=MODEL)
    ] = "auto",
    metric: Annotated[
        str,
        typer.Option(
            help="Metrics to compute, the one to rank by first; `curate metrics` lists them.", rich_help_panel=METRICS
        ),
    ] = "cosine,cooccurrence,l0,random",
    text: Annotated[
        Literal["prompt+chosen", "prompt", "prompt+rejected", "both"],
        typer.Option(
            help="Tokens scored; the published code takes the prompt alone. both scores prompt+chosen and, in columns "
            "of their own such as cosine_rejected, prompt+rejected.",
            rich_help_panel=METRICS,
        ),
    ] = "prompt+chosen",
    delta: Annotated[
        str,
        typer.Option(
            metavar="NUMBER|auto",
            help="Activation bound: a feature is active above it. auto is 1 for an SAE in normalised units, as "
            "published, and 0 for one with a threshold of its own in raw units.",
            rich_help_panel=METRICS,
        ),
    ] = "auto",
    cosine_over: Annotated[
        Literal["cooccurring", "active"],
        typer.Option(help="Features that cosine sums over: published code, or paper's text.", rich_help_panel=METRICS),
    ] = "cooccurring",
    top_k: Annotated[
        int, typer.Option(help="Tokens per modality behind each feature weight.", rich_help_panel=METRICS)
    ] = 5,
    weight_rule: Annotated[
        Literal["per-modality", "merged"],
        typer.Option(help="How those tokens are picked: paper, or published code.", rich_help_panel=METRICS),
    ] = "per-modality",
    weight_samples: Annotated[
        int, typer.Option(help="Samples that feature weights are computed from.", rich_help_panel=METRICS)
    ] = 1000,
    weights: Annotated[
        str | None,
        typer.Option(help="Reuse the feature weights of another run.", rich_help_panel=METRICS),
    ] = None,
    top_features: Annotated[
        int, typer.Option(help="Features listed with each sample in the manifest.", rich_help_panel=METRICS)
    ] = 10,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Run folder or URL; by default a new one in runs/. A run that is there is resumed.",
            rich_help_panel=RUN,
        ),
    ] = None,
    resume: Annotated[
        Any,
        typer.Option(
            parser=folder,
            metavar="RUN",
            help="Go on with a run, with the options it was begun with.",
            rich_help_panel=RUN,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing run instead.", rich_help_panel=RUN)
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Tokens per forward pass; by default 8,192 on a GPU and 3,072 on a CPU.", rich_help_panel=RUN
        ),
    ] = None,
    shard_rows: Annotated[
        int, typer.Option(help="Rows per range; batches never cross ranges.", rich_help_panel=RUN)
    ] = 512,
    sample_timeout: Annotated[
        float,
        typer.Option(help="Seconds after which a sample that hangs is given up and quarantined.", rich_help_panel=RUN),
    ] = 300,
    max_error_rate: Annotated[
        float, typer.Option(help="Stop once more than this share of all rows failed.", rich_help_panel=RUN)
    ] = 0.05,
    actors: Annotated[
        int, typer.Option(help="Scoring actors, each with a model; the most there may be.", rich_help_panel=RESOURCES)
    ] = 1,
    min_actors: Annotated[
        int | None, typer.Option(help="The fewest to go on with; by default all.", rich_help_panel=RESOURCES)
    ] = None,
    initial_actors: Annotated[
        int | None, typer.Option(help="How many to begin with; by default the fewest.", rich_help_panel=RESOURCES)
    ] = None,
    cpus_per_actor: Annotated[
        int | None,
        typer.Option(
            help="CPUs and computing threads of each; by default 1, and alone without a GPU this machine's, divided.",
            rich_help_panel=RESOURCES,
        ),
    ] = None,
    gpus_per_actor: Annotated[
        float | None,
        typer.Option(
            help="GPUs of each: 1 by default, a part of one, or several that hold the model together.",
            rich_help_panel=RESOURCES,
        ),
    ] = None,
    actor_resources: Annotated[
        str | None, typer.Option(help="Custom resources of each, as name=amount,…", rich_help_panel=RESOURCES)
    ] = None,
    prepare_workers: Annotated[
        int | None, typer.Option(help="CPU workers that decode and tokenize.", rich_help_panel=RESOURCES)
    ] = None,
    prepare_resources: Annotated[
        str | None, typer.Option(help="Custom resources of each, as name=amount,…", rich_help_panel=RESOURCES)
    ] = None,
    executor: Annotated[
        Literal["auto", "local", "ray"],
        typer.Option(
            help="local runs one actor on this machine, without Ray; ray starts Ray or takes a cluster. auto takes ray "
            "for a cluster, several actors and long runs on a GPU.",
            rich_help_panel=RESOURCES,
        ),
    ] = "auto",
    address: Annotated[
        str | None,
        typer.Option(
            help="Running Ray cluster, as HOST:6379; by default that of RAY_ADDRESS.", rich_help_panel=RESOURCES
        ),
    ] = None,
    cluster_wait: Annotated[
        float,
        typer.Option(help="Seconds to wait until the cluster has grown to what is asked.", rich_help_panel=RESOURCES),
    ] = 600,
    print_job: PrintJob = False,
    dry_run: DryRun = False,
    json: Annotated[bool, typer.Option("--json", help="Print run.json.", rich_help_panel=RUN)] = False,
) -> None:
    """Score every sample of a data set and write a ranked manifest.

    Without options it scores the demo data with the demo model and SAE, in under a minute.
    `curate score --dataset align-anything` takes the default model and the SAE published for it. A run that was cut
    off, however it was, resumes with `curate score --resume RUN`, and ends with the same bytes.
    """
    from curate.pipeline.job import ScoreJob

    options = {name: value for name, value in ctx.params.items() if name not in _NOT_OF_THE_JOB}
    if resume is not None:
        if typed(ctx, "overwrite") or typed(ctx, "output"):
            raise ConfigurationError("--resume names the run folder, and keeps it: leave out --output and --overwrite")
        arguments = stored_arguments(resume, {name: value for name, value in options.items() if typed(ctx, name)})
    else:
        arguments = job_arguments(_completed(ctx, options))
    job = validated(ScoreJob, arguments)
    overwrite = overwrite and resume is None
    if print_job and overwrite:
        raise ConfigurationError("--overwrite does not go into a job file, which is to be run again and again")
    if not only_described(job, print_job, dry_run, json, overwrite):
        run_job(job, json, overwrite)


def run_job(job: Any, json: bool = False, overwrite: bool = False) -> None:
    """Score as the job says, and say what came out."""
    started = time.monotonic()
    from curate.cli.progress import progress
    from curate.datasets import check_there
    from curate.pipeline.progress import Progress

    check_there(job.dataset)
    with progress() as report:
        report(Progress("start"))
        start_processes(job.resources)
        from curate.pipeline.score import score as run_score

        record = run_score(job, report, _announce, overwrite)
    if json:
        print(record.model_dump_json(indent=2))
    else:
        summarize(job.output, record, time.monotonic() - started)


def start_processes(resources: Any) -> None:
    """Let the processes of a local run import what they need while this one imports its own."""
    if resources.one_process:
        from curate.pipeline.child import start_server

        start_server()


_NOT_OF_THE_JOB = ("resume", "overwrite", "print_job", "dry_run", "json")
# Where an option goes in the job, if not under its own name at the top.
_PLACES: dict[str, tuple[tuple[str, str], ...]] = {
    "dataset": (("dataset", "name"),),
    **{name: (("dataset", name),) for name in ("data_dir", "columns", "split", "limit", "sample", "image_size")},
    "seed": (("dataset", "seed"), ("parameters", "seed")),
    "model": (("model", "name"),),
    **{name: (("model", name),) for name in ("dtype", "device")},
    "metric": (("parameters", "metrics"),),
    **{
        name: (("parameters", name),)
        for name in ("text", "delta", "cosine_over", "top_k", "weight_rule", "weight_samples", "hook_layer")
    },
    **{name: (("parameters", name),) for name in ("batch_size", "top_features")},
    **{
        name: (("resources", name),)
        for name in (
            "executor",
            "address",
            "actors",
            "min_actors",
            "initial_actors",
            "cpus_per_actor",
            "gpus_per_actor",
        )
    },
    **{
        name: (("resources", name),)
        for name in ("actor_resources", "prepare_workers", "prepare_resources", "cluster_wait")
    },
}


def job_arguments(options: dict[str, Any], base: dict[str, Any] | None = None) -> dict[str, Any]:
    """Options as a job's arguments, over those of another job."""
    arguments = dict(base or {})
    for name, value in options.items():
        if name == "columns":
            value = pairs(name, value)
        elif name.endswith("_resources"):
            value = pairs(name, value) or {}
        elif name == "metric":
            value = [metric.strip() for metric in value.split(",")]
        if name not in _PLACES:
            arguments[name] = value
        for part, field in _PLACES.get(name, ()):
            arguments[part] = {**arguments.get(part, {}), field: value}
    return arguments


def stored_arguments(run: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The arguments that a run was begun with, but for the options given now.

    Raises:
        ConfigurationError: there is no run.
    """
    from curate.manifest.inputs import read_inputs

    begun = read_inputs(run)
    if begun is None:
        raise ConfigurationError(f"{run} is not a run folder: there is nothing to go on with")
    return {**job_arguments(options, begun.arguments), "output": str(run)}


def _completed(ctx: typer.Context, options: dict[str, Any]) -> dict[str, Any]:
    """Options with a run folder, and with the demo's own model and SAE for the demo."""
    options = without_configured_for_demo(ctx, options)
    output = options["output"] or Path("runs") / f"{Path(options['dataset']).stem}-{datetime.now():%Y%m%d-%H%M%S}"
    return {**options, "output": output}


def _announce(plan: Any, rows: int) -> None:
    from curate.cli.console import ERR

    announce_plan(plan)
    if rows:
        left = len(plan.dataset) - rows
        ERR.print(
            f"resuming: {rows:,} rows are done already, {left:,} are left" if left else "all rows are done already"
        )


def announce_plan(plan: Any) -> None:
    """Say what is about to be scored with what, and what to know of it."""
    from curate.cli.console import ERR, printable

    sae = "its SAE" if plan.job.sae == DEMO else plan.job.sae
    ERR.print(
        printable(
            f"scoring {len(plan.dataset):,} samples of {plan.dataset.name} with {plan.job.model.name} and {sae} "
            f"(layer {plan.hook_layer}, {plan.sae.d_sae:,} features) on {plan.device}"
        ),
        soft_wrap=True,
    )
    for note in plan.notes:
        ERR.print("[yellow]note:[/yellow]", printable(note), soft_wrap=True)


def summarize(run: Any, record: Any, seconds: float) -> None:
    """Say what a run came to, in how many seconds of this command."""
    from curate.cli.console import OUT, printable

    counts = record.counts
    for warning in record.warnings:
        OUT.print("[yellow]warning:[/yellow]", printable(warning), soft_wrap=True)
    OUT.print(
        f"{counts.scored:,} scored + {counts.quarantined:,} quarantined = {counts.read:,} read, in {seconds:.0f} s"
    )
    if counts.quarantined:
        reasons = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.quarantined_by_error.items()))
        OUT.print(f"quarantined: {reasons}")
    if record.sae is not None:
        OUT.print(f"the SAE {record.sae.summary}", soft_wrap=True)
    if counts.features_without_weight:
        OUT.print(
            f"{counts.features_without_weight:,} of {counts.features:,} features have no weight and add 0 to cosine"
        )
    if counts.near_delta:
        OUT.print(f"samples whose features float noise may decide about: {counts.near_delta:,}")
    OUT.print("manifest:", printable(f"{run}/manifest.parquet"), soft_wrap=True)
