"""Tables that are damaged, lie about themselves, or hold columns of other types."""

import json
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curate.datasets import DatasetSpec
from curate.datasets.demo import demo_row
from curate.errors import (
    BadPreference,
    BadRow,
    ConfigurationError,
    CurateError,
    DataError,
    MissingField,
    MissingImage,
    NotUtf8,
    WrongType,
)

N = 4
WORLD = [demo_row(5, index) for index in range(N)]
GOOD = {
    "question": pa.array([row["question"] for row in WORLD]),
    "image": pa.array([row["image"] for row in WORLD]),
    "chosen": pa.array([row["response_1"] for row in WORLD]),
    "rejected": pa.array([row["response_2"] for row in WORLD]),
}
BYTES = GOOD["image"].field("bytes")
Write = Callable[[Path], object]
HERE = {"name": "."}
ALIGN_ANYTHING = {"name": "align-anything", "data_dir": "."}
FIELD = b"\x16"  # in thrift's compact protocol, before an i64
LINE = b'{"question": "q", "image": "i.png", "chosen": "a", "rejected": "b"}\n'


@dataclass(frozen=True)
class TableKind:
    """One kind of table.

    Attributes:
        write: puts it into a folder.
        becomes: what it is refused with, or, if that is a SampleError, what its bad rows are quarantined with; None
            where all its rows are scored.
        says: a part of the message or reason.
        bad: which of its `N` rows are bad.
        spec: how it is named, below that folder.
    """

    where: str
    name: str
    write: Write
    becomes: type[CurateError] | None = None
    says: str = ""
    bad: tuple[int, ...] = tuple(range(N))
    spec: dict[str, str] = field(kw_only=True)

    def dataset(self, folder: Path) -> DatasetSpec:
        self.write(folder)
        places = {key: str(folder / value) for key, value in self.spec.items() if value.startswith(".")}
        return DatasetSpec.model_validate({**self.spec, **places})


def kinds(
    where: str, becomes: type[CurateError] | None, *entries: tuple, spec: dict[str, str] | None = None
) -> list[TableKind]:
    """Kinds of one outcome, each given as name, write, and what else it has of: says, bad."""
    return [TableKind(where, name, write, becomes, *rest, spec=spec or HERE) for name, write, *rest in entries]


def table(columns: dict[str, pa.Array]) -> Write:
    return lambda folder: pq.write_table(pa.table(columns), folder / "data.parquet", row_group_size=2)


def parquet(**columns: pa.Array) -> Write:
    """The good rows, with these columns in place of theirs or beside them."""
    return table({**GOOD, **columns})


def arrow(**columns: pa.Array) -> Write:
    return lambda folder: write_arrow(pa.table({**GOOD, **columns}), folder / "data.arrow")


def write_arrow(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def preference(value: pa.Array) -> Write:
    """The good rows in align-anything's layout; the value comes in row 1."""
    columns = {name: pa.array([row[name] for row in WORLD]) for name in ("question", "image")}
    columns |= {"response_1": GOOD["chosen"], "response_2": GOOD["rejected"], "overall_response": value}
    return lambda folder: pq.write_table(pa.table(columns), folder / "train.parquet")


def content(name: str, data: bytes) -> Write:
    return lambda folder: (folder / name).write_bytes(data)


def edited(write: Write, *edits: Callable[[bytes], bytes], name: str = "") -> Write:
    """The one file that another kind writes, with its bytes changed; under another name if one is given."""

    def write_edited(folder: Path) -> None:
        write(folder)
        (path,) = folder.iterdir()
        data = reduce(lambda data, edit: edit(data), edits, path.read_bytes())
        path.unlink()
        (folder / (name or path.name)).write_bytes(data)

    return write_edited


def in_footer(old: bytes, new: bytes, place: int) -> Callable[[bytes], bytes]:
    """Parquet's footer with the `place`-th occurrence of some bytes changed."""

    def edit(data: bytes) -> bytes:
        start = len(data) - 8 - struct.unpack("<I", data[-8:-4])[0]
        at = [match.start() for match in re.finditer(re.escape(old), data[start:])][place] + start
        return data[:at] + new + data[at + len(old) :]

    return edit


def moved_group(data: bytes) -> bytes:
    """Parquet whose last row group says that its questions begin beyond the end of the file."""
    group = pq.ParquetFile(pa.BufferReader(data)).metadata.row_group(1).column(0)
    begins, beyond = zigzag(group.dictionary_page_offset), zigzag(2**20 - 1)
    assert len(begins) == len(beyond)
    return in_footer(begins, beyond, 0)(data)


def zigzag(number: int) -> bytes:
    """A positive number as thrift's compact protocol writes it."""
    number *= 2
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def flipped_page(data: bytes) -> bytes:
    """Parquet whose first page header is not one."""
    return data[:4] + b"\xff" * 40 + data[44:]


def short_child(data: bytes) -> bytes:
    """Arrow whose struct of images says that its bytes are of no rows."""
    rows, none = struct.pack("<2q", N, 0), struct.pack("<2q", 0, 0)
    assert data.count(rows * 6) == 1  # questions, images, the images' bytes and paths, chosen and rejected answers
    return data.replace(rows * 6, rows * 2 + none + rows * 3)


def saved(file: str) -> Write:
    """What `save_to_disk` writes beside its one file."""
    return content("state.json", json.dumps({"_data_files": [{"filename": file}]}).encode())


def raw_strings(*values: bytes) -> pa.Array:
    """A text column of any bytes."""
    return pa.Array.from_buffers(pa.string(), len(values), pa.array(values, pa.binary()).buffers())


def dangling_strings() -> pa.Array:
    """A text column with an offset far outside its buffer: the end of row 0 and the beginning of row 1."""
    offsets = struct.pack("<5i", 0, 2**30, 1, 2, 3)
    return pa.Array.from_buffers(pa.string(), N, [None, pa.py_buffer(offsets), pa.py_buffer(b"abc")])


def pickled_extension(folder: Path) -> None:
    """A column of the extension type whose pickle old versions of pyarrow would load."""
    metadata = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": "cos\nabort\n(tR."}
    other = pa.field("other", pa.string(), metadata=metadata)
    table = pa.table({**GOOD, "other": GOOD["question"]})
    write_arrow(table.cast(table.schema.set(len(GOOD), other)), folder / "data.arrow")


def two_of_one_name(folder: Path) -> None:
    table = pa.table([*GOOD.values(), GOOD["chosen"]], names=[*GOOD, "chosen"])
    pq.write_table(table, folder / "data.parquet")


MANY = {f"c{index}": pa.nulls(N) for index in range(10_000)}
STRUCT = pa.array([{"text": "a"}] * N)
LATE = pa.array([2**60] * N, pa.timestamp("ms"))  # 36 million years after 1970
MIXED = raw_strings(b"a", b"\xff", b"b", b"c")
MIXED_STRUCT = pa.StructArray.from_arrays([GOOD["image"].field("bytes"), MIXED], ["bytes", "path"])
NO_WORD = pa.DictionaryArray.from_arrays(pa.array([0, 0, 9, 0]), pa.array(["What?"]), safe=False)
RUNS = pa.RunEndEncodedArray.from_arrays([3, N], ["q", "r"])
SIX_ROWS = in_footer(FIELD + zigzag(N), FIELD + zigzag(N + 2), 0)
LAST_GROUP_OF_FOUR = in_footer(FIELD + zigzag(2), FIELD + zigzag(4), -1)

COLUMNS = [
    *kinds(
        "Column",
        ConfigurationError,
        ("missing", table({name: GOOD[name] for name in GOOD if name != "rejected"}), "no column 'rejected'"),
        ("two of one name", two_of_one_name, "two columns of one name"),
        ("10,000, none of them ours", table(MANY), "no column 'question'"),
        (
            "names of line breaks and escape codes",
            content("data.jsonl", b'{"a\\n\\u001b[31mb": 1}'),
            "it has: a \ufffd[",
        ),
        ("name of 10,000 letters", content("data.jsonl", b'{"' + b"x" * 10_000 + b'": 1}'), "x. Name the columns"),
    ),
    *kinds(
        "Column",
        WrongType,
        ("question of numbers", parquet(question=pa.array(range(N))), "the question is a int"),
        ("question of lists", parquet(question=pa.array([["a"]] * N)), "the question is a list"),
        ("question of structs", parquet(question=STRUCT), "the question is a dict"),
        ("question of bytes", parquet(question=pa.array([b"a"] * N)), "the question is a bytes"),
        ("image of numbers", parquet(image=pa.array(range(N))), "the image is a int"),
        ("image of lists of bytes", parquet(image=pa.array([[1, 2]] * N)), "the image is a list"),
    ),
    *kinds("Column", MissingField, ("question of nulls", parquet(question=pa.nulls(N)), "the question is null")),
    *kinds("Column", MissingImage, ("image of structs without bytes", parquet(image=STRUCT), "the image is empty")),
    *kinds(
        "Column",
        NotUtf8,
        ("text that is not UTF-8, in a row", parquet(question=MIXED), "the question cannot be read", (1,)),
        ("image's path that is not UTF-8, in a row", arrow(image=MIXED_STRUCT), "the image cannot be read", (1,)),
    ),
    *kinds(
        "Column",
        BadRow,
        ("question after the last date", parquet(question=LATE), "the question cannot be read"),
        ("label after the last date", parquet(quality=LATE), "the quality cannot be read"),
        ("offset that leads out of the file, in two rows", arrow(question=dangling_strings()), "offset", (0, 1)),
        ("dictionary without a row's word", arrow(question=NO_WORD), "the question cannot be read", (2,)),
    ),
    *kinds(
        "Column",
        BadPreference,
        ("preference of 3", preference(pa.array([1, 3, 2, 1])), "is 3, not 1 or 2", (1,)),
        ("preference of 2⁶³ − 1", preference(pa.array([1, 2**63 - 1, 2, 1])), "is 92233", (1,)),
        ("preference of null", preference(pa.array([1, None, 2, 1])), "is None", (1,)),
        ("preference of NaN", preference(pa.array([1, float("nan"), 2, 1])), "is nan", (1,)),
        ("preference of text", preference(pa.array(["1"] * N)), "is '1'"),
        ("preference of truth", preference(pa.array([True] * N)), "is True"),
        spec=ALIGN_ANYTHING,
    ),
    *kinds(
        "Column",
        None,
        ("ours among 10,000", table({**MANY, **GOOD})),
        ("large text", parquet(question=GOOD["question"].cast(pa.large_string()))),
        ("large bytes", parquet(image=BYTES.cast(pa.large_binary()))),
        ("views of text", arrow(question=GOOD["question"].cast(pa.string_view()))),
        ("views of bytes", arrow(image=BYTES.cast(pa.binary_view()))),
        ("dictionary-encoded text", parquet(question=GOOD["question"].dictionary_encode())),
        ("run-end encoded text", arrow(question=RUNS)),
        ("extension type with a pickle", pickled_extension),
    ),
]

FILES = [
    *kinds(
        "Table file",
        DataError,
        ("parquet of 0 bytes", content("data.parquet", b""), "0 bytes"),
        ("parquet without its last word", edited(parquet(), lambda data: data[:-4] + b"PARQ"), "magic bytes"),
        ("parquet cut off", edited(parquet(), lambda data: data[:-100]), "magic bytes"),
        ("parquet footer longer than its file", edited(parquet(), lambda data: data[:-5] + b"\x7fPAR1"), "footer"),
        (
            "parquet footer of noise",
            edited(parquet(), lambda data: data[:-400] + b"\xa5" * 392 + data[-8:]),
            "cannot be read",
        ),
        ("parquet that counts more rows than its groups", edited(parquet(), SIX_ROWS), "6 rows, but 4"),
        ("jsonl named .parquet", content("data.parquet", LINE), "cannot be read as parquet"),
        ("parquet named .arrow", edited(parquet(), name="data.arrow"), "cannot be read as arrow"),
        ("arrow of 0 bytes", content("data.arrow", b""), "cannot be read as arrow"),
        ("arrow cut off", edited(arrow(), lambda data: data[: len(data) // 2]), "cannot be read as arrow"),
    ),
    *kinds(
        "Table file",
        BadRow,
        ("row group that counts too many rows", edited(parquet(), LAST_GROUP_OF_FOUR, SIX_ROWS), "too few", (4, 5)),
        ("row group beyond its file's end", edited(parquet(), moved_group), "damaged here", (2, 3)),
        ("row group with a flipped page", edited(parquet(), flipped_page), "damaged here", (0, 1)),
        ("arrow struct longer than its children", edited(arrow(), short_child), "damaged here"),
    ),
    *kinds(
        "Table file",
        ConfigurationError,
        ("parquet of 0 rows", table({name: column[:0] for name, column in GOOD.items()}), "has no rows"),
        ("jsonl of 0 bytes", content("data.jsonl", b""), "it has: none"),
        ("jsonl in UTF-16", content("data.jsonl", LINE.decode().encode("utf-16")), "it has: none"),
        ("CSV named .jsonl", content("data.jsonl", b"question,image\na,b\n"), "it has: none"),
    ),
    *kinds(
        "Table file",
        DataError,
        ("FIFO named .jsonl", lambda folder: os.mkfifo(folder / "data.jsonl"), "not a regular file"),
        spec={"name": "./data.jsonl"},
    ),
    *kinds(
        "Table file",
        ConfigurationError,
        ("CSV", content("data.csv", b"a,b\n"), "is not a .parquet"),
        spec={"name": "./data.csv"},
    ),
    *kinds(
        "Data folder",
        ConfigurationError,
        ("that does not exist", lambda folder: None, "nor an existing path"),
        spec={"name": "./nothing"},
    ),
    *kinds(
        "Data folder",
        ConfigurationError,
        ("without a table", content("readme.txt", b"hello"), "holds no .parquet"),
    ),
    *kinds(
        "Data folder",
        DataError,
        ("saved, its state names a file outside", saved("../x.arrow"), "outside its folder"),
        ("saved, its state names NUL", saved("a\0.arrow"), "not a whole save_to_disk folder"),
        ("saved, its state names no file there is", saved("x.arrow"), "cannot be read as arrow"),
        ("saved, its state is a list", content("state.json", b"[]"), "not a whole save_to_disk folder"),
        ("saved, its state is 100,000 brackets", content("state.json", b"[" * 100_000), "not a whole save_to_disk"),
        ("saved, a split outside", content("dataset_dict.json", b'{"splits": ["../other"]}'), "no plain name"),
        ("saved, a split that is itself", content("dataset_dict.json", b'{"splits": ["."]}'), "no plain name"),
    ),
]

TABLES = [*COLUMNS, *FILES]
