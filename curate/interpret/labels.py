"""What features are called: explanations as Neuronpedia exports them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curate.errors import ConfigurationError, first_line


def read_labels(file: Path) -> dict[int, str]:
    """The label of each feature that has one, by its index.

    Neuronpedia's rows have `index`, which may be text, and `description`. They come as a JSON list, as one object with
    such a list under `explanations`, or one a line; where a feature has several, the first counts. A plain object of
    labels by index is read, too.

    Raises:
        ConfigurationError: the file cannot be read, or holds something else.
    """
    try:
        text = file.read_text(encoding="utf-8")
        content = _parsed(text)
        if not content:
            raise ValueError("it is empty")
        labels: dict[int, str] = {}
        for row in content:
            if row["description"]:  # Neuronpedia has rows without
                labels.setdefault(int(row["index"]), str(row["description"]).strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--labels {file} cannot be read: {first_line(error)}") from error
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ConfigurationError(
            f"--labels {file} holds no labels ({type(error).__name__}: {first_line(error)}); it takes a list of "
            '{"index": 17, "description": "…"}, as Neuronpedia exports it, or {"17": "…"}'
        ) from error
    return labels


def _parsed(text: str) -> list[Any]:
    try:
        content = json.loads(text)
    except ValueError:
        # One object a line.
        return list(_rows(json.loads(line) for line in text.splitlines() if line.strip()))
    return list(_rows([content]))


def _rows(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list):
            yield from _rows(value)
        elif not isinstance(value, dict):
            raise TypeError(f"{type(value).__name__} is no label")
        elif "explanations" in value:
            yield from _rows(value["explanations"])
        elif "description" in value:
            yield value
        else:
            yield from ({"index": index, "description": label} for index, label in value.items())
