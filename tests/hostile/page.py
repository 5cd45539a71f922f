"""Writes the tables of docs/bad-data.md from the kinds: `make generated`."""

from itertools import groupby
from pathlib import Path

from curate.errors import SampleError
from tests.hostile import ROWS, TABLES
from tests.hostile.rows import RowKind
from tests.hostile.tables import TableKind

PAGE = Path(__file__).parents[2] / "docs" / "bad-data.md"
BEGIN, END = "<!-- begin: written by make generated -->", "<!-- end -->"


def with_tables(text: str) -> str:
    """The page's text with what is between its marks written again."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    sections = [section(where, list(kinds)) for where, kinds in groupby([*ROWS, *TABLES], lambda kind: kind.where)]
    return "\n\n".join([f"{before}{BEGIN}", *sections, f"{END}{after}"])


def section(where: str, kinds: list[RowKind | TableKind]) -> str:
    lines = (f"| {kind.name} | {outcome(kind)} | {f'`{kind.says}`' if kind.says else ''} |" for kind in kinds)
    return "\n".join([f"## {where}", "", "| kind | becomes | the reason says |", "|---|---|---|", *lines])


def outcome(kind: RowKind | TableKind) -> str:
    if kind.becomes is None:
        return "scored"
    name = f"`{kind.becomes.__name__}`"
    return name if issubclass(kind.becomes, SampleError) else f"refused, {name}"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
