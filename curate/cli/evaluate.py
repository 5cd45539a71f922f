"""`curate evaluate`: a model's answers to a bench, judged."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from curate.cli import evaluate_summarize
from curate.cli.arguments import PrintJob, only_described, validated

BENCH, MODEL, JUDGE, OUTPUT = "Bench", "Model", "Judge", "Output"

app = typer.Typer(invoke_without_command=True)
app.command("summarize")(evaluate_summarize.summarize)


@app.callback()
def evaluate(
    ctx: typer.Context,
    bench: Annotated[
        str,
        typer.Option(
            help="llava-bench-in-the-wild, llava-bench-coco, demo, or a folder of their layout.", rich_help_panel=BENCH
        ),
    ] = "demo",
    data_dir: Annotated[
        str | None, typer.Option(help="Copy of a named bench: a folder or URL.", rich_help_panel=BENCH)
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(help="Folder of the images where they lie apart, as COCO's val2014.", rich_help_panel=BENCH),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N questions.", rich_help_panel=BENCH)] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Hub id or folder of the model that answers; with the demo bench, demo.", rich_help_panel=MODEL
        ),
    ] = None,
    answers: Annotated[
        str | None,
        typer.Option(help="Judge the answers of this file, and load no model.", rich_help_panel=MODEL),
    ] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Of the model; auto is bfloat16 on a GPU, else float32.", rich_help_panel=MODEL),
    ] = "auto",
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU if there is one.", rich_help_panel=MODEL)
    ] = "auto",
    batch_size: Annotated[
        int | None, typer.Option(help="Questions that are answered together; 8.", rich_help_panel=MODEL)
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens of an answer at most; 1,024, with the demo bench 64.", rich_help_panel=MODEL),
    ] = None,
    judge_url: Annotated[
        str | None,
        typer.Option(
            help="OpenAI-compatible endpoint; its key is CURATE_JUDGE_KEY or OPENAI_API_KEY in the environment. "
            "Without, the demo bench is judged by rules.",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="Model of that endpoint.", rich_help_panel=JUDGE)] = None,
    order: Annotated[
        Literal["reference-first", "candidate-first", "both"] | None,
        typer.Option(
            help="Which answer the judge sees first; reference-first as published, both asks twice.",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    judge_concurrency: Annotated[int | None, typer.Option(help="Requests at a time; 8.", rich_help_panel=JUDGE)] = None,
    judge_retries: Annotated[
        int | None, typer.Option(help="How often a failed request is tried again; 5.", rich_help_panel=JUDGE)
    ] = None,
    judge_timeout: Annotated[
        float | None, typer.Option(help="Seconds for one request; 120.", rich_help_panel=JUDGE)
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask again where the judge said no scores.", rich_help_panel=JUDGE)
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for answers, reviews and evaluation.json; runs/evaluation-BENCH-MODEL.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew in a folder with an evaluation.", rich_help_panel=OUTPUT)
    ] = False,
    print_job: PrintJob = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check bench, images, model and judge's key, and do nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print evaluation.json.", rich_help_panel=OUTPUT)] = False,
) -> None:
    """Let a model answer a bench's questions, and a judge say how good the answers are next to the reference's.

    An evaluation that is cut off goes on by the same command: no question is answered or asked again.

    `curate evaluate summarize REVIEWS.jsonl` sums up review files, ours or published ones.
    """
    if ctx.invoked_subcommand is not None:
        return
    from curate.evaluation.job import EvaluateJob

    judge = {"url": judge_url, "model": judge_model, "order": order, "concurrency": judge_concurrency}
    judge |= {"retries": judge_retries, "timeout": judge_timeout}
    name = model or ("demo" if bench == "demo" and answers is None else None)
    content: dict[str, Any] = {
        "bench": bench,
        "data_dir": data_dir,
        "images": images,
        "limit": limit,
        "answers": answers,
        "max_new_tokens": max_new_tokens,
        "batch_size": batch_size,
        "output": output or f"runs/evaluation-{Path(bench).name}-{_called(name or answers or '')}",
        "judge": {field: value for field, value in judge.items() if value is not None},
    }
    if name is not None:
        content["model"] = {"name": name, "dtype": dtype, "device": device}
    job = validated(EvaluateJob, {field: value for field, value in content.items() if value is not None})
    if not only_described(job, print_job, dry_run, json, overwrite):
        run_job(job, json, overwrite, retry_failed)


def _called(candidate: str) -> str:
    """What tells a model or a file of answers from others; what `curate train` writes is always called model."""
    path = Path(candidate.removesuffix(".jsonl"))
    return f"{path.parent.name}-{path.name}" if path.name == "model" and path.parent.name else path.name


def run_job(job: Any, json: bool = False, overwrite: bool = False, retry_failed: bool = False) -> None:
    """Evaluate as the job says, with bars, and print the scores."""
    from curate.cli.console import OUT, printable
    from curate.cli.progress import progress
    from curate.evaluation.evaluate import Step
    from curate.evaluation.evaluate import evaluate as run_evaluation
    from curate.evaluation.plan import plan
    from curate.pipeline.progress import Progress

    the_plan = plan(job)
    with progress() as report:

        def told(at: Step) -> None:
            report(Progress(at.stage, at.done, at.total))

        record = run_evaluation(the_plan, told, overwrite, retry_failed)
    if json:
        print(record.model_dump_json(indent=2))
        return
    judge = f"judged by {record.judge.name}, {record.judge.order}"
    evaluate_summarize.print_summary(f"{record.candidate} on {record.bench}, {judge}", record.summary)
    if record.unanswered:
        OUT.print(f"{record.unanswered:,} questions do not fit the model; answers.jsonl says why")
    if record.cut:
        OUT.print(f"{record.cut:,} answers were cut after --max-new-tokens, and judged so; answers.jsonl says which")
    OUT.print("evaluation:", printable(job.output), soft_wrap=True)
