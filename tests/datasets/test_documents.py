"""Documents to train dictionaries on: every layout gives its parts in their order; bad rows come as their errors."""

import fnmatch
import io
import json
import os
import pickle
import random
import re
import struct
from pathlib import Path
from typing import Any

import datasets as hf
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from curate.datasets import DOCUMENTS, DatasetSpec, documents, open_dataset, texts
from curate.datasets.documents import Document, decode_document, open_corpus
from curate.errors import (
    BadImagePath,
    BadRow,
    ConfigurationError,
    CorruptImage,
    CurateError,
    EmptyText,
    ImageBomb,
    MissingField,
    MissingImage,
    NotUtf8,
    SampleError,
    WrongType,
)
from curate.sample import Sample
from tests.hostile.images import bomb, encoded
from tests.mutations import ANY_TEXT, JSON


def picture(number: int) -> bytes:
    return encoded(Image.new("RGB", (3 + number % 5, 4), (number % 256, 0, 9)))


def corpus(name, **spec):
    return open_corpus(DatasetSpec.model_validate({"name": str(name), **spec}))


def everything(name, **spec) -> list:
    opened = corpus(name, **spec)
    read = list(opened.read(range(len(opened))))
    assert [row for row, _ in read] == list(opened.rows)
    assert all(item.source_row == row for row, item in read if not isinstance(item, SampleError))
    return [item for _, item in read]


def plain(item) -> list:
    """A document's parts, with each image as its size and pixels."""
    assert isinstance(item, Document), repr(item)
    return [part if isinstance(part, str) else (part.mode, part.size, part.tobytes()) for part in item.parts]


def as_read(data: bytes) -> tuple:
    """What `plain` makes of an image file without transparency."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return image.mode, image.size, image.tobytes()


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_obelics(folder: Path, rows: int = 30, file: str = "train-00000-of-00001.parquet") -> list[list]:
    """Interleaved documents of 1 to 6 parts whose images lie beside them. Returns each document's parts."""
    draw = random.Random(3)
    table, expected, n_pictures = [], [], 0
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    for row in range(rows):
        images, words, parts = [], [], []
        for place in range(draw.randint(1, 6)):
            if draw.random() < 0.5:
                data, name = picture(n_pictures), f"{n_pictures}.png"
                (folder / name).write_bytes(data)
                n_pictures += 1
                images.append(name)
                words.append(None)
                parts.append(as_read(data))
            else:
                images.append(None)
                words.append(f"text {row}.{place}")
                parts.append(words[-1])
        table.append({"images": images, "texts": words, "metadata": "[]"})
        expected.append(parts)
    pq.write_table(pa.Table.from_pylist(table), folder / file, row_group_size=7)
    return expected


def test_the_real_documents_hold_what_their_table_says(real_data):
    table = pq.read_table(real_data / "obelics" / "train-00000-of-00001.parquet").to_pylist()
    found = everything("obelics", data_dir=str(real_data))
    assert len(found) == len(table) == 15
    for item, row in zip(found, table, strict=True):
        expected = []
        for image, text in zip(row["images"], row["texts"], strict=True):
            expected.append(text if image is None else as_read((real_data / "photos" / image).read_bytes()))
        assert plain(item) == expected
    # Those of its own folder alone: the photographs lie outside it.
    assert {type(item) for item in everything(real_data / "obelics")} == {MissingImage}
    assert {type(item) for item in everything(real_data / "rlaif_v")} == {Sample}


@pytest.mark.parametrize("file", ["train-0.parquet", "data/train-0.parquet", "obelics/train-0.parquet"])
@pytest.mark.parametrize("images", ["", "images", "photos"])
def test_a_copy_of_obelics_in_every_shape_of_folder(tmp_path, file, images):
    expected = write_obelics(tmp_path, 12, file)
    for path in tmp_path.glob("*.png"):
        (tmp_path / images).mkdir(exist_ok=True)
        path.rename(tmp_path / images / path.name)
    assert [plain(item) for item in everything("obelics", data_dir=tmp_path)] == expected
    assert [plain(item) for item in everything("obelics", data_dir=tmp_path, split="all")] == expected


def test_any_positions_read_as_they_do_among_all(tmp_path):
    expected = write_obelics(tmp_path, 60)
    opened = pickle.loads(pickle.dumps(corpus("obelics", data_dir=tmp_path)))
    assert (len(opened), opened.name) == (60, "obelics")
    for wanted in ([0], [59], [6, 7], [3, 20, 21, 48], list(range(0, 60, 11))):
        assert [(row, plain(item)) for row, item in opened.read(wanted)] == [(row, expected[row]) for row in wanted]


def test_limit_and_sample_pick_the_rows_that_scoring_would_pick(tmp_path):
    rows = [{"question": "q", "image": "i.png", "chosen": "a", "rejected": "b", "text": str(row)} for row in range(50)]
    (tmp_path / "i.png").write_bytes(picture(1))
    path = write_lines(tmp_path / "data.jsonl", rows)
    drawn: dict[str, Any] = {"sample": 9, "limit": 40, "seed": 4}
    found = everything(path, columns={"image": "image", "text": "text"}, **drawn)
    picked = open_dataset(DatasetSpec(name=str(path), **drawn)).rows
    assert [item.source_row for item in found] == list(picked)
    assert [plain(item)[1] for item in found] == [str(row) for row in picked]
    assert len(set(picked)) == 9
    assert max(picked) < 40
    assert [item.source_row for item in everything(path, **(drawn | {"seed": 5}))] != list(picked)


def test_captioned_tables_in_every_format(tmp_path):
    data = [picture(number) for number in range(10)]
    rows = [{"image": {"bytes": b, "path": None}, "caption": f"c{n}"} for n, b in enumerate(data)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=3)
    hf.Dataset.from_list(rows).save_to_disk(tmp_path / "saved", num_shards=2)
    for number, content in enumerate(data):
        (tmp_path / f"{number}.png").write_bytes(content)
    lines = [{"jpg": f"{number}.png", "words": f"c{number}"} for number in range(10)]
    write_lines(tmp_path / "t.jsonl", lines)
    expected = [[as_read(content), f"c{number}"] for number, content in enumerate(data)]
    renamed = {"image": "jpg", "text": "words"}
    for name, columns in (("t.parquet", None), ("saved", None), ("t.jsonl", renamed)):
        assert [plain(item) for item in everything(tmp_path / name, columns=columns)] == expected, name


def test_interleaved_lists_of_image_structs_saved_to_disk(tmp_path):
    a, b = picture(1), picture(2)
    images = [[{"bytes": a, "path": None}, None, {"bytes": b, "path": "b.png"}], [None]]
    saved = hf.Dataset.from_dict({"images": images, "texts": [[None, "mid", None], ["alone"]]})
    saved.save_to_disk(tmp_path / "saved")
    expected = [[as_read(a), "mid", as_read(b)], ["alone"]]
    assert [plain(item) for item in everything(tmp_path / "saved")] == expected
    assert [plain(item) for item in everything("obelics", data_dir=tmp_path / "saved")] == expected
    squared = everything(tmp_path / "saved", image_size=8)[0]
    assert [part.size for part in squared.parts if not isinstance(part, str)] == [(8, 8), (8, 8)]


def test_texts_alone(tmp_path):
    words = ["one", "  kept as it\nis <image> ", "třetí 🍎"]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"text": words, "meta": [1, 2, 3]}), tmp_path / "data" / "train-00000-of-01650-ab.parquet")
    assert [plain(item) for item in everything("the-pile", data_dir=tmp_path)] == [[text] for text in words]
    assert [plain(item) for item in everything(tmp_path)] == [[text] for text in words]
    path = write_lines(tmp_path / "t.jsonl", [{"content": text} for text in words])
    assert [plain(item) for item in everything(path, columns={"text": "content"})] == [[text] for text in words]


PREFERENCES = ("question", "image", "chosen", "rejected")
LISTED = ("images", "texts")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ((*PREFERENCES, *LISTED, "text", "caption"), Sample),
        ((*PREFERENCES[:3], *LISTED, "text", "caption"), ["I", "listed"]),
        (("images", "image", "text", "caption"), ["i", "text"]),
        (("texts", "image", "caption"), ["i", "caption"]),
        (("images", "text", "caption"), ["text"]),
        (("question", "text"), ["text"]),
    ],
)
def test_of_several_shapes_the_first_counts(tmp_path, columns, expected):
    whole, one = tmp_path / "I.png", tmp_path / "i.png"
    whole.write_bytes(encoded(Image.new("RGB", (2, 2), "red")))
    one.write_bytes(encoded(Image.new("RGB", (2, 2), "blue")))
    row = {"images": ["I.png", None], "texts": [None, "listed"], "image": "i.png", "text": "text", "caption": "caption"}
    row |= {"question": "q", "chosen": "a", "rejected": "b"}
    path = write_lines(tmp_path / "t.jsonl", [{column: row[column] for column in sorted(columns)}])
    (item,) = everything(path)
    if expected is Sample:
        assert isinstance(item, Sample)
        return
    pictures = {"I": as_read(whole.read_bytes()), "i": as_read(one.read_bytes())}
    assert plain(item) == [pictures.get(part, part) for part in expected]


def test_columns_that_are_named_decide_before_the_order_does(tmp_path):
    row = {"question": "q", "image": "i.png", "chosen": "a", "rejected": "b", "content": "c"}
    (tmp_path / "i.png").write_bytes(picture(0))
    path = write_lines(tmp_path / "t.jsonl", [row])
    assert isinstance(everything(path)[0], Sample)
    assert plain(everything(path, columns={"caption": "content"})[0]) == [as_read(picture(0)), "c"]
    assert everything(path, columns={"chosen": "content"})[0].chosen == "c"


def test_the_demo_world_and_preferences_are_the_samples_that_scoring_reads(tmp_path):
    opened, data = open_corpus(DatasetSpec(limit=20, seed=7)), open_dataset(DatasetSpec(limit=20, seed=7))
    found, expected = list(opened.read(range(20))), list(data.samples(range(20)))
    assert [getattr(item, "sample_id", None) for _, item in found] == [
        getattr(item, "sample_id", "") for _, item in expected
    ]
    assert opened.fingerprint() == data.fingerprint()
    assert opened.stamp() == data.stamp()
    row = {"question": "q", "image": "i.png", "chosen": "a", "rejected": "b", "quality": "good"}
    (tmp_path / "i.png").write_bytes(picture(0))
    path = write_lines(tmp_path / "t.jsonl", [row])
    assert everything(path)[0].quality == "good"
    assert everything(path)[0].sample_id == next(open_dataset(DatasetSpec(name=str(path))).samples([0]))[1].sample_id


def test_text_files_are_one_document_each(tmp_path, monkeypatch):
    folder = tmp_path / "books"
    (folder / "more").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    contents = {
        "a.txt": b"first\nline",
        "b.txt": b"\xff",
        "c.txt": b" \n\xe2\x80\x8b",
        "d.txt": "\ufeffpříliš".encode(),
        "more/e.txt": b"deep",
        "note.md": b"not read",
        "z.txt": bytes(100),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    os.mkfifo(folder / "pipe.txt")
    monkeypatch.setattr(texts, "MAX_BYTES", 99)
    opened = pickle.loads(pickle.dumps(corpus(folder)))
    found = dict(opened.read(range(len(opened))))
    assert [file.name for file in opened.files] == ["a.txt", "b.txt", "c.txt", "d.txt", "link.txt", "e.txt", "z.txt"]
    assert [plain(found[row]) for row in (0, 3, 5)] == [["first\nline"], ["příliš"], ["deep"]]
    assert [type(found[row]) for row in (1, 2, 4, 6)] == [NotUtf8, EmptyText, BadRow, BadRow]
    assert str(found[1]) == "b.txt is not UTF-8 at byte 0"
    assert "leads out of the data folder" in str(found[4])
    assert "over 0 MiB" in str(found[6])
    assert [plain(item) for _, item in opened.read([3, 5])] == [["příliš"], ["deep"]]
    assert plain(everything(folder / "a.txt")[0]) == ["first\nline"]
    assert plain(everything(folder / "link.txt")[0]) == ["secret"]  # named itself
    (folder / "a.txt").unlink()
    assert isinstance(dict(opened.read([0]))[0], BadRow)
    write_lines(folder / "t.jsonl", [{"text": "the table"}])
    assert [plain(item) for item in everything(folder)] == [["the table"]]
    assert [file.name for file in corpus(folder).files] == ["t.jsonl"]


def test_the_fingerprint_and_the_stamp_follow_the_content(tmp_path):
    write_obelics(tmp_path / "a")
    write_obelics(tmp_path / "b")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "1.txt").write_text("one")
    (tmp_path / "t" / "2.txt").write_text("two")
    one, same = (corpus("obelics", data_dir=tmp_path / name) for name in "ab")
    assert one.fingerprint() == same.fingerprint()
    before = corpus(tmp_path / "t")
    prints, stamps = [before.fingerprint(), one.fingerprint()], [before.stamp(), one.stamp()]
    (tmp_path / "t" / "2.txt").write_text("twenty")
    write_obelics(tmp_path / "a", 31)
    after = corpus(tmp_path / "t"), corpus("obelics", data_dir=tmp_path / "a")
    assert len({*prints, *(opened.fingerprint() for opened in after)}) == 4
    assert len({*stamps, *(opened.stamp() for opened in after)}) == 4


IMAGES = ["i.png", None, "i.png"]
WORDS = [None, "w", None]


@pytest.mark.parametrize(
    ("row", "kind", "says"),
    [
        ({"images": ["i.png", None]}, BadRow, "2 images beside 3 texts"),
        ({"images": [None, None, "i.png"]}, WrongType, "place 1 of 3 holds neither"),
        ({"texts": [None, "w", "x"]}, WrongType, "place 3 of 3 holds both"),
        ({"images": None}, MissingField, "the images are null"),
        ({"texts": None}, MissingField, "the texts are null"),
        ({"images": "i.png"}, WrongType, "the images are a str, not a list"),
        ({"texts": {"a": 1}}, WrongType, "the texts are a dict, not a list"),
        ({"texts": [None, 7, None]}, WrongType, "the text is a int, not text"),
        ({"images": ["i.png", None, 7]}, WrongType, "image 2 of 2: the image is a int"),
        ({"images": ["i.png", None, ["i.png"]]}, WrongType, "image 2 of 2: the image is a list"),
        ({"images": ["i.png", None, ""]}, MissingImage, "image 2 of 2: the image is empty"),
        ({"images": ["i.png", None, "no.png"]}, MissingImage, "image 2 of 2: no image file can be read at 'no.png'"),
        ({"images": ["i.png", None, "../out.png"]}, BadImagePath, "image 2 of 2: '../out.png' leads out"),
        ({"images": ["i.png", None, "link/out.png"]}, BadImagePath, "leads out"),
        ({"images": ["i.png", None, "/etc/hostname"]}, BadImagePath, "is not a relative path"),
        (
            {"images": ["i.png", None, "https://a.b/c.jpg"]},
            BadImagePath,
            "image 2 of 2: 'https://a.b/c.jpg' is a URL; f",
        ),
        ({"images": ["bomb.png", None, "i.png"]}, ImageBomb, "image 1 of 2: 12000 × 9000 pixels"),
        ({"images": ["no.txt", None, "i.png"]}, CorruptImage, "image 1 of 2: not an image of a known format"),
        ({"texts": [None, "a\ud800", None]}, NotUtf8, "the text holds a lone surrogate at character 1"),
        ({"images": [None, None], "texts": ["a", "\ud800"]}, NotUtf8, "the text 2 of 2 holds a lone surrogate"),
        ({"images": [None, None], "texts": ["\u200b", " "]}, EmptyText, "no visible character and no image"),
        ({"images": [], "texts": []}, EmptyText, "no visible character and no image"),
    ],
)
def test_a_bad_document_is_its_error_and_costs_no_other(tmp_path, row, kind, says):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("out.png", "data/i.png"):
        (tmp_path / name).write_bytes(picture(1))
    (data / "bomb.png").write_bytes(bomb(12_000, 9_000))
    (data / "no.txt").write_text("text")
    (data / "link").symlink_to(tmp_path)
    good = {"images": IMAGES, "texts": WORDS}
    write_lines(data / "train-0.jsonl", [good, {**good, **row}, good])
    before, bad, after = everything(data)
    image = as_read(picture(1))
    assert plain(before) == plain(after) == [image, "w", image]
    assert type(bad) is kind, repr(bad)
    assert says in str(bad)
    assert str(bad).isprintable()


def test_a_captioned_rows_faults_need_no_number(tmp_path):
    rows = [{"image": None, "text": "a"}, {"image": "http://a/b", "text": "a"}, {"image": "i.png", "text": None}]
    (tmp_path / "i.png").write_bytes(picture(0))
    found = everything(write_lines(tmp_path / "t.jsonl", [*rows, {"image": "i.png", "text": ""}, {"image": "i.png"}]))
    assert [type(item) for item in found] == [MissingImage, BadImagePath, MissingField, Document, MissingField]
    assert str(found[0]) == "the image is empty"
    assert str(found[2]) == "the text is null"
    assert plain(found[3])[1] == ""


def test_images_in_a_linked_folder_are_not_followed(tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "i.png").write_bytes(picture(0))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").symlink_to(tmp_path / "private")
    pq.write_table(pa.table({"images": [["i.png"]], "texts": [[None]]}), tmp_path / "data" / "train-0.parquet")
    assert isinstance(everything("obelics", data_dir=tmp_path / "data")[0], BadImagePath | MissingImage)


def test_a_document_holds_no_more_pixels_than_are_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "MAX_DOCUMENT_PIXELS", 3 * 100)
    image = {"bytes": encoded(Image.new("RGB", (10, 10))), "path": None}
    table = pa.table({"images": [[image] * 3, [image] * 4, [image]], "texts": [[None] * 3, [None] * 4, [None]]})
    pq.write_table(table, tmp_path / "t.parquet")
    found = everything(tmp_path / "t.parquet")
    assert [type(item) for item in found] == [Document, ImageBomb, Document]
    assert str(found[1]).startswith("image 4 of 4: with those before it over 300 pixels")


@pytest.mark.parametrize("offsets", [(0, 5, 2**20), (0, 2**20, 11), (0, -5, 11)])
def test_hostile_arrow_lists_cost_their_own_rows(tmp_path, offsets):
    """Offsets of the texts' lists that point out of them, in the second of two batches."""
    columns = [[None] * 5, [None] * 6], [["a"] * 5, ["b"] * 6]
    lists = pa.list_(pa.string())
    table = pa.table({name: pa.array(cells * 2, lists) for name, cells in zip(LISTED, columns, strict=True)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    sound = struct.pack("<3i", 0, 5, 11)
    parts = sink.getvalue().to_pybytes().rpartition(sound)
    assert parts[0].count(sound) == 3
    (tmp_path / "t.arrow").write_bytes(parts[0] + struct.pack("<3i", *offsets) + parts[2])
    found = everything(tmp_path / "t.arrow")
    assert [plain(item) for item in found[:2]] == [["a"] * 5, ["b"] * 6]
    assert [type(item) for item in found[2:]] == [BadRow, BadRow]


CELLS = JSON | st.binary(max_size=20) | ANY_TEXT | st.just(picture(1))
LISTS = CELLS | st.lists(st.none() | CELLS, max_size=4)


@given(st.sampled_from([*DOCUMENTS.values()]), st.data())
def test_any_row_is_a_document_or_a_sample_error(layout, data):
    row = data.draw(st.fixed_dictionaries(dict.fromkeys(layout.columns, LISTS)))
    try:
        document = decode_document(row, 0, layout, None, None)
    except SampleError as error:
        reason = str(error)
    else:
        assert document.parts
        assert all(part.encode() is not None for part in document.parts if isinstance(part, str))
        return
    assert reason.isprintable()
    assert 0 < len(reason) < 300


class FakeHub:
    """A repository of five numbered files; `downloaded` are those that were asked for."""

    def __init__(self, cache: Path):
        self.cache, self.downloaded, self.repos = cache, set(), set()
        self.files = [f"data/train-{number:05}-of-00005-{number * 7:x}.parquet" for number in range(5)] + ["README.md"]

    def snapshot_download(self, repo, *, repo_type, allow_patterns, revision=None):
        assert repo_type == "dataset"
        self.repos.add(repo)
        for name in self.files:
            if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                self.downloaded.add(name)
                (self.cache / name).parent.mkdir(parents=True, exist_ok=True)
                text = pa.table({"text": [f"{name}: {row}" for row in range(3)]})
                lists = pa.table({"images": [["http://a/b.jpg", None]], "texts": [[None, "a"]]})
                pq.write_table(text if "pile" in repo else lists, self.cache / name)
        return str(self.cache)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = FakeHub(tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    return hub


def test_of_the_hubs_hundreds_of_files_the_first_are_fetched(hub):
    assert [plain(item) for item in everything("the-pile")] == [[f"{hub.files[0]}: {row}"] for row in range(3)]
    assert hub.downloaded == {hub.files[0]}
    assert hub.repos == {"EleutherAI/the_pile_deduplicated"}
    assert len(corpus("the-pile", files=3)) == 9
    assert hub.downloaded == {*hub.files[:3]}
    assert len(corpus("the-pile", files=2)) == 6  # whatever the cache holds by now
    assert len(corpus("the-pile")) == 3
    with pytest.raises(ConfigurationError, match="has no file data/train-00005-of"):
        corpus("the-pile", files=6)


def test_the_hubs_image_urls_are_errors_that_say_what_to_do(hub):
    (found,) = everything("obelics")
    assert isinstance(found, BadImagePath)
    assert "fetch it first" in str(found)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "no-such"}, "neither a known data set (demo, align-anything, rlaif-v, spa-vl, obelics, the-pile)"),
        ({"name": "the-pile", "data_dir": "{tmp}", "files": 2}, "--files goes with obelics or the-pile, read from the"),
        ({"name": "{tmp}/t.jsonl", "files": 2}, "--files goes with"),
        ({"name": "demo", "files": 2}, "--files goes with"),
        ({"name": "the-pile", "data_dir": "{tmp}", "columns": {"text": "a"}}, "--columns goes with a table"),
        ({"name": "the-pile", "data_dir": "{tmp}"}, "no column 'text'; it has: a, b. Is this EleutherAI/the_pile"),
        ({"name": "the-pile", "data_dir": "{tmp}", "split": "val"}, "no split val; there are: train"),
        ({"name": "{tmp}/t.jsonl"}, "no columns that make a document; it has: x, y. Name them with --columns"),
        ({"name": "{tmp}/t.jsonl"}, "images and texts; image and text; image and caption; text; question and image"),
        ({"name": "{tmp}/t.jsonl", "columns": {"text": "z"}}, "has no column 'z'; it has: x, y"),
        ({"name": "{tmp}/t.jsonl", "columns": {"prompt": "x"}}, "--columns names prompt; the parts are question, im"),
        ({"name": "{tmp}/t.jsonl", "columns": {"image": "x", "text": "x"}}, "two parts the same column"),
        ({"name": "{tmp}/t.jsonl", "columns": {"question": "x", "texts": "y"}}, "no columns that make a document"),
        ({"name": "{tmp}/t.jsonl", "split": "val"}, "go with a named data set"),
        ({"name": "{tmp}/none.jsonl"}, "it has: none"),
        ({"name": "{tmp}/a.txt", "columns": {"text": "x"}}, "text files have no columns"),
        ({"name": "{tmp}/a.csv"}, "is not a .parquet, .arrow, .jsonl, .txt file"),
        ({"name": "{tmp}/empty"}, "holds no .parquet, .arrow, .jsonl, .txt file"),
        ({"name": "{tmp}/mixed"}, "it has: none"),
    ],
)
def test_what_cannot_be_opened_is_refused_in_one_line(tmp_path, spec, message):
    pq.write_table(pa.table({"a": ["1"], "b": ["2"]}), tmp_path / "train-00000-of-00001.parquet")
    write_lines(tmp_path / "t.jsonl", [{"x": "1", "y": "2"}])
    for name in ("none.jsonl", "a.txt", "a.csv"):
        (tmp_path / name).write_text("")
    for folder in ("empty", "mixed"):
        (tmp_path / folder).mkdir()
    write_lines(tmp_path / "mixed" / "1.jsonl", [{"text": "1"}])
    write_lines(tmp_path / "mixed" / "2.jsonl", [{"content": "1"}])
    filled = {key: value.format(tmp=tmp_path) if isinstance(value, str) else value for key, value in spec.items()}
    with pytest.raises(CurateError, match=re.escape(message)) as caught:
        open_corpus(DatasetSpec.model_validate(filled))
    assert isinstance(caught.value, ConfigurationError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_are_not_scored(name):
    with pytest.raises(ConfigurationError, match=f"{name} holds documents, not preferences"):
        open_dataset(DatasetSpec(name=name))
    with pytest.raises(ConfigurationError, match="--files goes with"):
        open_dataset(DatasetSpec(files=1))


def test_images_are_upright_rgb_as_samples_are(tmp_path):
    """One path for all images: the same decoder as for samples, whatever the mode."""
    modes = [Image.new("L", (4, 4), 7), Image.new("RGBA", (4, 4), (255, 0, 0, 0)), Image.new("P", (4, 4))]
    rows = [{"image": {"bytes": encoded(image), "path": None}, "text": "a"} for image in modes]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    found = [item.parts[0] for item in everything(tmp_path / "t.parquet")]
    assert [image.mode for image in found] == ["RGB"] * 3
    assert np.asarray(found[1]).min() == 255  # transparent: white shows
