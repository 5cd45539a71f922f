"""Every kind of bad input, and a good row beside it."""

import json

import pytest

from curate.datasets import DatasetSpec, open_dataset
from curate.errors import SampleError
from curate.manifest.rows import QuarantineRow
from curate.scoring.prepare import Prepared, prepare
from tests.hostile import ROWS, TABLES
from tests.hostile.rows import good_rows


def outcomes(spec: DatasetSpec, builder) -> dict[int, Prepared | QuarantineRow]:
    dataset = open_dataset(spec)
    found = list(prepare(dataset.samples(range(len(dataset))), builder, "prompt+chosen"))
    assert [row.source_row for row in found] == list(range(len(dataset)))
    return dict(enumerate(found))


def check(row: Prepared | QuarantineRow, kind) -> None:
    if kind.becomes is None:
        assert isinstance(row, Prepared), row
        return
    assert isinstance(row, QuarantineRow)
    assert (row.error, row.stage) == (kind.becomes.__name__, kind.becomes.stage), row
    assert kind.says in row.reason, row
    assert row.reason.isprintable()
    assert len(row.reason) < 300


@pytest.mark.parametrize("kind", ROWS, ids=lambda kind: f"{kind.where}: {kind.name}")
def test_rows(kind, tmp_path, demo_builder):
    before, bad, after = good_rows(tmp_path, 3)
    lines = [json.dumps(before).encode(), kind.line(bad, tmp_path), json.dumps(after).encode()]
    (tmp_path / "data.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    found = outcomes(DatasetSpec(name=str(tmp_path / "data.jsonl")), demo_builder)
    assert isinstance(found[0], Prepared)
    assert isinstance(found[2], Prepared)
    check(found[1], kind)
    assert (found[1].sample_id is not None) == (kind.has_id or kind.becomes is None)


@pytest.mark.parametrize("kind", TABLES, ids=lambda kind: f"{kind.where}: {kind.name}")
def test_tables(kind, tmp_path, demo_builder):
    spec = kind.dataset(tmp_path)
    if kind.becomes and not issubclass(kind.becomes, SampleError):
        with pytest.raises(kind.becomes) as caught:
            open_dataset(spec)
        assert kind.says in str(caught.value)
        assert str(caught.value).isprintable()
        return
    for row, outcome in outcomes(spec, demo_builder).items():
        if row in kind.bad:
            check(outcome, kind)
        else:
            assert isinstance(outcome, Prepared), outcome


def test_there_are_many_kinds_each_with_its_own_name():
    names = {(kind.where, kind.name) for kind in [*ROWS, *TABLES]}
    assert len(names) == len(ROWS) + len(TABLES) >= 60
