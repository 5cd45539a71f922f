"""Opening data sets: every layout gives the same samples; everything that cannot work is refused by name."""

import json
import re

import datasets as hf
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.datasets import DatasetSpec, open_dataset
from curate.datasets.demo import demo_row
from curate.errors import ConfigurationError, CurateError, DataError, SampleError
from curate.sample import Sample, content_id

N = 40
ROWS = [demo_row(0, row) for row in range(N)]


def samples(**spec) -> list[Sample]:
    dataset = open_dataset(DatasetSpec(**spec))
    found = [sample for _, sample in dataset.samples(range(len(dataset)))]
    assert all(isinstance(sample, Sample) for sample in found), found
    return found  # type: ignore[return-value]


def content(found: list[Sample]) -> list[tuple]:
    return [(s.sample_id, s.question, s.chosen, s.rejected, s.image.tobytes()) for s in found]


@pytest.fixture(scope="module")
def demo_samples():
    return samples(limit=N)


def plain(row):
    better = row["overall_response"]
    return {
        "question": row["question"],
        "image": row["image"],
        "chosen": row[f"response_{better}"],
        "rejected": row[f"response_{3 - better}"],
    }


def write_hub_layout(folder, rows=ROWS):
    config = folder / "text-image-to-text"
    config.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows[:25]), config / "train-00000-of-00002.parquet", row_group_size=7)
    pq.write_table(pa.Table.from_pylist(rows[25:30]), config / "train-00001-of-00002.parquet")
    pq.write_table(pa.Table.from_pylist(rows[30:]), config / "val-00000-of-00001.parquet")


def test_the_hubs_layout(tmp_path, demo_samples):
    write_hub_layout(tmp_path)
    spec = {"name": "align-anything", "data_dir": tmp_path}
    assert content(samples(**spec, split="all")) == content(demo_samples)
    assert content(samples(**spec, split="train+val")) == content(demo_samples)
    assert content(samples(**spec)) == content(demo_samples[:30])
    assert [s.source_row for s in samples(**spec, split="val")] == list(range(10))
    assert [s.quality for s in samples(**spec)] == [row["quality"] for row in ROWS[:30]]
    assert content(samples(name="align-anything", data_dir=tmp_path / "text-image-to-text")) == content(
        demo_samples[:30]
    )


@pytest.mark.parametrize("shards", [1, 3])
def test_save_to_disk_folders(tmp_path, demo_samples, shards):
    saved = hf.Dataset.from_list(ROWS)
    saved.save_to_disk(tmp_path / "one", num_shards=shards)
    assert content(samples(name="align-anything", data_dir=tmp_path / "one")) == content(demo_samples)
    splits = hf.DatasetDict({"train": saved.select(range(30)), "val": saved.select(range(30, N))})
    splits.save_to_disk(tmp_path / "two")
    assert content(samples(name="align-anything", data_dir=tmp_path / "two", split="all")) == content(demo_samples)
    assert content(samples(name="align-anything", data_dir=tmp_path / "two", split="val")) == content(demo_samples[30:])


def test_rlaif_v_and_spa_vl(tmp_path, demo_samples):
    table = pa.Table.from_pylist([plain(row) for row in ROWS])
    pq.write_table(table, tmp_path / "RLAIF-V-Dataset_000.parquet")
    assert content(samples(name="rlaif-v", data_dir=tmp_path)) == content(demo_samples)
    (tmp_path / "spa" / "data").mkdir(parents=True)
    pq.write_table(table, tmp_path / "spa" / "data" / "train-00000-of-00001.parquet")
    assert content(samples(name="spa-vl", data_dir=tmp_path / "spa")) == content(demo_samples)


def test_plain_tables_with_other_column_names_and_image_paths(tmp_path, demo_samples):
    (tmp_path / "pictures").mkdir()
    rows = []
    for index, row in enumerate(map(plain, ROWS)):
        (tmp_path / "pictures" / f"{index}.png").write_bytes(row["image"]["bytes"])
        rows.append({"q": row["question"], "i": f"pictures/{index}.png", "good": row["chosen"], "bad": row["rejected"]})
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    with (
        pa.OSFile(str(tmp_path / "data.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, pa.Table.from_pylist(rows).schema) as writer,
    ):
        writer.write_table(pa.Table.from_pylist(rows), max_chunksize=6)
    columns = {"question": "q", "image": "i", "chosen": "good", "rejected": "bad"}
    for name in ("data.jsonl", "data.parquet", "data.arrow"):
        assert content(samples(name=str(tmp_path / name), columns=columns)) == content(demo_samples), name


def test_a_row_is_read_the_same_alone_as_among_others(tmp_path):
    rows = [{"question": f"q{i}", "image": f"{i}.png", "chosen": "a", "rejected": "b"} for i in range(1000)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:700]))
    pq.write_table(pa.Table.from_pylist(rows[700:]), tmp_path / "b.parquet", row_group_size=90)
    source = open_dataset(DatasetSpec(name=str(tmp_path))).source
    for wanted in ([0], [127, 128], [699, 700], [5, 300, 301, 702, 999], list(range(0, 1000, 37))):
        assert [(row, content["question"]) for row, content in source.read(wanted)] == [(w, f"q{w}") for w in wanted]


def test_limit_and_sample_pick_rows_and_keep_their_numbers(tmp_path):
    write_hub_layout(tmp_path)
    spec = {"name": "align-anything", "data_dir": tmp_path, "split": "all"}
    assert [s.source_row for s in samples(**spec, limit=7)] == list(range(7))
    drawn = [s.source_row for s in samples(**spec, sample=9, seed=1)]
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 9
    assert drawn == [s.source_row for s in samples(**spec, sample=9, seed=1)]
    assert drawn != [s.source_row for s in samples(**spec, sample=9, seed=2)]
    assert [s.source_row for s in samples(**spec, sample=500)] == list(range(N))


def test_placeholders_inside_questions_are_removed_once(tmp_path):
    row = plain(ROWS[0])
    questions = ["<image>\nWhat?", "What?\n<image>", "<image><image> What?", "a <im<image>age> b"]
    pq.write_table(pa.Table.from_pylist([{**row, "question": q} for q in questions]), tmp_path / "d.parquet")
    found = samples(name=str(tmp_path / "d.parquet"))
    assert [s.question for s in found] == ["What?", "What?", "What?", "a <image> b"]
    data = row["image"]["bytes"]
    assert found[0].sample_id == content_id(questions[0], data, row["chosen"], row["rejected"])


def test_sample_ids_depend_on_content_alone_and_on_all_of_it():
    parts = {"question": "q", "image": b"i", "chosen": "c", "rejected": "r"}
    ids = [content_id(**parts)]
    for change in ({"question": "q2"}, {"image": b"i2"}, {"chosen": "c2"}, {"rejected": "r2"}):
        ids.append(content_id(**{**parts, **change}))
    ids.append(content_id(question="qi", image=b"", chosen="c", rejected="r"))
    assert len(set(ids)) == len(ids)
    assert re.fullmatch("[0-9a-f]{32}", ids[0])
    assert content_id(**parts) == ids[0]


def test_the_fingerprint_changes_with_any_byte(tmp_path):
    write_hub_layout(tmp_path / "a")
    write_hub_layout(tmp_path / "b")
    spec = DatasetSpec(name="align-anything", data_dir=tmp_path / "a", split="all")
    other = DatasetSpec(name="align-anything", data_dir=tmp_path / "b", split="all")
    assert open_dataset(spec).fingerprint() == open_dataset(other).fingerprint()
    path = tmp_path / "b" / "text-image-to-text" / "val-00000-of-00001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert open_dataset(spec).fingerprint() != open_dataset(other).fingerprint()


def test_a_damaged_row_group_costs_its_own_rows_by_name(tmp_path):
    rows = [plain(row) for row in ROWS]
    path = tmp_path / "d.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=10, compression="zstd")
    group = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    offset = group.dictionary_page_offset or group.data_page_offset
    data[offset : offset + 30] = b"\xff" * 30
    path.write_bytes(data)
    dataset = open_dataset(DatasetSpec(name=str(path)))
    outcomes = dict(dataset.samples(range(N)))
    assert set(outcomes) == set(range(N))
    assert all(isinstance(outcomes[row], Sample) for row in range(10))
    assert all(isinstance(outcomes[row], SampleError) for row in range(10, 20))
    assert all(isinstance(outcomes[row], Sample) for row in range(20, N))


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"])] * 5, names=["question", "image", "chosen", "rejected", "question"])
    pq.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(ConfigurationError, match="two columns of one name"):
        open_dataset(DatasetSpec(name=str(tmp_path / "d.parquet")))


def test_labels_of_any_kind_and_a_byte_order_mark_do_no_harm(tmp_path):
    row = {"question": "q", "chosen": "a", "rejected": "b", "quality": "x\ud800"}
    (tmp_path / "i.png").write_bytes(ROWS[0]["image"]["bytes"])
    lines = [json.dumps({**row, "image": "i.png", "quality": quality}) for quality in ("x\ud800", 7, None)]
    (tmp_path / "d.jsonl").write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode() + b"\n")
    assert [s.quality for s in samples(name=str(tmp_path / "d.jsonl"))] == ["x?", "7", None]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "no-such"}, "neither a known data set"),
        ({"name": "align-anything", "data_dir": "{tmp}/nothing"}, "is not a folder"),
        ({"name": "align-anything", "data_dir": "{tmp}/empty"}, "has no file text-image-to-text/train"),
        ({"name": "align-anything", "data_dir": "{tmp}/hub", "split": "test"}, "no split test; there are: train, val"),
        (
            {"name": "rlaif-v", "data_dir": "{tmp}/hub/text-image-to-text"},
            "no column 'chosen' nor 'rejected'; it has: q",
        ),
        ({"name": "{tmp}/empty"}, "holds no .parquet"),
        ({"name": "{tmp}/other.csv"}, "is not a .parquet"),
        ({"name": "{tmp}/hub", "columns": {"prompt": "x"}}, "--columns names prompt"),
        ({"name": "{tmp}/hub", "columns": {"chosen": "question"}}, "the same column"),
        ({"name": "{tmp}/hub", "split": "val"}, "go with a named data set"),
        ({"name": "demo", "data_dir": "{tmp}"}, "do not go with the demo"),
        ({"name": "{tmp}/none.jsonl"}, "no column"),
        ({"name": "{tmp}/bad.parquet"}, "cannot be read as parquet"),
        ({"name": "{tmp}/bad.arrow"}, "cannot be read as arrow"),
        ({"name": "align-anything", "data_dir": "{tmp}/torn"}, "not a whole save_to_disk folder"),
    ],
)
def test_what_cannot_be_opened_is_refused_in_one_line(tmp_path, spec, message):
    write_hub_layout(tmp_path / "hub")
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "state.json").write_text("{")
    (tmp_path / "other.csv").write_text("a,b")
    (tmp_path / "none.jsonl").write_text("")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no more")
    (tmp_path / "bad.arrow").write_bytes(b"no arrow")
    filled = {key: value.format(tmp=tmp_path) if isinstance(value, str) else value for key, value in spec.items()}
    with pytest.raises(CurateError, match=re.escape(message)) as caught:
        open_dataset(DatasetSpec.model_validate(filled))
    assert isinstance(caught.value, ConfigurationError | DataError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_images_apart_are_noticed_in_structs_too(tmp_path, suffix):
    def apart(*images) -> bool:
        table = pa.table({**dict.fromkeys(("question", "chosen", "rejected"), ["a"] * len(images)), "image": images})
        if suffix == "parquet":
            pq.write_table(table, tmp_path / "data.parquet", row_group_size=1)
        else:
            with pa.ipc.new_file(tmp_path / "data.arrow", table.schema) as writer:
                writer.write_table(table, max_chunksize=1)
        return open_dataset(DatasetSpec(name=str(tmp_path / f"data.{suffix}"))).images_apart

    embedded, beside = {"bytes": b"x", "path": "1.png"}, {"bytes": None, "path": "2.png"}
    assert not apart(embedded, embedded)
    assert apart(embedded, beside)
    assert apart(beside, embedded)


@pytest.mark.parametrize("error", [TimeoutError(), OSError(5, "Input/output error"), OSError("Couldn't deserialize")])
def test_a_disk_or_network_that_fails_is_no_fault_of_the_rows(tmp_path, monkeypatch, error):
    row = {**dict.fromkeys(("question", "chosen", "rejected"), "a"), "image": "1.png"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "data.parquet")
    (tmp_path / "1.png").write_bytes(b"x")
    dataset = open_dataset(DatasetSpec(name=str(tmp_path / "data.parquet")))

    def fails(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetFile, "iter_batches", fails)
        if error.errno is None and type(error) is OSError:  # Arrow's own: the file is damaged
            assert "damaged here" in str(next(dataset.samples([0]))[1])
        else:
            with pytest.raises(type(error)):
                next(dataset.samples([0]))
    with monkeypatch.context() as patch:
        patch.setattr(type(dataset.root / "1.png"), "read_bytes", fails)
        with pytest.raises(OSError):  # noqa: PT011
            next(dataset.samples([0]))
