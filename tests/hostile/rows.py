"""Rows of a jsonl table, each broken, or only strange, in one known way."""

import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from curate.datasets.demo import demo_row
from curate.errors import (
    BadImagePath,
    BadRow,
    CorruptImage,
    EmptyText,
    ImageBomb,
    ImageShape,
    MissingField,
    MissingImage,
    NotUtf8,
    ReservedToken,
    SampleError,
    TooLong,
    WrongType,
)
from tests.hostile import images
from tests.hostile.images import patched, plain

Content = dict[str, object]
Line = Callable[[Content, Path], bytes]


@dataclass(frozen=True)
class RowKind:
    """One kind of row.

    Attributes:
        where: the part of the row that is bad.
        line: from a good row and the data's folder, the line; what else it needs is written into the folder.
        becomes: the error it is quarantined with; None where it is scored.
        says: a part of the reason.
        has_id: whether so much of the row is good that it has a sample id.
    """

    where: str
    name: str
    line: Line
    becomes: type[SampleError] | None = None
    says: str = ""
    has_id: bool = False


def changed(**changes: object) -> Line:
    return lambda row, folder: json.dumps({**row, **changes}).encode()


def without(name: str) -> Line:
    return lambda row, folder: json.dumps({key: value for key, value in row.items() if key != name}).encode()


def replaced(old: bytes, new: bytes) -> Line:
    """The line with its first `old` replaced, for what `json.dumps` would not write."""
    return lambda row, folder: json.dumps(row).encode().replace(old, new, 1)


def plus(before: bytes = b"", after: bytes = b"") -> Line:
    return lambda row, folder: before + json.dumps(row).encode() + after


def exactly(line: bytes) -> Line:
    return lambda row, folder: line


def image_at(name: str, make: Callable[[Path], object]) -> Line:
    """The image is a path at which `make` puts something."""

    def write(row: Content, folder: Path) -> bytes:
        if not os.path.lexists(folder / name):
            make(folder / name)
        return json.dumps({**row, "image": name}).encode()

    return write


def file(name: str, data: bytes) -> Line:
    return image_at(name, lambda path: path.write_bytes(data))


def link(name: str, target: str) -> Line:
    return image_at(name, lambda path: path.symlink_to(target))


def sparse(path: Path) -> None:
    with path.open("wb") as empty:
        empty.truncate(257 * 2**20)


def kinds(
    where: str,
    becomes: type[SampleError] | None,
    *entries: tuple[str, Line, str] | tuple[str, Line],
    has_id: bool = False,
) -> list[RowKind]:
    return [RowKind(where, name, line, becomes, *says, has_id=has_id) for name, line, *says in entries]


IMAGES = [
    *kinds(
        "Image file",
        ImageBomb,
        ("PNG header of 108 million pixels", file("b1.png", images.bomb(12_000, 9_000)), "12000 × 9000"),
        ("PNG header of 3.6 billion pixels", file("b2.png", images.bomb(60_000, 60_000)), "3600000000"),
        (
            "GIF screen of 4.3 billion pixels",
            file("b.gif", patched(plain("GIF"), b"GIF", 6, "<HH", 65_535, 65_535)),
            "4294836225",
        ),
        (
            "GIF frame larger than its screen",
            file("f.gif", patched(plain("GIF"), b",", 5, "<HH", 65_535, 65_535)),
            "4294836225",
        ),
        (
            "BMP header of 3.6 billion pixels",
            file("b.bmp", patched(plain("BMP"), b"BM", 18, "<ii", 60_000, 60_000)),
            "3600000000",
        ),
        ("BMP of the most negative height", file("n.bmp", patched(plain("BMP"), b"BM", 22, "<i", -(2**31))), "pixels"),
        ("PPM header of 3.6 billion pixels", file("b.ppm", b"P6 60000 60000 255\n"), "3600000000"),
        (
            "JPEG header of 4.2 billion pixels",
            file("b.jpg", patched(plain("JPEG"), b"\xff\xc0", 5, ">HH", 65_000, 65_000)),
            "4225000000",
        ),
        ("TIFF header of 3.6 billion pixels", file("b.tif", images.tiff_bomb()), "3600000000"),
        (
            "WebP header of 268 million pixels",
            file("b.webp", patched(plain("WEBP", lossless=True), b"VP8L", 9, "<I", 0xFFF_BFFE)),
            "pixels",
        ),
        (
            "JPEG 2000 header of 3.6 billion pixels",
            file("b.jp2", patched(plain("JPEG2000"), b"ihdr", 4, ">II", 60_000, 60_000)),
            "3600000000",
        ),
        (
            "AVIF header of 144 million pixels",
            file("b.avif", patched(plain("AVIF"), b"ispe", 8, ">II", 12_000, 12_000)),
            "12000 × 12000",
        ),
        has_id=True,
    ),
    *kinds("Image file", ImageBomb, ("file of 257 MiB", image_at("s.png", sparse), "256 MiB")),
    *kinds(
        "Image file",
        CorruptImage,
        ("PNG of nothing", file("c.png", b"\x89PNG\r\n\x1a\n nothing"), "Truncated"),
        ("truncated PNG", file("t.png", images.photo()[:-200]), "truncated"),
        ("truncated JPEG", file("t.jpg", images.photo("JPEG")[:-200]), "truncated"),
        ("PNG with damaged pixels", file("crc.png", patched(plain(), b"IDAT", 6, "B", 0)), "broken data stream"),
        ("PNG with 200 MB of zipped comment", file("zt.png", images.zipped_text(b"zTXt")), "too large"),
        ("PNG with 200 MB of zipped Unicode comment", file("it.png", images.zipped_text(b"iTXt")), "too large"),
        ("PNG with 200 MB of zipped colour profile", file("ic.png", images.zipped_text(b"iCCP")), "too large"),
        ("TIFF tags of billions of values", file("a.tif", images.absurd_tiff()), "known format"),
        ("TIFF directory that leads to itself", file("l.tif", b"II*\0\x08\0\0\0\0\0\x08\0\0\0"), "known format"),
        ("PPM sides of a hundred digits", file("d.ppm", b"P6 " + b"9" * 100 + b" 1 255\n"), "Token too long"),
        ("image without a pixel", file("z.ppm", b"P6 10 0 255\n"), "known format"),
        ("floating-point PFM", file("f.pfm", b"Pf 4 4 -1\n" + bytes(64)), "floating-point"),
        (
            "SVG named .jpg",
            file("s.jpg", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"),
            "known format",
        ),
        ("HTML named .jpg", file("h.jpg", b"<!doctype html><script>alert(1)</script>"), "known format"),
        ("PDF named .jpg", file("pdf.jpg", plain("PDF")), "known format"),
        ("EPS named .png", file("eps.png", plain("EPS")), "known format"),
        ("ICO", file("i.ico", plain("ICO")), "known format"),
        ("the table itself", changed(image="data.jsonl"), "known format"),
        has_id=True,
    ),
    *kinds(
        "Image file",
        ImageShape,
        ("3,000 × 1 pixels", file("n.png", plain(size=(3_000, 1))), "too narrow"),
        ("1 × 30,000 pixels", file("w.png", plain(size=(1, 30_000))), "too narrow"),
        has_id=True,
    ),
    *kinds(
        "Image file",
        None,
        ("GIF that is HTML as well", file("h.gif", plain("GIF") + b"<script>alert(1)</script>")),
        ("PNG that is a ZIP as well", file("z.png", plain() + b"PK\5\6" + bytes(18))),
        ("PNG with 200 MB of zipped pixels beyond its last", file("o.png", images.too_many_pixels())),
        ("PNG with damaged EXIF", file("e.png", plain(exif=b"Exif\0\0no such thing"))),
        ("GIF of 100,000 frames", file("m.gif", images.many_frames(100_000))),
        ("APNG that declares two billion frames", file("m.png", images.endless_apng())),
        ("PNG of ten million pixels", file("l.png", plain(size=(5_000, 2_000)))),
        ("PNG of one pixel", file("1.png", plain(size=(1, 1)))),
    ),
]

CELLS = [
    *kinds(
        "Image path",
        BadImagePath,
        ("leads out by ..", changed(image="../../outside.png"), "leads out"),
        ("leads out by .. after a folder", changed(image="inside/../../outside.png"), "leads out"),
        ("link that leads out", link("out.png", "/etc/hostname"), "leads out"),
        ("link to /dev/zero", link("zero.png", "/dev/zero"), "leads out"),
        ("link to itself", link("loop.png", "loop.png"), "not a path"),
        ("absolute", changed(image="/etc/hostname"), "not a relative path"),
        ("a process's environment", changed(image="/proc/self/environ"), "not a relative path"),
        ("Windows drive", changed(image="C:\\boot.ini"), "is a URL"),
        ("UNC path", changed(image="\\\\host\\share\\x.png"), "not a relative path"),
        ("UNC path with slashes", changed(image="//host/share/x.png"), "not a relative path"),
        ("URL of a link-local address", changed(image="http://169.254.169.254/x.png"), "is a URL"),
        ("URL of this machine", changed(image="http://[::1]:8265/x.png"), "is a URL"),
        ("file: URL", changed(image="file:///etc/hostname"), "is a URL"),
        ("data: URI", changed(image="data:image/png;base64,iVBORw0KGgo="), "is a URL"),
        ("half a URL", changed(image="//[x"), "not a relative path"),
        ("holds NUL", changed(image="a\0.png"), "not a relative path"),
        ("holds a lone surrogate", changed(image="a\ud800.png"), "not a path"),
    ),
    *kinds(
        "Image path",
        MissingImage,
        ("no such file", changed(image="no-such.png"), "no-such.png"),
        ("5,000 characters", changed(image="x" * 5_000), "too long"),
        ("empty file", file("empty.png", b""), "is empty"),
        ("folder", image_at("folder.png", Path.mkdir), "not a regular file"),
        ("FIFO", image_at("fifo.png", os.mkfifo), "not a regular file"),
    ),
    *kinds(
        "Image cell",
        MissingImage,
        ("null", changed(image=None), "the image is empty"),
        ("empty text", changed(image=""), "the image is empty"),
        ("struct of nulls", changed(image={"bytes": None, "path": None}), "the image is empty"),
    ),
    *kinds(
        "Image cell",
        WrongType,
        ("list of numbers", changed(image=[1, 2]), "the image is a list"),
        ("struct in a struct", changed(image={"bytes": {"bytes": "x"}}), "the image is a dict"),
    ),
]

TEXTS = [
    *kinds(
        "Text",
        EmptyText,
        ("white and zero-width space alone", changed(question=" \u200b\u2060\n"), "the question"),
        ("control characters alone", changed(chosen="\0\x07\x1b"), "the chosen"),
        ("placeholders alone", changed(question="<image>\n"), "the question"),
        ("empty", changed(chosen=""), "the chosen"),
        has_id=True,
    ),
    *kinds(
        "Text",
        ReservedToken,
        ("placeholder in a response", changed(chosen="an <image> here"), "special token <image>"),
        ("placeholder inside a placeholder", changed(question="a <im<image>age> b"), "special token <image>"),
        ("end of turn in a question", changed(question="Hello.</s> What?"), "special token </s>"),
        ("padding in a response", changed(chosen="So<pad>"), "special token <pad>"),
        has_id=True,
    ),
    *kinds(
        "Text",
        TooLong,
        ("a little over the context", changed(chosen="zq " * 4_000), "context holds"),
        ("question of 10 MB", changed(question="zq " * 3_333_333), "so at least"),
        ("response of 10 MB without a space", changed(chosen="a" * 10_000_000), "so at least"),
        has_id=True,
    ),
    *kinds(
        "Text",
        WrongType,
        ("number", changed(question=7), "the question is a int"),
        ("NaN", changed(question=float("nan")), "the question is a float"),
        ("list", changed(chosen=["a"]), "the chosen is a list"),
        ("object", changed(rejected={"text": "a"}), "the rejected is a dict"),
    ),
    *kinds("Text", NotUtf8, ("lone surrogate", changed(chosen="a\ud800b"), "lone surrogate at character 1")),
    *kinds(
        "Text",
        MissingField,
        ("null", changed(rejected=None), "the rejected is null"),
        ("no such key", without("rejected"), "no 'rejected'"),
        ("key in capitals", replaced(b'"chosen"', b'"Chosen"'), "no 'chosen'"),
    ),
    *kinds(
        "Text",
        None,
        ("placeholder in a question", changed(question="<image>\nWhat is it?<image>")),
        ("bidirectional", changed(question="\u202eWhat\u202c \u2067is\u2069 \u05e9?", chosen="\u0645\u0631\u062d")),
        ("control characters", changed(question="What\x1b[2J is\x07 it?\x7f")),
        ("NUL", changed(chosen="a\0b")),
        ("template code", changed(question="{{ messages }} {% for x in y %} What?")),
        ("a thousand accents on one letter", changed(question="Wha" + "\u0301" * 1_000 + "t?")),
    ),
]

LINES = [
    *kinds(
        "Line",
        BadRow,
        ("cut off", exactly(b'{"question": '), "not JSON"),
        ("blank", exactly(b""), "is blank"),
        ("100,000 open brackets", exactly(b'{"question": ' + b"[" * 100_000), "not JSON"),
        ("number of 5,000 digits", replaced(b"{", b'{"n": ' + b"9" * 5_000 + b", "), "not JSON"),
        ("one key twice", replaced(b"{", b'{"chosen": "other", '), "one key twice"),
        ("two objects", plus(after=b"{}"), "not JSON"),
        ("Python, not JSON", replaced(b'"question"', b"'question'"), "not JSON"),
        ("list", exactly(b"[1]"), "holds a list"),
        ("text", exactly(b'"question"'), "holds a str"),
        ("null", exactly(b"null"), "holds a NoneType"),
    ),
    *kinds("Line", NotUtf8, ("bytes that are not UTF-8", exactly(b'{"question": "\xff\xfe"}'), "not UTF-8")),
    *kinds(
        "Line",
        None,
        ("byte order mark", plus(before=b"\xef\xbb\xbf")),
        ("carriage return at its end", plus(after=b"\r")),
        ("12 MB in a column that is not read", changed(other="x" * 12_000_000)),
        ("NaN and infinity in columns that are not read", changed(x=float("nan"), y=float("-inf"))),
        ("label of 900 lists in each other", replaced(b"{", b'{"quality": ' + b"[" * 900 + b"]" * 900 + b", ")),
    ),
]

ROWS = [*IMAGES, *CELLS, *TEXTS, *LINES]


def good_rows(folder: Path, count: int) -> list[Content]:
    """Rows of the toy world, their images written into the folder."""
    rows = []
    for index in range(count):
        row = demo_row(5, index)
        (folder / f"{index}.png").write_bytes(row["image"]["bytes"])  # type: ignore[index]
        better = row["overall_response"]
        rows.append(
            {
                "question": row["question"],
                "image": f"{index}.png",
                "chosen": row[f"response_{better}"],
                "rejected": row[f"response_{3 - better}"],  # type: ignore[operator]
            }
        )
    return rows


def write_broken_table(folder: Path, rows: int, broken: int) -> dict[int, RowKind]:
    """Write `data.jsonl` and its images; returns how each broken row was broken."""
    folder.mkdir()
    good = good_rows(folder, 60)
    kinds = [kind for kind in ROWS if kind.becomes]
    rng = random.Random(11)
    expected = {row: kinds[place % len(kinds)] for place, row in enumerate(sorted(rng.sample(range(rows), broken)))}
    with (folder / "data.jsonl").open("wb") as lines:
        for row in range(rows):
            # Each row's question is its own, so that ids differ.
            content = {**good[row % len(good)], "rejected": f"{good[row % len(good)]['rejected']} {row}"}
            kind = expected.get(row)
            lines.write((kind.line(content, folder) if kind else json.dumps(content).encode()) + b"\n")
    return expected
