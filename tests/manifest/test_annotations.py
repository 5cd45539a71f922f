"""What people say of samples: kept whole, in order, with who said it; and what a selection makes of their decisions."""

import json
import re
import subprocess
import sys
from decimal import Decimal

import hypothesis.strategies as st
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from pydantic import ValidationError
from upath import UPath

from curate.errors import ConfigurationError, DataError
from curate.fingerprint import file_sha256
from curate.manifest.annotations import ANNOTATIONS, Annotation, annotate, overrides, read_annotations
from curate.manifest.record import MANIFEST
from curate.manifest.select import SelectJob, select
from curate.manifest.selection import SELECTION, read_selection
from tests.manifest.test_run_folder import make_run

IDS = [f"{row:032x}" for row in range(12)]


def said(sample_id: str, decision: str | None = None, by: str = "ann", **more) -> Annotation:
    return Annotation.model_validate(
        {"sample_id": sample_id, "decision": decision, "by": by, "at": "2026-01-01T00:00:00+00:00", **more}
    )


def write(file, *annotations: Annotation):
    for each in annotations:
        annotate(file, each.sample_id, each.by, each.model_dump(include={"decision", "pinned", "note"}))
    return file


def test_of_a_sample_the_last_line_counts_and_those_before_it_stay(tmp_path):
    file = write(tmp_path / ANNOTATIONS, said(IDS[0], "drop"), said(IDS[1], "keep"), said(IDS[0], "keep", by="bob"))
    found = read_annotations(file)
    assert {name: (each.decision, each.by) for name, each in found.items()} == {
        IDS[0]: ("keep", "bob"),
        IDS[1]: ("keep", "ann"),
    }
    assert len(file.read_text().splitlines()) == 3


def test_whatever_is_written_in_a_note_is_one_line_and_comes_back(tmp_path):
    note = 'one\ntwo\u2028three\r "quoted" <b>\x00 \U0001f600 \u202e'
    file = write(tmp_path / ANNOTATIONS, said(IDS[0], note=note), said(IDS[1]))
    assert file.read_bytes().count(b"\n") == 2
    assert read_annotations(file)[IDS[0]].note == note


def test_a_line_that_was_cut_off_is_not_read_and_the_next_one_takes_its_place(tmp_path):
    file = write(tmp_path / ANNOTATIONS, said(IDS[0], "keep"), said(IDS[1], "drop"))
    file.write_bytes(file.read_bytes()[:-20])
    assert set(read_annotations(file)) == {IDS[0]}
    write(file, said(IDS[2], "keep"))
    assert set(read_annotations(file)) == {IDS[0], IDS[2]}


def test_a_last_line_without_a_line_break_that_is_whole_counts_and_stays(tmp_path):
    file = write(tmp_path / ANNOTATIONS, said(IDS[0], "keep"), said(IDS[1], "drop"))
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    assert set(read_annotations(file)) == {IDS[0], IDS[1]}
    write(file, said(IDS[2], "keep"))
    assert set(read_annotations(file)) == {IDS[0], IDS[1], IDS[2]}


def test_what_is_not_said_anew_stays(tmp_path):
    file = write(tmp_path / ANNOTATIONS, said(IDS[0], "keep", note="odd", pinned=True))
    annotate(file, IDS[0], "bob", {"decision": "drop"})
    found = read_annotations(file)[IDS[0]]
    assert (found.decision, found.note, found.pinned, found.by) == ("drop", "odd", True, "bob")


def test_several_processes_lose_nothing_that_is_said(tmp_path):
    """Each says one thing of every sample; all of it must hold in the end."""
    file = tmp_path / ANNOTATIONS
    code = """
import sys
from pathlib import Path
from curate.manifest.annotations import annotate
what = {"pinned": {"pinned": True}, "decision": {"decision": "keep"}}[sys.argv[2]]
for row in range(100):
    annotate(Path(sys.argv[1]), f"{row:032x}", sys.argv[2], what)
"""
    speakers = [subprocess.Popen([sys.executable, "-c", code, file, field]) for field in ("pinned", "decision")]
    assert [speaker.wait(120) for speaker in speakers] == [0, 0]
    assert len(file.read_text().splitlines()) == 200
    assert {(each.pinned, each.decision) for each in read_annotations(file).values()} == {(True, "keep")}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{}", "sample_id"),
        ("not JSON", "JSON"),
        (json.dumps({**said(IDS[0]).model_dump(), "decision": "maybe"}), "decision"),
        (json.dumps({**said(IDS[0]).model_dump(), "sample_id": "../x"}), "sample_id"),
        (json.dumps({**said(IDS[0]).model_dump(), "other": 1}), "other"),
    ],
)
def test_a_damaged_line_is_named_by_its_number(tmp_path, line, says):
    file = write(tmp_path / ANNOTATIONS, said(IDS[0], "keep"))
    with file.open("a") as lines:
        lines.write(f"{line}\n")
    with pytest.raises(DataError, match=f"line 2.*{says}"):
        read_annotations(file)


def test_without_a_file_nothing_was_said(tmp_path):
    assert read_annotations(tmp_path / ANNOTATIONS) == {}


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"annotations\.jsonl cannot be written"):
        write(tmp_path / "missing" / ANNOTATIONS, said(IDS[0]))


def test_pins_and_notes_are_no_overrides(tmp_path):
    found = overrides([said(IDS[2], "drop"), said(IDS[1], pinned=True), said(IDS[0], note="odd"), said(IDS[3], "keep")])
    assert [(name, each.decision) for name, each in found.items()] == [(IDS[2], "drop"), (IDS[3], "keep")]


def test_a_note_has_a_longest_length():
    with pytest.raises(ValidationError):
        said(IDS[0], note="x" * 2001)


def in_selection(folder: UPath) -> list[str]:
    return pq.read_table(str(folder / SELECTION))["sample_id"].to_pylist()


@given(
    decisions=st.dictionaries(st.sampled_from(IDS), st.sampled_from(["keep", "drop"])),
    keep=st.integers(1, 10),
    by=st.sampled_from(["cosine", "l0"]),
)
def test_decisions_come_after_the_rule(tmp_path_factory, decisions, keep, by):
    """By brute force: the best by the rule, without what was dropped, with what was kept, in the metric's order."""
    run = make_run(tmp_path_factory.mktemp("run") / "run")
    file = write(run / ANNOTATIONS, *(said(name, decision) for name, decision in decisions.items()))
    job = SelectJob(run=str(run), by=by, top=keep, overrides=str(file) if decisions else None)
    rows = pq.read_table(run / MANIFEST).to_pylist()
    ordered = sorted(rows, key=lambda row: (-row[by], row["sample_id"]))
    expected = [
        (place, row["sample_id"], row["source_row"], row[by])
        for place, row in enumerate(ordered, start=1)
        if decisions.get(row["sample_id"], "keep" if place <= keep else "drop") == "keep"
    ]
    if not expected:
        with pytest.raises(ConfigurationError, match="drops every sample"):
            select(job)
        return
    folder, record = select(job)
    found = pq.read_table(str(folder / SELECTION)).to_pylist()
    assert [tuple(row.values()) for row in found] == expected
    there = {row["sample_id"] for row in rows}
    assert {each.sample_id: each.decision for each in record.overrides} == {
        name: decision for name, decision in decisions.items() if name in there
    }
    assert record.overrides_elsewhere == len(set(decisions) - there)
    assert record.selected == len(expected)


def test_a_selection_says_who_decided_and_when(tmp_path):
    run = make_run(tmp_path / "run")
    file = write(run / ANNOTATIONS, said(IDS[0], "keep", by="ann", note="rare"), said(IDS[3], "drop", by="bob"))
    folder, _ = select(SelectJob(run=str(run), top=4, overrides=str(file)))
    assert re.fullmatch(r"cosine-top-4-overrides-[0-9a-f]{8}", folder.name)
    record = read_selection(str(folder)).record
    assert [(each.sample_id, each.decision, each.by, each.note) for each in record.overrides] == [
        (IDS[0], "keep", "ann", "rare"),
        (IDS[3], "drop", "bob", ""),
    ]


def test_without_decisions_it_is_the_rule_s_selection_byte_for_byte(tmp_path):
    run = make_run(tmp_path / "run")
    file = write(run / ANNOTATIONS, said(IDS[0], pinned=True))
    folder, record = select(SelectJob(run=str(run), ratio=Decimal("0.5")))
    hashes = file_sha256(folder / SELECTION), file_sha256(folder / "selection.json")
    again, same = select(SelectJob(run=str(run), ratio=Decimal("0.5"), overrides=str(file)))
    assert (again, same) == (folder, record)
    assert hashes == (file_sha256(folder / SELECTION), file_sha256(folder / "selection.json"))


def test_other_decisions_make_another_selection(tmp_path):
    run = make_run(tmp_path / "run")
    job = SelectJob(run=str(run), top=4, overrides=str(write(run / ANNOTATIONS, said(IDS[3], "drop"))))
    folder, _ = select(job)
    assert IDS[3] not in in_selection(folder)
    write(run / ANNOTATIONS, said(IDS[3], None), said(IDS[0], "keep"))
    other, _ = select(job)
    assert {IDS[0], IDS[3]} <= set(in_selection(other))
    assert IDS[3] not in in_selection(folder)


def test_of_no_sample_there_is_no_selection(tmp_path):
    run = make_run(tmp_path / "run")
    file = write(run / ANNOTATIONS, said(IDS[3], "drop"))
    with pytest.raises(ConfigurationError, match="drops every sample"):
        select(SelectJob(run=str(run), top=1, overrides=str(file)))
    assert not list(run.rglob(SELECTION))
    write(file, said(IDS[0], "keep"))
    folder, _ = select(SelectJob(run=str(run), min_score=99, overrides=str(file)))
    assert in_selection(folder) == [IDS[0]]


def test_a_file_of_decisions_that_is_not_there_is_refused(tmp_path):
    run = make_run(tmp_path / "run")
    with pytest.raises(ConfigurationError, match=r"--overrides .*: there is no such file"):
        select(SelectJob(run=str(run), top=4, overrides=str(tmp_path / "none")))
