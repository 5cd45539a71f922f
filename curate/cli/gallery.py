"""Rows of a run in the terminal, as a table or, where it shows images, beside these."""

from collections.abc import Sequence
from typing import Any

from curate.cli.pictures import THUMBNAIL

_FACT, _TEXT = 20, 200  # characters


def print_table(title: str, rows: Sequence[dict[str, Any]], samples: Any, keep: int | None) -> None:
    """Print rows, with the beginnings of their texts where the data hold them."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from curate.cli.console import OUT, printable

    labelled = any(row["quality"] is not None for row in rows)
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    for name in ["kept"] * (keep is not None) + ["sample"] + ["quality"] * labelled:
        table.add_column(name, no_wrap=True)
    for name in ("question", "chosen") if samples.found else ():
        table.add_column(name)
    for row in rows:
        cells: list[Any] = [f"{row['rank']:,}", f"{row['score']:.4g}"]
        if keep is not None:
            cells.append(_kept(row, keep))
        cells.append(printable(row["sample_id"][:12]))
        if labelled:
            cells.append(printable(row["quality"] or "", _FACT))
        if found := samples.found.get(row["source_row"]):
            cells += [printable(found.question, 60), printable(found.chosen, 80)]
        table.add_row(*cells)
    OUT.print(table)


def print_gallery(title: str, rows: Sequence[dict[str, Any]], samples: Any, keep: int | None) -> None:
    """Print rows, each beside its image and with the beginnings of all its texts."""
    from rich.table import Table
    from rich.text import Text

    from curate.cli.console import OUT, printable

    table = Table.grid(padding=(0, 2, 1, 0), collapse_padding=False)
    table.add_column(width=THUMBNAIL[0])
    table.add_column(no_wrap=True, min_width=_FACT)
    table.add_column()
    for row in rows:
        facts = [Text(f"#{row['rank']:,}", "bold"), Text(f"{row['score']:.4g}"), printable(row["sample_id"][:12])]
        facts += [Text(_kept(row, keep))] if keep is not None else []
        facts += [printable(row["quality"], _FACT)] if row["quality"] is not None else []
        found = samples.found.get(row["source_row"])
        parts = found.texts.items() if found else ()
        texts = [Text.assemble((f"{name}: ", "bold"), printable(text, _TEXT)) for name, text in parts]
        table.add_row(found.image if found else "", Text("\n").join(facts), Text("\n").join(texts))
    OUT.print(f"\n{title}", style="bold")
    OUT.print(table)


def _kept(row: dict[str, Any], keep: int) -> str:
    return "kept" if row["rank"] <= keep else "not kept"
