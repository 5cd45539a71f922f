"""`curate demo`: the embedded default, taken apart."""

from pathlib import Path
from typing import Annotated

import typer

from curate.cli.arguments import RunFolder

app = typer.Typer(no_args_is_help=True, help="Export, retrain or report on the embedded demo.")


@app.command()
def export(
    directory: Annotated[Path, typer.Argument(help="Folder to write; must be new or empty.", show_default=False)],
    samples: Annotated[int, typer.Option(help="Rows of data.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="Of the data.")] = 0,
) -> None:
    """Write model, its text part, SAE and data as ordinary folders, to try any command on them as on real ones."""
    from curate.cli.console import OUT, printable
    from curate.demo.export import export as write

    write(directory, samples, seed)
    data = f"data ({samples:,} rows in align-anything's layout)"
    OUT.print(printable(f"model, sae, {data} and labelled shapes are in {directory}"), soft_wrap=True)
    folders = f"--data-dir {directory}/data --model {directory}/model --sae {directory}/sae"
    OUT.print("try:", printable(f"curate score --dataset align-anything {folders}"), soft_wrap=True)


@app.command()
def train(
    output: Annotated[Path, typer.Option(help="Folder for model, sae and training.json.")],
    steps: Annotated[int, typer.Option(help="Optimizer steps of the model.", min=20)] = 4500,
    sae_tokens: Annotated[int, typer.Option(help="Tokens that the SAE learns from.", min=100_000)] = 1_500_000,
    seed: Annotated[int, typer.Option(help="Of weights and data.")] = 0,
) -> None:
    """Train the demo model and its SAE again, from scratch. Half an hour on two cores."""
    from curate.cli.console import OUT, printable
    from curate.demo.train import train as run

    report = run(output, steps, sae_tokens, seed)
    OUT.print_json(data=report)
    OUT.print("written to", printable(str(output)))


@app.command()
def report(
    run: RunFolder,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """How well each metric tells each planted defect from clean samples.

    AUROC: 1 means that every clean sample scores higher, 0.5 that the metric cannot tell, 0 that it prefers
    the defect. Token counts stand beside the metrics: what length alone finds needs no model.
    """
    from dataclasses import asdict

    from rich.table import Table

    from curate.cli.console import OUT, print_json, printable
    from curate.experiments.labels import label_report
    from curate.manifest.record import MANIFEST, read_record
    from curate.manifest.verify import read_table

    reports = label_report(read_table(run, MANIFEST), read_record(run).metrics)
    if json:
        print_json([asdict(entry) for entry in reports])
        return
    scores = list(dict.fromkeys(entry.score for entry in reports))
    title = f"AUROC ± standard error against {reports[0].n_clean:,} clean samples"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0))
    table.add_column("defect", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    for name in scores:
        table.add_column(name.replace("_", " "), justify="right", min_width=8, max_width=8, overflow="fold")
    for label in dict.fromkeys(entry.label for entry in reports):
        entries = {entry.score: entry for entry in reports if entry.label == label}
        cells = [f"{entries[n].auroc:.2f}±{entries[n].standard_error:.2f}".replace("±0.", "±.") for n in scores]
        table.add_row(printable(label, 24), str(entries[scores[0]].n_labelled), *cells)
    OUT.print(table)
