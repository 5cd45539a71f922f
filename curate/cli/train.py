"""`curate train sft` and `curate train dpo`, which differ in what they make of a sample."""

from typing import Annotated, Any, Literal

import typer

from curate.cli.arguments import DryRun, PrintJob, only_described, validated
from curate.errors import ConfigurationError

MODEL, TRAINING, LORA, RESOURCES = "Model", "Training", "LoRA", "Resources"
_OF_PARAMETERS = (
    "max_length",
    "batch_size",
    "gradient_accumulation_steps",
    "lr",
    "lr_scheduler",
    "lr_warm_up_steps",
    "epochs",
    "max_steps",
    "validation_share",
    "evaluate_every",
    "checkpoint_every",
    "weight_decay",
    "beta",
    "freeze_vision_tower",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "gradient_checkpointing",
    "prepare_workers",
    "loader_workers",
    "seed",
)


def train(
    ctx: typer.Context,
    data: Annotated[
        str, typer.Option(help="Selection to learn from: the folder that curate select wrote.", show_default=False)
    ],
    output: Annotated[
        str, typer.Option(help="Folder to write; the model is the folder model in it.", show_default=False)
    ],
    run: Annotated[
        str | None, typer.Option(help="Run that was selected from, where the selection lies apart from it.")
    ] = None,
    preset: Annotated[
        Literal["paper", "demo"],
        typer.Option(help="Defaults of all that follows: the paper's Table 4, or some that suit the demo's model."),
    ] = "paper",
    model: Annotated[
        str | None,
        typer.Option(
            help="Hub id or folder of a LLaVA-NeXT or LLaVA; by default the model that the run was scored with.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="Of computing; auto is bfloat16 on a GPU, else float32.", rich_help_panel=MODEL),
    ] = "auto",
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU if there is one.", rich_help_panel=MODEL)
    ] = "auto",
    freeze_vision_tower: Annotated[
        bool | None,
        typer.Option("--freeze-vision-tower/--train-vision-tower", help="Frozen by default.", rich_help_panel=MODEL),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(help="Optimizer steps, instead of --epochs.", rich_help_panel=TRAINING)
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the samples.", rich_help_panel=TRAINING)] = None,
    max_length: Annotated[
        int | None,
        typer.Option(help="Samples with more tokens are left out; none is cut.", rich_help_panel=TRAINING),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples per forward pass of one worker.", rich_help_panel=TRAINING)
    ] = None,
    gradient_accumulation_steps: Annotated[
        int | None, typer.Option(help="Forward passes per optimizer step.", rich_help_panel=TRAINING)
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate, at its highest.", rich_help_panel=TRAINING)] = None,
    lr_scheduler: Annotated[
        Literal["cosine", "linear", "constant_with_warmup"] | None,
        typer.Option(help="How it falls.", rich_help_panel=TRAINING),
    ] = None,
    lr_warm_up_steps: Annotated[
        int | None, typer.Option(help="First steps, in which it rises.", rich_help_panel=TRAINING)
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(rich_help_panel=TRAINING)] = None,
    beta: Annotated[
        float | None, typer.Option(help="Of dpo: how near to the reference model.", rich_help_panel=TRAINING)
    ] = None,
    validation_share: Annotated[
        float | None, typer.Option(help="Of the samples, which are not trained on.", rich_help_panel=TRAINING)
    ] = None,
    evaluate_every: Annotated[
        int | None, typer.Option(help="Steps between validations.", rich_help_panel=TRAINING)
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(help="Steps between checkpoints.", rich_help_panel=TRAINING)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of order, split and LoRA's first weights.", rich_help_panel=TRAINING)
    ] = None,
    lora_r: Annotated[
        int | None, typer.Option(help="Rank of adapters; without, the model itself is trained.", rich_help_panel=LORA)
    ] = None,
    lora_alpha: Annotated[
        int | None, typer.Option(help="Scale; by default twice the rank.", rich_help_panel=LORA)
    ] = None,
    lora_dropout: Annotated[float | None, typer.Option(rich_help_panel=LORA)] = None,
    lora_target: Annotated[
        str | None,
        typer.Option(
            help="Linear layers, joined by commas: q_proj,v_proj; by default all of the language model.",
            rich_help_panel=LORA,
        ),
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing", help="Less memory, about a third more time.", rich_help_panel=RESOURCES
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Processes that train, each with a GPU where there are GPUs.", rich_help_panel=RESOURCES)
    ] = 1,
    strategy: Annotated[
        Literal["ddp", "fsdp"],
        typer.Option(help="Of several workers: each a whole model, or a part of one.", rich_help_panel=RESOURCES),
    ] = "ddp",
    address: Annotated[
        str | None,
        typer.Option(
            help="A running Ray cluster to train on; by default that of RAY_ADDRESS, else this machine.",
            rich_help_panel=RESOURCES,
        ),
    ] = None,
    prepare_workers: Annotated[
        int | None, typer.Option(help="Threads that read all samples once, before.", rich_help_panel=RESOURCES)
    ] = None,
    loader_workers: Annotated[
        int | None, typer.Option(help="Processes of each worker that make its batches.", rich_help_panel=RESOURCES)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew in a folder with a training.")] = False,
    print_job: PrintJob = False,
    dry_run: DryRun = False,
    json: Annotated[bool, typer.Option("--json", help="Print the training's record as JSON.")] = False,
) -> None:
    """Fine-tune a model on a selection, with TRL's trainer.

    A training that is cut off, however often, goes on by the same command and ends with the same weights.
    """
    from curate.training.job import PRESETS, TrainJob

    method = ctx.command.name
    if beta is not None and method == "sft":
        raise ConfigurationError("--beta: sft has no reference model; it goes with curate train dpo")
    if model is None and (dtype, device) != ("auto", "auto"):
        raise ConfigurationError("--dtype and --device go with --model: name it, too")
    chosen = {option: ctx.params[option] for option in _OF_PARAMETERS if ctx.params[option] is not None}
    if lora_target is not None:
        chosen["lora_target"] = [name.strip() for name in lora_target.split(",")]
    content = {
        "method": method,
        "data": data,
        "run": run,
        "model": None if model is None else {"name": model, "dtype": dtype, "device": device},
        "output": output,
        "parameters": {**PRESETS[preset]["parameters"], **chosen},
        "workers": workers,
        "strategy": strategy,
        "address": address,
    }
    job = validated(TrainJob, content)
    if not only_described(job, print_job, dry_run, json, overwrite):
        run_job(job, json, overwrite)


def run_job(job: Any, json: bool = False, overwrite: bool = False) -> None:
    """Run the job, with a bar, and print what came of it."""
    from curate.cli.console import OUT, print_json, printable
    from curate.cli.progress import progress
    from curate.pipeline.progress import Progress
    from curate.training.plan import plan
    from curate.training.train import train as run_training

    the_plan = plan(job)
    with progress() as report:
        record = run_training(the_plan, lambda at: report(Progress(at.stage, at.done, at.total)), overwrite=overwrite)
    if json:
        print_json(record.model_dump(mode="json"))
        return
    figures = record.figures
    parts = [f"loss {figures['loss']:.4f}"]
    parts += [f"validation loss {figures['eval_loss']:.4f}"] if "eval_loss" in figures else []
    accuracy = figures.get("eval_rewards/accuracies", figures.get("rewards/accuracies"))
    parts += [f"reward accuracy {accuracy:.2f}"] if accuracy is not None else []
    trained = f"{record.steps:,} steps on {record.n_train:,} samples of {record.rule}"
    OUT.print(printable(f"{trained}: {', '.join(parts)}"))
    if record.n_left_out:
        OUT.print(printable(f"{record.n_left_out:,} samples did not fit; {job.output}/quarantine.parquet says why"))
    OUT.print("model:", printable(f"{job.output}/model"), soft_wrap=True)
    OUT.print("curve:", printable(f"{job.output}/curve.png"), soft_wrap=True)


app = typer.Typer(no_args_is_help=True, help="Fine-tune a model on a selection.")
app.command("sft", help=f"Learn the chosen responses.\n\n{train.__doc__}")(train)
app.command("dpo", help=f"Prefer the chosen to the rejected responses.\n\n{train.__doc__}")(train)
