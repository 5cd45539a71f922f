"""Whatever a data set holds, a row becomes a sample or a SampleError, and a table is read or refused in one line."""

import json
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.datasets import LAYOUTS, DatasetSpec, images, open_dataset
from curate.datasets.decode import decode_row
from curate.datasets.demo import demo_row
from curate.errors import ConfigurationError, DataError, SampleError
from curate.sample import Sample
from tests.hostile.images import photo
from tests.mutations import ANY_TEXT, JSON, damaged

FORMATS = [photo(name, 16) for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")]
FORMATS += [photo("TIFF", 16, compression=name) for name in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")]
PIXELS = 1_000_000


@pytest.fixture(scope="module", autouse=True)
def few_pixels():
    """A lower limit, so that headers changed at random do not each cost seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "MAX_PIXELS", PIXELS)
        yield


def check(outcome: Sample | SampleError) -> None:
    if isinstance(outcome, SampleError):
        assert str(outcome).isprintable()
        assert 0 < len(str(outcome)) < 300
        return
    for text in (outcome.question, outcome.chosen, outcome.rejected, outcome.quality or ""):
        text.encode()
    assert outcome.image.mode == "RGB"
    assert 0 < outcome.image.width * outcome.image.height <= PIXELS


def attempt(action) -> None:
    try:
        check(action())
    except SampleError as error:
        check(error)


CELLS = JSON | st.binary(max_size=40) | st.dates() | st.decimals() | st.sampled_from(FORMATS)
STRUCTS = st.fixed_dictionaries({}, optional={"bytes": CELLS, "path": CELLS, "other": CELLS})
LAYOUT = st.sampled_from([*LAYOUTS.values()])


@given(LAYOUT, st.data())
def test_any_row_is_a_sample_or_a_sample_error(layout, data):
    cells = dict.fromkeys((*layout.columns, "quality"), CELLS | STRUCTS | ANY_TEXT)
    row = data.draw(st.fixed_dictionaries(cells))
    attempt(lambda: decode_row(row, 0, layout, None, None))


@given(LAYOUT, st.data())
def test_a_good_row_with_any_cell_changed_is_a_sample_or_a_sample_error(layout, data):
    row = {**demo_row(0, 0), "chosen": "a", "rejected": "b"}
    column = data.draw(st.sampled_from((*layout.columns, "quality")))
    row[column] = data.draw(CELLS | STRUCTS | ANY_TEXT)
    attempt(lambda: decode_row(row, 0, layout, None, data.draw(st.none() | st.integers(1, 40))))


@given(
    name=ANY_TEXT | st.lists(st.sampled_from(("..", ".", "a", "", "~", "%2e", "C:", "link", "\\", "\0"))).map("/".join)
)
def test_no_path_leads_out_of_the_data(name, tmp_path_factory):
    base = tmp_path_factory.getbasetemp() / "paths"
    if not base.exists():
        (base / "data" / "a").mkdir(parents=True)
        (base / "secret.png").write_bytes(b"secret")
        (base / "data" / "link").symlink_to(base)
        (base / "data" / "mine.png").write_bytes(b"mine")
    for path in (name, f"{name}/secret.png", f"a/{name}/../mine.png"):
        try:
            assert images.image_bytes(path, base / "data") == b"mine"
        except SampleError as error:
            check(error)


# No timing is asserted but that nothing hangs.
@settings(deadline=timedelta(minutes=1))
@given(st.binary() | damaged(*FORMATS))
def test_any_bytes_are_an_image_or_a_sample_error(data):
    try:
        image = images.decode_image(data)
    except SampleError as error:
        check(error)
    else:
        assert image.mode == "RGB"
        assert 0 < image.width * image.height <= PIXELS


ROWS = [
    {
        "question": row["question"],
        "image": row["image"],
        "chosen": row["response_1"],
        "rejected": row["response_2"],
        "quality": row["quality"],
    }
    for row in (demo_row(0, index) for index in range(6))
]
for row in ROWS:
    row["image"] = {"bytes": photo("GIF", 16), "path": None}
TABLE = pa.Table.from_pylist(ROWS)


def parquet(**options) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(TABLE, sink, row_group_size=4, **options)
    return sink.getvalue().to_pybytes()


def arrow(new, table: pa.Table = TABLE, **options) -> bytes:
    sink = pa.BufferOutputStream()
    with new(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=4)
    return sink.getvalue().to_pybytes()


WORDS = TABLE.set_column(0, "question", TABLE["question"].dictionary_encode())
VIEWS = TABLE.set_column(0, "question", TABLE["question"].cast(pa.string_view()))
TABLES = {
    "parquet": [parquet(), parquet(compression="none", use_dictionary=False), parquet(data_page_version="2.0")],
    "arrow": [
        *(arrow(new, table) for new in (pa.ipc.new_file, pa.ipc.new_stream) for table in (TABLE, WORDS, VIEWS)),
        arrow(pa.ipc.new_file, compression="lz4"),
    ],
    "jsonl": ["\n".join(json.dumps({**row, "image": "i.png"}) for row in ROWS).encode()],
}


@pytest.mark.parametrize("kind", TABLES)
@given(data=st.data())
def test_any_table_is_refused_or_each_of_its_rows_is_accounted_for(kind, data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / f"fuzz.{kind}"
    path.write_bytes(data.draw(damaged(*TABLES[kind])))
    try:
        dataset = open_dataset(DatasetSpec(name=str(path), limit=50))
    except (ConfigurationError, DataError):
        return
    rows = list(dataset.samples(range(len(dataset))))
    assert [row for row, _ in rows] == list(dataset.rows)
    for _, outcome in rows:
        check(outcome)
