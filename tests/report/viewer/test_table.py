"""The table that is looked at, against the same by hand: what a rule keeps, what filters show, in which order."""

from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import hypothesis.strategies as st
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from curate.errors import ConfigurationError, DataError
from curate.manifest.annotations import Annotation
from curate.manifest.rank import rank_order, with_rank
from curate.manifest.rows import ScoredRow, manifest_schema, scored_table
from curate.report.viewer.look import Filters, Look, Range, read_look
from curate.report.viewer.table import BINS, Table

METRICS = ["cosine", "l0"]
LABELS = [None, "", "clean", "blank image"]
COLUMNS = ["rank", *METRICS, "n_text_tokens", "n_image_tokens", "source_row"]

# Few values, so that there are ties; few ids, so that there are copies.
row = st.tuples(
    st.integers(0, 6),
    st.floats(-3, 3).map(lambda value: round(value, 1)),
    st.integers(0, 3).map(float),
    st.integers(1, 9),
    st.sampled_from(LABELS),
)
tables = st.lists(row, min_size=1, max_size=25)
annotated = st.dictionaries(
    st.integers(0, 6), st.tuples(st.sampled_from(["keep", "drop", None]), st.booleans(), st.sampled_from(["", "odd"]))
)
looks = st.builds(
    Look,
    by=st.sampled_from(METRICS),
    keep_by=st.sampled_from(["ratio", "score"]),
    ratio=st.integers(1, 20).map(lambda twentieths: Decimal(twentieths) / 20),
    min_score=st.none() | st.floats(-3, 3),
    sort=st.none() | st.sampled_from(COLUMNS),
    ascending=st.booleans(),
    filters=st.builds(
        Filters,
        labels=st.lists(st.sampled_from(["clean", "blank image", "none such"]), unique=True).map(tuple),
        unlabelled=st.booleans(),
        ranges=st.lists(
            st.builds(Range, st.sampled_from(COLUMNS), st.none() | st.integers(-2, 5), st.none() | st.integers(-2, 9)),
            max_size=2,
        ).map(tuple),
        side=st.sampled_from(["all", "kept", "dropped"]),
        said=st.sampled_from(["anything", "pinned", "noted", "overridden"]),
    ),
)


def name(number: int) -> str:
    return f"{number:032x}"


def write(folder: Path, rows: list[tuple]) -> Path:
    """A manifest as scoring writes it."""
    scored = [
        ScoredRow(name(who), source_row, {"cosine": cosine, "l0": l0}, n, 30 - n, False, 0, label, [(1, 0.5)])
        for source_row, (who, cosine, l0, n, label) in enumerate(rows)
    ]
    ordered = scored_table(scored, METRICS).sort_by(rank_order("cosine"))
    file = folder / "manifest.parquet"
    pq.write_table(with_rank(ordered, "cosine", 1).cast(manifest_schema(METRICS)), file, row_group_size=4)
    return file


def annotations(said: dict[int, tuple]) -> dict[str, Annotation]:
    return {
        name(who): Annotation(sample_id=name(who), decision=decision, pinned=pinned, note=note, by="ann", at="now")
        for who, (decision, pinned, note) in said.items()
    }


def expected(rows: list[dict[str, Any]], look: Look, said: dict[str, Annotation]) -> tuple[list[int], set[int]]:
    """The ranks that are shown, in order, and all that are kept; in plain Python."""
    best = sorted(rows, key=lambda row: (-row[look.by], row["sample_id"], row["source_row"]))
    if "ratio" in look.rule:
        keep = max(1, int(look.ratio * len(rows) + Decimal("0.5")))
        kept = {row["rank"] for row in best[:keep]}
    else:
        kept = {row["rank"] for row in rows if row[look.by] >= look.min_score}
    for each in rows:
        decision = said[each["sample_id"]].decision if each["sample_id"] in said else None
        if decision == "keep":
            kept.add(each["rank"])
        if decision == "drop":
            kept.discard(each["rank"])

    def passes(row: dict[str, Any]) -> bool:
        filters, what = look.filters, said.get(row["sample_id"])
        if (filters.labels or filters.unlabelled) and not (
            row["quality"] in filters.labels or (filters.unlabelled and not row["quality"])
        ):
            return False
        for column, least, most in filters.ranges:
            if (least is not None and row[column] < least) or (most is not None and row[column] > most):
                return False
        if filters.side != "all" and (row["rank"] in kept) != (filters.side == "kept"):
            return False
        wanted = {
            "anything": True,
            "pinned": what and what.pinned,
            "noted": what and what.note,
            "overridden": what and what.decision,
        }
        return bool(wanted[filters.said])

    column, sign = look.sort or look.by, 1 if look.ascending else -1
    ordered = sorted(rows, key=lambda row: (sign * row[column], row["sample_id"], row["source_row"]))
    return [row["rank"] for row in ordered if passes(row)], kept


@given(tables, looks, annotated)
@settings(max_examples=150)
def test_what_is_shown_and_kept_is_what_brute_force_finds(tmp_path_factory, rows, look, said):
    file = write(tmp_path_factory.mktemp("table"), rows)
    table, by_hand = Table(file, METRICS, len(rows)), pq.read_table(file).to_pylist()
    table.annotate(annotations(said))
    shown, kept = expected(by_hand, look, annotations(said))
    assert table.shown(look).tolist() == shown
    assert (table.kept(look).nonzero()[0] + 1).tolist() == sorted(kept)
    answer = table.answer(look)
    assert (answer.kept, answer.shown, answer.shown_kept) == (len(kept), len(shown), len(kept & set(shown)))
    assert sum(each.kept for each in answer.bins) == answer.shown_kept
    assert sum(each.kept + each.dropped for each in answer.bins) == answer.shown
    on_page = [each for each in by_hand if each["rank"] in shown]
    for label, n_rows, n_kept in answer.labels:
        labelled = [each["rank"] for each in on_page if (each["quality"] or None) == label]
        assert (n_rows, n_kept) == (len(labelled), len(kept & set(labelled)))
    assert table.rows(shown) == [by_hand[rank - 1] for rank in shown]


@given(tables, st.sampled_from(METRICS))
@settings(max_examples=30)
def test_a_row_s_place_is_its_rank_by_the_metric(tmp_path_factory, rows, metric):
    file = write(tmp_path_factory.mktemp("table"), rows)
    table, by_hand = Table(file, METRICS, len(rows)), pq.read_table(file).to_pylist()
    best = sorted(by_hand, key=lambda row: (-row[metric], row["sample_id"], row["source_row"]))
    assert [table.place(metric, row["rank"]) for row in best] == list(range(1, len(rows) + 1))


@given(tables, looks)
@settings(max_examples=50)
def test_an_address_leads_back_to_the_look_it_is_of(rows, look):
    if look.keep_by == "ratio":
        look = look.model_copy(update={"min_score": None})  # which says nothing then
    ranges = {each.column: each for each in look.filters.ranges if (each.least, each.most) != (None, None)}
    look = look.model_copy(update={"filters": look.filters.model_copy(update={"ranges": tuple(ranges.values())})})
    assert read_look(parse_qsl(look.address()), METRICS, COLUMNS) == look
    assert read_look(parse_qsl(look.address(page=7)), METRICS, COLUMNS) == look.model_copy(update={"page": 7})


def test_a_bar_holds_the_scores_of_its_part_of_the_range(tmp_path):
    values = [0.0] * 3 + [0.5] * 2 + [1.0]
    file = write(tmp_path, [(place, value, 0.0, 1, None) for place, value in enumerate(values)])
    bins = Table(file, METRICS, 6).answer(Look(by="cosine", ratio=Decimal("0.5"))).bins
    filled = {place: (each.kept, each.dropped) for place, each in enumerate(bins) if each.kept or each.dropped}
    assert len(bins) == BINS
    assert list(filled.values()) == [(0, 3), (2, 0), (1, 0)]
    assert 0 in filled
    assert BINS - 1 in filled


def test_a_folder_named_like_a_pattern_is_read_as_it_is_named(tmp_path):
    folder = tmp_path / "[a-z]*?"
    folder.mkdir()
    write(tmp_path, [(0, 9.0, 0.0, 1, None)])
    assert Table(write(folder, [(0, 1.0, 0.0, 1, None)]), METRICS, 1).rows([1])[0]["cosine"] == 1.0


def test_samples_are_found_by_rank_and_by_the_beginning_of_their_id(tmp_path):
    table = Table(write(tmp_path, [(place, float(-place), 0.0, 1, None) for place in range(3)]), METRICS, 3)
    assert [table.find(text) for text in ("2", "#2", " 3 ", name(1))] == [2, 2, 3, 2]
    assert [table.find(text) for text in ("4", "#0", "-1", "x' OR 1=1 --", "9" * 30, "")] == [None] * 6


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"by": "ifd"}, "the run has cosine, l0"),
        ({"sort": "nothing"}, "no column nothing"),
        ({"least.1; DROP TABLE manifest": "1"}, "no column 1; DROP TABLE manifest"),
        ({"least.l0": "many"}, "many is not a number"),
        ({"ratio": "0"}, "ratio"),
        ({"ratio": "2"}, "ratio"),
        ({"min_score": "nan"}, "min_score"),
        ({"page": "0"}, "page"),
        ({"side": "left"}, "side"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_an_address_that_asks_for_what_there_is_not_is_refused(query, says):
    with pytest.raises(ConfigurationError, match=says):
        read_look(query.items(), METRICS, COLUMNS)


def test_an_id_that_could_be_several_is_refused(tmp_path):
    table = Table(write(tmp_path, [(place, 0.0, 0.0, 1, None) for place in (1, 2)]), METRICS, 2)
    with pytest.raises(ConfigurationError, match="several"):
        table.find("0000a"[:4])


def test_scores_of_the_largest_and_the_nearest_numbers_have_bars(tmp_path):
    for values in ([-1e308, 0.0, 1e308], [0.1, float(np.nextafter(0.1, 1))]):
        rows = [(place, value, 0.0, 1, None) for place, value in enumerate(values)]
        answer = Table(write(tmp_path, rows), METRICS, len(rows)).answer(Look(by="cosine"))
        assert sum(each.kept + each.dropped for each in answer.bins) == len(rows)
        assert answer.bins[-1].kept == 1


def test_labels_beyond_the_most_common_are_counted_together(tmp_path, monkeypatch):
    monkeypatch.setattr("curate.report.viewer.table._MOST_LABELS", 1)
    rows = [(place, float(place), 0.0, 1, label) for place, label in enumerate(("a", "a", "b", "c"))]
    labels = Table(write(tmp_path, rows), METRICS, 4).answer(Look(by="cosine", ratio=Decimal("0.25"))).labels
    assert labels == [("a", 2, 0), ("(any other)", 2, 1)]


def test_a_manifest_that_is_damaged_is_said_to_be(tmp_path):
    file = write(tmp_path, [(place, 0.0, 0.0, 1, None) for place in range(20)])
    table = Table(file, METRICS, 20)
    data = bytearray(file.read_bytes())
    data[4:400] = bytes(396)
    file.write_bytes(data)
    with pytest.raises(DataError, match="manifest"):
        table.rows(range(1, 21))
