"""`curate show`."""

from typing import Annotated, Any

import typer

from curate.cli.arguments import RunFolder
from curate.errors import DataError

DEFAULT_ROWS = 5


def show(
    run: RunFolder,
    top: Annotated[int | None, typer.Option(help="The N best samples.")] = None,
    bottom: Annotated[int | None, typer.Option(help="The N worst samples.")] = None,
    sample: Annotated[str | None, typer.Option(help="One sample, by its id or the beginning of it.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a run's best and worst samples, or everything known of one."""
    from curate.manifest.record import MANIFEST, read_record
    from curate.manifest.verify import read_table

    record = read_record(run)
    manifest = read_table(run, MANIFEST)
    if sample is not None:
        _show_sample(run, record, manifest, sample, json)
        return
    if top is None and bottom is None:
        top = bottom = DEFAULT_ROWS
    top, bottom = max(0, top or 0), max(0, bottom or 0)
    if top + bottom >= manifest.num_rows:
        parts = [("all", manifest)]
    else:
        parts = [("best", manifest.slice(0, top)), ("worst", manifest.slice(manifest.num_rows - bottom, bottom))]
    rows = [(name, row) for name, part in parts for row in part.to_pylist()]
    texts, unavailable = _texts(record, [row for _, row in rows])
    if json:
        from curate.cli.console import print_json

        print_json([{**row, **texts.get(row["source_row"], {})} for _, row in rows])
        return
    _print_header(run, record)
    for name, part in parts:
        if part.num_rows:
            _print_table(f"{part.num_rows} {name}" if name != "all" else "all", part.to_pylist(), texts)
    if unavailable:
        from curate.cli.console import OUT, printable

        OUT.print("texts are not shown:", printable(unavailable), soft_wrap=True)


def _texts(record: Any, rows: list[dict[str, Any]]) -> tuple[dict[int, dict[str, str]], str | None]:
    """Question and responses by source row, where the data still hold the samples that were scored."""
    from bisect import bisect_left

    from pydantic import ValidationError

    from curate.datasets import DatasetSpec, open_dataset
    from curate.errors import CurateError
    from curate.sample import Sample

    try:
        dataset = open_dataset(DatasetSpec.model_validate(record.arguments["dataset"]))
    except (CurateError, ValidationError) as error:
        return {}, str(error)
    positions = sorted(bisect_left(dataset.rows, row["source_row"]) for row in rows)
    if positions and positions[-1] >= len(dataset):
        return {}, f"{dataset.name} has changed since the run"
    ids = {row["source_row"]: row["sample_id"] for row in rows}
    texts = {
        sample.source_row: {"question": sample.question, "chosen": sample.chosen, "rejected": sample.rejected}
        for _, sample in dataset.samples(positions)
        if isinstance(sample, Sample) and ids.get(sample.source_row) == sample.sample_id
    }
    return texts, None if texts or not rows else f"{dataset.name} has changed since the run"


def _print_header(run: Any, record: Any) -> None:
    from curate.cli.console import OUT, printable

    arguments = record.arguments
    OUT.print(
        printable(
            f"{run}: {record.counts.scored:,} samples of {arguments['dataset']['name']} by {record.metrics[0]}, "
            f"with {arguments['model']['name']} (layer {record.hook_layer}, delta {record.delta:g})"
        ),
        soft_wrap=True,
    )
    for note in record.notes:
        OUT.print("[yellow]note:[/yellow]", printable(note), soft_wrap=True)


def _print_table(title: str, rows: list[dict[str, Any]], texts: dict[int, dict[str, str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from curate.cli.console import OUT, printable

    labelled = any(row["quality"] is not None for row in rows)
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("sample", no_wrap=True)
    if labelled:
        table.add_column("quality", no_wrap=True)
    if texts:
        table.add_column("question")
        table.add_column("chosen")
    for row in rows:
        cells: list[Any] = [f"{row['rank']:,}", f"{row['score']:.4g}", row["sample_id"][:12]]
        if labelled:
            cells.append(printable(row["quality"] or "", 20))
        if texts:
            text = texts.get(row["source_row"], {})
            cells += [printable(text.get("question", ""), 60), printable(text.get("chosen", ""), 80)]
        table.add_row(*cells)
    OUT.print(table)


def _show_sample(run: Any, record: Any, manifest: Any, sample: str, json: bool) -> None:
    import pyarrow as pa

    from curate.manifest.record import QUARANTINE
    from curate.manifest.verify import read_table

    def matching(table: Any) -> list[dict[str, Any]]:
        found = [row for row, name in enumerate(table["sample_id"].to_pylist()) if name and name.startswith(sample)]
        return table.take(pa.array(found, pa.int64())).to_pylist()

    found = matching(manifest) + matching(read_table(run, QUARANTINE))
    if not found:
        raise DataError(f"{run} has no sample whose id begins with {sample}")
    if len({row["sample_id"] for row in found}) > 1:
        raise DataError(f"{sample} is the beginning of {len(found)} samples' ids in {run}; give more of it")
    texts, unavailable = _texts(record, found)
    rows = [{**row, **texts.get(row["source_row"], {})} for row in found]
    if json:
        from curate.cli.console import print_json

        print_json(rows)
        return
    from rich.table import Table

    from curate.cli.console import OUT, printable

    _print_header(run, record)
    for row in rows:
        table = Table(show_header=False)
        for name, value in row.items():
            if name == "top_features":
                value = ", ".join(f"{entry['feature']} ({entry['contribution']:+.4f})" for entry in value)
            table.add_row(name, printable(f"{value:.6g}" if isinstance(value, float) else str(value)))
        OUT.print(table)
    if unavailable:
        OUT.print("texts are not shown:", printable(unavailable), soft_wrap=True)
