"""`curate explain`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from curate.cli.arguments import MODEL, AllowModelMismatch, folder, refuse
from curate.errors import ConfigurationError

SAMPLE, OUTPUT = "Sample", "Output"


def explain(
    ctx: typer.Context,
    run: Annotated[
        Any | None, typer.Argument(parser=folder, metavar="[RUN]", help="Run folder, or its URL.", show_default=False)
    ] = None,
    sample: Annotated[
        str | None,
        typer.Argument(
            metavar="[SAMPLE]", help="Its id, the beginning of it, or its rank as '#1'.", show_default=False
        ),
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="Explain this image instead of a run's sample.", rich_help_panel=SAMPLE)
    ] = None,
    question: Annotated[str | None, typer.Option(help="What is asked about it.", rich_help_panel=SAMPLE)] = None,
    response: Annotated[
        str | None, typer.Option(help="What is answered; without, the question alone.", rich_help_panel=SAMPLE)
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="cosine, cooccurrence or l0; by default the first of these that the run has.", rich_help_panel=SAMPLE
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Without a run: hub id or folder of the model, or demo.", rich_help_panel=MODEL),
    ] = None,
    sae: Annotated[
        str | None,
        typer.Option(
            help="Without a run: SAE, named as in `curate score`. By default the one known for the model.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    hook_layer: Annotated[
        int | None,
        typer.Option(
            help="Without a run: layer that the SAE reads, where its file does not say.", rich_help_panel=MODEL
        ),
    ] = None,
    allow_model_mismatch: AllowModelMismatch = False,
    weights: Annotated[
        Any | None,
        typer.Option(
            parser=folder, metavar="RUN", help="Without a run: feature weights of one.", rich_help_panel=MODEL
        ),
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(
            help="Without a run: activation bound; by default the SAE's, as in curate score.",
            min=0,
            rich_help_panel=MODEL,
        ),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU if there is one.", rich_help_panel=MODEL)
    ] = "auto",
    top: Annotated[int, typer.Option(help="Features to show.", min=1, rich_help_panel=OUTPUT)] = 10,
    labels: Annotated[
        Path | None,
        typer.Option(help="What features are called: explanations as Neuronpedia exports.", rich_help_panel=OUTPUT),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Draw it: FILE.png or FILE.svg.", rich_help_panel=OUTPUT),
    ] = None,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON: all features, with examples of --top.", rich_help_panel=OUTPUT),
    ] = False,
) -> None:
    """Why has a sample its score? The features behind it, what each adds, and where in text and image it fires.

    What they add sums to the score. Features are called as --labels says, else by their strongest tokens in the run.

    `curate explain RUN '#1'` explains the best sample; `curate explain RUN --image cat.jpg --question "What is this?"`
    an image of your own, with the model, SAE and feature weights of the run.
    """
    from curate.cli.console import ERR, OUT, print_json, print_notes, printable
    from curate.interpret.labels import read_labels
    from curate.manifest.find import find_row
    from curate.manifest.record import read_record

    if output is not None and output.suffix.lower() not in (".png", ".svg"):
        raise ConfigurationError(f"--output {output}: it can be a .png or an .svg")
    if (sample is None) == (image is None) or (sample is not None and run is None):
        raise ConfigurationError("name a run and a sample of it, or an --image")
    if image is None and (question is not None or response is not None):
        raise ConfigurationError("--question and --response go with --image; a run's samples have their own")
    if run is not None:
        own = ("model", "sae", "weights", "delta", "hook_layer", "allow_model_mismatch")
        refuse(ctx, own, "goes with an --image without a run, which has its own")
    if run is None and model is None:
        raise ConfigurationError("--image: name a run whose model and SAE are to look at it, or a --model")
    if image is not None and question is None:
        raise ConfigurationError("--image: name a --question")
    known = read_labels(labels) if labels is not None else {}
    if run is not None:
        read_record(run)
        if sample is not None:
            find_row(run, sample)  # or it would be missed only once the model is loaded

    from curate.interpret.examples import strongest
    from curate.interpret.explain import differs, named

    with ERR.status("loading"):
        lens = _lens(run, model, sae, hook_layer, allow_model_mismatch, weights, delta, device)
    print_notes(lens.notes)
    with ERR.status("looking"):
        explained = _explained(lens, sample, image, question, response, metric)
        shown = [feature.feature for feature in explained.explanation.features[:top]]
        examples = strongest(lens, shown, 3)
        explained = named(explained, known, examples.of)
    explanation = explained.explanation
    if differs(explanation):
        near = "a feature is so near its bound that float noise decides"
        why = near if explanation.near else "another device, precision or batch"
        note = f"the manifest's score is {explanation.manifest_score:.10g}, and {explanation.score:.10g} here: {why}"
        ERR.print("[yellow]note:[/yellow]", printable(note), soft_wrap=True)
    if examples.unavailable and not known and run is not None:
        text = f"strongest tokens are not shown: {examples.unavailable}"
        ERR.print("[yellow]note:[/yellow]", printable(text), soft_wrap=True)
    if output is not None:
        from curate.report.explanation import draw_explanation

        draw_explanation(output, explained, top)
    if json:
        print_json(explanation.model_dump(mode="json"))
        return
    _print(explained, top)
    if output is not None:
        OUT.print("picture:", printable(str(output)), soft_wrap=True)


def _lens(
    run: Any,
    model: str | None,
    sae: str | None,
    hook_layer: int | None,
    allow_model_mismatch: bool,
    weights: Any,
    delta: float | None,
    device: Any,
) -> Any:
    from curate.interpret.lens import open_lens, open_run
    from curate.models import ModelSpec
    from curate.scoring.parameters import ScoringParameters
    from curate.scoring.sae import sae_for

    if run is not None:
        return open_run(run, device)
    assert model is not None
    try:
        sae = sae_for(model, sae)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    bound: dict[str, Any] = {} if delta is None else {"delta": delta}
    metrics = ("cooccurrence",) if weights is None else ("cosine",)
    parameters = ScoringParameters(hook_layer=hook_layer, metrics=metrics, **bound)
    spec, folder_of_weights = ModelSpec(name=model, device=device), None if weights is None else str(weights)
    return open_lens(spec, sae, parameters, folder_of_weights, allow_model_mismatch)


def _explained(
    lens: Any, sample: str | None, image: Path | None, question: str | None, response: str | None, metric: str | None
) -> Any:
    from curate.interpret.explain import explain, explain_row, own_sample

    if sample is not None:
        return explain_row(lens, sample, metric)
    assert image is not None
    assert question is not None
    return explain(*own_sample(lens, image, question, response), metric or lens.scorer.parameters.metrics[0])


def _print(explained: Any, top: int) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from curate.cli.console import OUT, printable
    from curate.interpret.examples import called
    from curate.interpret.explain import at_tokens, where

    explanation = explained.explanation
    features, n = explanation.features, len(explanation.features)
    OUT.print(
        printable(
            f"sample {explanation.sample_id[:12]}: {explanation.metric} {explanation.score:.6g}, the sum over {n:,} "
            f"features; active are {explanation.cross_modal:,} on text and image, {explanation.text_only:,} on text "
            f"alone, {explanation.image_only:,} on the image alone"
        ),
        soft_wrap=True,
    )
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("feature", "weight", "adds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("fires on")
    table.add_column("called")
    for feature in features[:top]:
        weight = "" if feature.weight is None else f"{feature.weight:+.4f}"
        cells = [str(feature.feature), weight, f"{feature.contribution:+.4f}", where(explained, feature)]
        table.add_row(*cells, printable(called(feature.label, feature.examples), 60))
    OUT.print(table)
    if n > top:
        rest = sum(feature.contribution for feature in features[top:])
        OUT.print(f"{n - top:,} more features add {rest:+.4f}")
    values = at_tokens(explanation)
    highest = max(values, default=0.0)
    text = Text()
    for token, value in zip(explanation.tokens, values, strict=True):
        if token.text is not None:
            share = max(0.0, value / highest) if highest > 0 else 0.0
            text.append(printable(token.text).plain, _style(share))
    OUT.print(text)


def _style(share: float) -> str:
    """From white to dark red, as in the picture; nothing where nothing fires."""
    if share == 0:
        return ""
    green = round(230 * (1 - share))
    return f"{'white' if share > 0.5 else 'black'} on rgb(255,{green},{round(160 * (1 - share))})"
