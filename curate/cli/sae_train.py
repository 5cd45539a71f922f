"""`curate sae train`."""

from typing import Annotated, Any, Literal

import typer

from curate.cli.arguments import PrintJob, only_described, pairs, validated
from curate.errors import ConfigurationError

DATA, MODEL, SAE, TRAINING, RESOURCES = "Data", "Model", "SAE", "Training", "Resources"
_OF_PARAMETERS = (
    "architecture",
    "expansion",
    "k",
    "steps",
    "train_batch_size_tokens",
    "lr",
    "lr_warm_up_steps",
    "lr_decay_steps",
    "l1_coefficient",
    "l1_warm_up_steps",
    "l0_coefficient",
    "l0_warm_up_steps",
    "adam_beta1",
    "adam_beta2",
    "dead_feature_window",
    "dead_feature_threshold",
    "feature_sampling_window",
    "autocast",
    "seed",
)
_OF_DATA = ("data_dir", "files", "split", "limit", "sample", "image_size")


def train(
    ctx: typer.Context,
    output: Annotated[str, typer.Option(help="Folder for the SAE, in sae_lens's format.", show_default=False)],
    preset: Annotated[
        Literal["demo", "llava-next-7b", "chameleon-7b"] | None,
        typer.Option(
            help="Defaults of all that follows: the paper's for a 7-billion-parameter model (30,000 steps, its Table "
            "2), or the demo's, which is what nothing named means."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Hub id or folder: LLaVA-NeXT, LLaVA, Chameleon, or a text model.", rich_help_panel=MODEL),
    ] = None,
    hook_layer: Annotated[
        int | None, typer.Option(help="Decoder block whose output is learned.", rich_help_panel=MODEL)
    ] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Of the model; auto is bfloat16 on a GPU, else float32.", rich_help_panel=MODEL),
    ] = "auto",
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU if there is one.", rich_help_panel=MODEL)
    ] = "auto",
    dataset: Annotated[
        str | None,
        typer.Option(
            help="A name that `curate datasets` lists, or the path or URL of tables or texts: interleaved (images, "
            "texts), captioned (image, text), text, or preferences.",
            rich_help_panel=DATA,
        ),
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option(help="Copy of a named data set: a folder or URL.", rich_help_panel=DATA)
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="For a table whose columns have other names: text=…,image=…", rich_help_panel=DATA),
    ] = None,
    files: Annotated[
        int | None,
        typer.Option(help="Of documents on the hub, the first N files; by default 1.", rich_help_panel=DATA),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="A split, several joined by +, or all.", rich_help_panel=DATA)
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N rows.", rich_help_panel=DATA)] = None,
    sample: Annotated[int | None, typer.Option(help="N rows drawn with --data-seed.", rich_help_panel=DATA)] = None,
    data_seed: Annotated[
        int | None, typer.Option(help="Of --sample, and of the demo data.", rich_help_panel=DATA)
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize images to N × N first.", rich_help_panel=DATA)] = None,
    image_share: Annotated[
        float | None,
        typer.Option(
            help="Share of image tokens to learn from, 0 to 1; by default as the data have it.", rich_help_panel=DATA
        ),
    ] = None,
    context_size: Annotated[
        int | None, typer.Option(help="Most tokens of an input; longer documents are cut.", rich_help_panel=DATA)
    ] = None,
    n_batches_in_buffer: Annotated[
        int | None,
        typer.Option(help="Size of the shuffling buffer, in inputs of --context-size tokens.", rich_help_panel=DATA),
    ] = None,
    architecture: Annotated[
        Literal["standard", "topk", "batchtopk", "jumprelu", "gated"] | None,
        typer.Option(help="standard (L1) is the paper's.", rich_help_panel=SAE),
    ] = None,
    expansion: Annotated[
        int | None, typer.Option(help="Features per dimension of the hidden states.", rich_help_panel=SAE)
    ] = None,
    k: Annotated[
        int | None, typer.Option(help="Active features per token, for topk and batchtopk.", rich_help_panel=SAE)
    ] = None,
    l1_coefficient: Annotated[
        float | None, typer.Option(help="Sparsity penalty of standard and gated.", rich_help_panel=SAE)
    ] = None,
    l1_warm_up_steps: Annotated[int | None, typer.Option(help="Steps in which it rises.", rich_help_panel=SAE)] = None,
    l0_coefficient: Annotated[
        float | None, typer.Option(help="Sparsity penalty of jumprelu.", rich_help_panel=SAE)
    ] = None,
    l0_warm_up_steps: Annotated[int | None, typer.Option(help="Steps in which it rises.", rich_help_panel=SAE)] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.", rich_help_panel=TRAINING)] = None,
    train_batch_size_tokens: Annotated[
        int | None, typer.Option(help="Tokens of each step.", rich_help_panel=TRAINING)
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.", rich_help_panel=TRAINING)] = None,
    lr_warm_up_steps: Annotated[
        int | None, typer.Option(help="First steps, in which it rises.", rich_help_panel=TRAINING)
    ] = None,
    lr_decay_steps: Annotated[
        int | None, typer.Option(help="Last steps, in which it falls to zero.", rich_help_panel=TRAINING)
    ] = None,
    adam_beta1: Annotated[float | None, typer.Option(rich_help_panel=TRAINING)] = None,
    adam_beta2: Annotated[float | None, typer.Option(rich_help_panel=TRAINING)] = None,
    dead_feature_window: Annotated[
        int | None, typer.Option(help="A feature is dead after N steps without firing.", rich_help_panel=TRAINING)
    ] = None,
    dead_feature_threshold: Annotated[
        float | None, typer.Option(help="Features that fire more rarely are counted.", rich_help_panel=TRAINING)
    ] = None,
    feature_sampling_window: Annotated[
        int | None, typer.Option(help="Steps that this is counted over.", rich_help_panel=TRAINING)
    ] = None,
    autocast: Annotated[
        bool | None, typer.Option("--autocast", help="bfloat16 matrix products.", rich_help_panel=TRAINING)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and mixing.", rich_help_panel=TRAINING)] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Tokens per forward pass of the model.", rich_help_panel=RESOURCES)
    ] = None,
    prepare_workers: Annotated[
        int | None, typer.Option(help="Threads that decode and tokenize.", rich_help_panel=RESOURCES)
    ] = None,
    harvesters: Annotated[
        int | None,
        typer.Option(
            help="Ray actors that run the model for this process, which then only trains; 0 runs it here.",
            rich_help_panel=RESOURCES,
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster, for harvesters.", rich_help_panel=RESOURCES)
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(help="Steps between checkpoints.", rich_help_panel=TRAINING)
    ] = None,
    log_every: Annotated[
        int | None, typer.Option(help="Steps between lines of curve.jsonl.", rich_help_panel=TRAINING)
    ] = None,
    log_to: Annotated[
        str | None, typer.Option(help="tensorboard, wandb, or both joined by a comma.", rich_help_panel=TRAINING)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew in a folder with a training.")] = False,
    print_job: PrintJob = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check data, model and settings, and do nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the training's record as JSON.")] = False,
) -> None:
    """Train a sparse autoencoder on a model's hidden states: on images and text an SAE-V, on text alone an SAE.

    A training that is cut off, however often, goes on by the same command and ends with the same weights.
    """
    from curate.harvest.job import PRESETS, SAETrainJob

    given = ctx.params
    name = preset or ("demo" if model in (None, "demo") and dataset in (None, "demo") else None)
    if name is None and model is None:
        raise ConfigurationError(f"--dataset {dataset}: name the --model to train on too, or a --preset")
    if name != "demo" and dataset is None:
        raise ConfigurationError(f"--dataset: name the data to train {model or name} on; curate datasets lists some")
    content: dict[str, Any] = {**PRESETS.get(name or "", {}), "output": output}

    def merged(part: str, chosen: dict[str, Any]) -> None:
        content[part] = {**content.get(part, {}), **{key: value for key, value in chosen.items() if value is not None}}

    content["dataset"] = PRESETS["demo"]["dataset"] if dataset in (None, "demo") else {"name": dataset}
    chosen = {option: given[option] for option in _OF_DATA}
    merged("dataset", {**chosen, "seed": data_seed, "columns": pairs("columns", columns)})
    merged("model", {"name": model, "dtype": dtype, "device": device})
    merged("parameters", {option: given[option] for option in _OF_PARAMETERS})
    options = ("hook_layer", "context_size", "n_batches_in_buffer", "image_share", "batch_size", "prepare_workers")
    options += ("harvesters", "address", "checkpoint_every", "log_every")
    content |= {option: given[option] for option in options if given[option] is not None}
    if log_to is not None:
        content["log_to"] = log_to.split(",")
    if "hook_layer" not in content:
        raise ConfigurationError("--hook-layer: say after which decoder block the SAE reads")
    job = validated(SAETrainJob, content)
    if not only_described(job, print_job, dry_run, json, overwrite):
        run_job(job, json, overwrite)


def run_job(job: Any, json: bool = False, overwrite: bool = False) -> None:
    """Run the job, with a bar, and print what came of it."""
    from curate.cli.console import OUT, print_json, printable
    from curate.cli.progress import progress
    from curate.harvest.plan import plan
    from curate.harvest.train import Step, train
    from curate.pipeline.harvest import chunks_of
    from curate.pipeline.progress import Progress

    the_plan = plan(job)
    with progress() as report, chunks_of(the_plan) as chunks_from:

        def told(at: Step) -> None:
            report(Progress("train", at.done, at.total, at.tokens))

        record = train(the_plan, told, chunks_from, overwrite)
    if json:
        print_json(record.model_dump(mode="json"))
        return
    figures = record.figures
    OUT.print(
        printable(
            f"{record.d_sae:,} features, {record.tokens:,} tokens ({record.image_share:.0%} of images), last batch: L0 "
            f"{figures['metrics/l0']:.1f}, explained variance {figures['metrics/explained_variance']:.3f}, "
            f"{figures['sparsity/dead_features']:,.0f} dead features"
        )
    )
    if record.left_out:
        OUT.print(printable(f"{record.left_out:,} rows were left out; {job.output}/quarantine.parquet says why"))
    OUT.print("SAE:", printable(str(job.output)), soft_wrap=True)
    OUT.print("try:", printable(f"curate sae evaluate {job.output} --on {job.model.name}"), soft_wrap=True)
