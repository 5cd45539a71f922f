"""Printing: what every verb shares."""

import json
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)


def printable(text: str, width: int | None = None) -> Text:
    """Untrusted text for the terminal: no markup, no control or direction characters, one line, cut to `width`."""
    shown = "".join(
        character
        if unicodedata.category(character)[0] != "C"
        else " "
        if character in "\n\r\t"
        else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )
    if width is not None and len(shown) > width:
        shown = shown[: width - 1] + "…"
    return Text(shown)


def print_notes(notes: Iterable[str], left_out: Sequence[Any] = (), listed_in: str = "") -> None:
    """What a reader should know, on standard error; of images that were left out, how many and the first's reason."""
    lost = []
    if left_out:
        first = left_out[0]
        lost = [f"{len(left_out):,} images left out, such as {first.id}: {first.reason}; {listed_in} lists them"]
    for note in (*notes, *lost):
        ERR.print("[yellow]note:[/yellow]", printable(note), soft_wrap=True)


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
