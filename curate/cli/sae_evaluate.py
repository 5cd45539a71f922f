"""`curate sae evaluate`."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from curate.cli.arguments import PrintJob, only_described, pairs, validated

DATA, MODEL, OUTPUT = "Data", "Model", "Output"
COMPARE = "--compare"


class ManyModels(TyperCommand):
    """Lets several models follow one `--on`, where SAEs are compared."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_repeated(args)) if COMPARE in args else args)


def _repeated(args: list[str]) -> Iterator[str]:
    """`--on A B` as `--on A --on B`."""
    follows_on = False
    for before, arg in zip(["", *args], args, strict=False):
        if arg.startswith("-"):
            follows_on = arg == "--on" or arg.startswith("--on=")
        elif follows_on and before != "--on":
            yield "--on"
        yield arg


def evaluate(
    sae: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SAE]...",
            help="SAEs, each a folder or another name of one; by default the demo's.",
            show_default=False,
        ),
    ] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(
            help="Model to judge them on: the one they were trained on, or another of its width, such as its base "
            "model. With --compare several may follow. By default the demo's, for the demo's SAE.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(COMPARE, help="One row for each SAE and model; SAEs that differ in their seed share a row."),
    ] = False,
    hook_layer: Annotated[
        int | None, typer.Option(help="Layer that the SAEs read, where their files do not say.", rich_help_panel=MODEL)
    ] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Of the model; auto is bfloat16 on a GPU, else float32.", rich_help_panel=MODEL),
    ] = "auto",
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU if there is one.", rich_help_panel=MODEL)
    ] = "auto",
    loss: Annotated[
        bool,
        typer.Option(
            "--loss/--no-loss", help="The loss recovered, for which the whole model is run.", rich_help_panel=MODEL
        ),
    ] = True,
    batch_size: Annotated[
        int, typer.Option(help="Tokens per forward pass; with loss, inputs run one by one.", rich_help_panel=MODEL)
    ] = 8192,
    dataset: Annotated[
        str,
        typer.Option(
            help="A name that `curate datasets` lists, or the path or URL of a table or texts. Take data that the SAE "
            "was not trained on.",
            rich_help_panel=DATA,
        ),
    ] = "demo",
    data_dir: Annotated[
        str | None, typer.Option(help="Copy of a named data set: a folder or URL.", rich_help_panel=DATA)
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="For a table whose columns have other names: text=…,image=…", rich_help_panel=DATA),
    ] = None,
    split: Annotated[str, typer.Option(help="A split, several joined by +, or all.", rich_help_panel=DATA)] = "train",
    limit: Annotated[
        int | None, typer.Option(help="Only the first N rows; 200 unless --sample is given.", rich_help_panel=DATA)
    ] = None,
    sample: Annotated[int | None, typer.Option(help="N rows drawn with the seed.", rich_help_panel=DATA)] = None,
    files: Annotated[
        int | None, typer.Option(help="Of documents on the hub, the first N files; by default 1.", rich_help_panel=DATA)
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize images to N × N first.", rich_help_panel=DATA)] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of --sample and of the demo data.", show_default=False, rich_help_panel=DATA)
    ] = None,
    delta: Annotated[float, typer.Option(help="Activation bound: a feature is active above it.")] = 0.0,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", help="Folder to write evaluation.json and evaluation.svg to.", rich_help_panel=OUTPUT
        ),
    ] = None,
    plot: Annotated[
        str | None, typer.Option(help="Draw the comparison: FILE.png or FILE.svg.", rich_help_panel=OUTPUT)
    ] = None,
    print_job: PrintJob = False,
    json: Annotated[bool, typer.Option("--json", help="Print evaluation.json.", rich_help_panel=OUTPUT)] = False,
) -> None:
    """Judge SAEs on data they have not seen: sparsity, reconstruction, features, loss recovered.

    All figures are of all tokens, text tokens and image tokens; the first position and BOS are left out.

    `curate sae evaluate --compare SAE1 SAE2 --on MODEL1 MODEL2` sets several side by side.
    """
    from curate.harvest.evaluate_job import SAEEvaluateJob

    data = {"name": dataset, "data_dir": data_dir, "split": split, "limit": limit, "sample": sample, "seed": seed}
    data |= {"files": files, "image_size": image_size}
    content = {
        "models": [{"name": name, "dtype": dtype, "device": device} for name in on or ()],
        "dataset": {**data, "columns": pairs("columns", columns)},
        "hook_layer": hook_layer,
        "batch_size": batch_size,
        "delta": delta,
        "loss": loss,
        "compare": compare,
        "output": output,
        "plot": plot,
    }
    if sae:
        content["saes"] = sae
    job = validated(SAEEvaluateJob, content)
    if not only_described(job, print_job, False, json):
        run_job(job, json)


def run_job(job: Any, json: bool = False) -> None:
    """Judge as the job says, with a bar, and print the figures."""
    from curate.cli.console import ERR, OUT, printable
    from curate.cli.progress import progress
    from curate.harvest.evaluate import evaluate as run_evaluation
    from curate.harvest.evaluate_plan import plan
    from curate.pipeline.progress import Progress

    the_plan = plan(job)
    ERR.print(printable(f"judging on {len(the_plan.corpus):,} rows of {the_plan.corpus.name}"), soft_wrap=True)
    with progress() as report:
        evaluation = run_evaluation(
            the_plan, lambda rows, total, tokens: report(Progress("evaluate", rows, total, tokens))
        )
    _print_notes(evaluation)
    if json:
        print(evaluation.model_dump_json(indent=2))
        return
    if job.compare:
        _print_compared(evaluation)
    else:
        for judgement in evaluation.judgements:
            _print_judgement(judgement)
    for what, path in (("evaluation", job.output), ("picture", job.plot)):
        if path is not None:
            OUT.print(f"{what}:", printable(path), soft_wrap=True)


def _print_notes(evaluation: Any) -> None:
    from curate.cli.console import ERR, printable

    for judgement in evaluation.judgements:
        for note in judgement.notes:
            ERR.print("[yellow]note:[/yellow]", printable(f"{judgement.sae}: {note}"), soft_wrap=True)
    told = set()
    for judgement in evaluation.judgements:
        for lost in judgement.left_out:
            if (judgement.model, lost.error) not in told:
                told.add((judgement.model, lost.error))
                text = f"{judgement.model}: {lost.rows:,} rows left out: {lost.error}, such as: {lost.reason}"
                ERR.print("[yellow]note:[/yellow]", printable(text), soft_wrap=True)


def _number(value: float | None, form: str = ".4g") -> str:
    return "-" if value is None else format(value, form)


def _print_judgement(judgement: Any) -> None:
    from rich.table import Table

    from curate.cli.console import OUT, printable

    found, losses = judgement.reconstruction, judgement.losses
    title = printable(f"{judgement.sae} on {judgement.model}, layer {judgement.hook_layer}")
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for name in found.modalities:
        table.add_column(name, justify="right", no_wrap=True)

    def row(name: str, cells: list[str]) -> None:
        table.add_row(name, *cells)

    parts = found.modalities.values()
    row("tokens", [f"{part.tokens:,}" for part in parts])
    row("L0", [_number(part.l0, ".1f") for part in parts])
    row("MSE", [_number(part.mse) for part in parts])
    row("explained variance", [_number(part.explained_variance, ".4f") for part in parts])
    row("cosine", [_number(part.cosine, ".4f") for part in parts])
    row("dead features", [f"{part.dead:,}" if part.tokens else "-" for part in parts])
    row("dense features (> 10%)", [f"{part.dense:,}" if part.tokens else "-" for part in parts])
    if losses is not None:
        spliced = [losses.spliced.get(name) for name in found.modalities]
        row("loss with reconstruction", [_number(each and each.reconstruction, ".4f") for each in spliced])
        row("loss with zero", [_number(each and each.zero, ".4f") for each in spliced])
        row("loss recovered", [_number(each and each.recovered, ".4f") for each in spliced])
    OUT.print(table)
    dead = found.modalities["all"].dead
    OUT.print(
        f"of {judgement.d_sae:,} features {found.on_both:,} are active on both modalities, {found.on_text_only:,} on "
        f"text only, {found.on_image_only:,} on images only, {dead:,} on nothing here"
    )
    if losses is not None:
        OUT.print(f"loss of the model as it is: {losses.original:.4f} over {losses.targets:,} text tokens")


# Of a comparison: its title, the figure, and how it is written.
_COLUMNS = (
    ("L0", "l0", ".1f"),
    ("MSE", "mse", ".3g"),
    ("expl. var.", "explained_variance", ".4f"),
    ("loss", "loss_spliced", ".3f"),
    ("loss rec.", "loss_recovered", ".4f"),
    ("on both", "features_on_both", ",.0f"),
)


def _print_compared(evaluation: Any) -> None:
    from rich.table import Table

    from curate.cli.console import OUT, printable

    rows = evaluation.compared
    seeds = any(len(row.saes) > 1 for row in rows)
    title = f"{evaluation.rows:,} rows" + (", ± standard error over seeds" if seeds else "")
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("SAE", overflow="fold", min_width=8)
    table.add_column("on", overflow="fold", min_width=6)
    columns = [column for column in _COLUMNS if any(row.figures[column[1]] is not None for row in rows)]
    for name, _, _ in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = []
        for _, measure, form in columns:
            spread = row.figures[measure]
            error = spread and spread.standard_error
            within = "" if error is None else f"\n±{error:.2g}"
            cells.append(_number(spread and spread.mean, form) + within)
        table.add_row(printable(row.label), printable(row.model), *cells)
    OUT.print(table)
    originals = {row.model: row.figures["loss_original"] for row in rows}
    for model, spread in originals.items():
        if spread is not None:
            OUT.print(printable(f"loss of {model} as it is: {spread.mean:.4f}"), soft_wrap=True)
