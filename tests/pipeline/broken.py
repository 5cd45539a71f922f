"""A large jsonl table with rows broken in known ways, for the quarantine to sort out."""

import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from curate.datasets.demo import demo_row
from tests.datasets.test_images import bomb

Row = dict[str, object]


@dataclass(frozen=True)
class Way:
    """One way to break a row, and what the quarantine must say of it."""

    name: str
    line: Callable[[Row, Path], bytes]
    error: str
    stage: str
    says: str
    has_id: bool = False


def changed(**changes: object) -> Callable[[Row, Path], bytes]:
    return lambda row, folder: json.dumps({**row, **changes}).encode()


def without(name: str) -> Callable[[Row, Path], bytes]:
    return lambda row, folder: json.dumps({k: v for k, v in row.items() if k != name}).encode()


def with_file(name: str, data: bytes) -> Callable[[Row, Path], bytes]:
    def write(row: Row, folder: Path) -> bytes:
        (folder / name).write_bytes(data)
        return json.dumps({**row, "image": name}).encode()

    return write


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


WAYS = [
    Way("corrupt image", with_file("c.png", b"\x89PNG\r\n\x1a\n nothing"), "CorruptImage", "decode", "Truncated", True),
    Way("truncated image", with_file("t.png", png(300, 300)[:-60]), "CorruptImage", "decode", "bytes", True),
    Way("image bomb", with_file("b.png", bomb(12_000, 9_000)), "ImageBomb", "decode", "12000 × 9000", True),
    Way("empty image file", with_file("e.png", b""), "MissingImage", "decode", "is empty"),
    Way("too narrow image", with_file("n.png", png(3000, 1)), "ImageShape", "inputs", "too narrow", True),
    Way("svg named png", with_file("s.png", b"<svg/>"), "CorruptImage", "decode", "known format", True),
    Way("missing image file", changed(image="no-such.png"), "MissingImage", "decode", "no-such.png"),
    Way("null image", changed(image=None), "MissingImage", "decode", "the image is empty"),
    Way("image of a wrong type", changed(image=[1, 2]), "WrongType", "decode", "the image is a list"),
    Way("image outside", changed(image="../../outside.png"), "BadImagePath", "decode", "leads out"),
    Way("absolute image", changed(image="/etc/hostname"), "BadImagePath", "decode", "not a relative path"),
    Way("image url", changed(image="http://169.254.169.254/x.png"), "BadImagePath", "decode", "is a URL"),
    Way("half a url", changed(image="//[x"), "BadImagePath", "decode", "not a relative path"),
    Way("surrogate in a path", changed(image="a\ud800.png"), "BadImagePath", "decode", "is not a path"),
    Way("empty question", changed(question="  \u200b\n"), "EmptyText", "decode", "the question", True),
    Way("question of placeholders", changed(question="<image>\n"), "EmptyText", "decode", "the question", True),
    Way("empty response", changed(chosen=""), "EmptyText", "decode", "the chosen", True),
    Way("null response", changed(rejected=None), "MissingField", "decode", "the rejected is null"),
    Way("number as question", changed(question=7), "WrongType", "decode", "the question is a int"),
    Way("list as response", changed(chosen=["a"]), "WrongType", "decode", "the chosen is a list"),
    Way("lone surrogate", changed(chosen="a\ud800b"), "NotUtf8", "decode", "lone surrogate"),
    Way("missing field", without("rejected"), "MissingField", "decode", "no 'rejected'"),
    Way("not json", lambda row, folder: b'{"question": ', "BadRow", "read", "not JSON"),
    Way("not an object", lambda row, folder: b"[1]", "BadRow", "read", "holds a list"),
    Way("not utf-8", lambda row, folder: b'{"question": "\xff\xfe"}', "NotUtf8", "decode", "not UTF-8"),
    Way("longer than the context", changed(chosen="zq " * 4000), "TooLong", "inputs", "context holds", True),
    Way("placeholder in response", changed(chosen="an <image> here"), "ReservedToken", "inputs", "spells out", True),
]


def write_broken_table(folder: Path, rows: int, broken: int) -> dict[int, Way]:
    """Write `data.jsonl` and its images; returns how each broken row was broken."""
    folder.mkdir()
    good = []
    for index in range(60):
        row = demo_row(5, index)
        (folder / f"{index}.png").write_bytes(row["image"]["bytes"])  # type: ignore[index]
        better = row["overall_response"]
        good.append(
            {
                "question": row["question"],
                "image": f"{index}.png",
                "chosen": row[f"response_{better}"],
                "rejected": row[f"response_{3 - better}"],  # type: ignore[operator]
            }
        )
    rng = random.Random(11)
    expected = {row: WAYS[place % len(WAYS)] for place, row in enumerate(sorted(rng.sample(range(rows), broken)))}
    with (folder / "data.jsonl").open("wb") as lines:
        for row in range(rows):
            # Each row's question is its own, so that ids differ.
            content = {**good[row % len(good)], "rejected": f"{good[row % len(good)]['rejected']} {row}"}
            way = expected.get(row)
            lines.write((way.line(content, folder) if way else json.dumps(content).encode()) + b"\n")
    return expected
