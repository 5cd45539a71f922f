"""Answers side by side on the terminal, without and with an edit."""

from collections.abc import Sequence
from difflib import SequenceMatcher

from rich.table import Table
from rich.text import Text

from curate.cli.console import printable


def side_by_side(rows: Sequence[tuple[str, str, str]]) -> Table:
    """Of each row its name, the answer without and the answer with an edit; words that one of both lacks are bold."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("", "without edit", "with edit"):
        table.add_column(name, overflow="fold", min_width=8)
    for name, before, after in rows:
        table.add_row(printable(name, 24), _marked(before, after), _marked(after, before))
    return table


def _marked(text: str, other: str) -> Text:
    words, others = text.split(), other.split()
    marked = Text()
    for kind, start, stop, _, _ in SequenceMatcher(None, words, others, autojunk=False).get_opcodes():
        for word in words[start:stop]:
            marked.append(" " if marked else "")
            marked.append(printable(word).plain, style="" if kind == "equal" else "bold")
    return marked
