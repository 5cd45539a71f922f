"""Labels in each form that Neuronpedia's exports come in."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import ConfigurationError
from curate.interpret.labels import read_labels

LABELS = st.dictionaries(st.integers(0, 70_000), st.text(min_size=1).map(str.strip).filter(bool), min_size=1)


def rows(labels, text=str):
    extra = {"modelId": "gemma-2-2b", "layer": "20-gemmascope-res-16k", "typeName": "oai_token-act-pair"}
    return [{**extra, "index": text(index), "description": label} for index, label in labels.items()]


FORMS = {
    "list": lambda labels: json.dumps(rows(labels)),
    "numbers": lambda labels: json.dumps(rows(labels, int)),
    "lines": lambda labels: "\n".join(map(json.dumps, rows(labels))),
    "explanations": lambda labels: json.dumps({"explanations": rows(labels)}),
    "features": lambda labels: json.dumps([{"index": "0", "explanations": [row]} for row in rows(labels)]),
    "plain": lambda labels: json.dumps({str(index): label for index, label in labels.items()}),
}


@pytest.mark.parametrize("form", FORMS)
@given(labels=LABELS)
def test_labels_come_back_from_each_form(tmp_path_factory, form, labels):
    file = tmp_path_factory.mktemp("labels") / "labels.json"
    file.write_text(FORMS[form](labels), encoding="utf-8")
    assert read_labels(file) == labels


def test_of_several_labels_the_first_counts(tmp_path):
    file = tmp_path / "labels.jsonl"
    file.write_text("\n".join(map(json.dumps, rows({3: "first"}) + rows({3: "second"}))))
    assert read_labels(file) == {3: "first"}


@pytest.mark.parametrize(
    "text", ["", "[", "17", '"label"', '[{"index": 3}]', '[{"index": "x", "description": "y"}]', "[" * 100_000]
)
def test_what_holds_no_labels_is_refused(tmp_path, text):
    file = tmp_path / "labels.json"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match="--labels"):
        read_labels(file)


def test_a_row_without_a_label_is_passed_over_and_an_index_that_is_no_number_refused(tmp_path):
    file = tmp_path / "labels.json"
    file.write_text('[{"index": 3, "description": null}, {"index": 4, "description": "four"}]')
    assert read_labels(file) == {4: "four"}
    file.write_text('[{"index": 1e999, "description": "far"}]')
    with pytest.raises(ConfigurationError, match="--labels"):
        read_labels(file)


def test_a_missing_file_and_bytes_that_are_no_text_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_labels(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_labels(tmp_path / "bytes.json")
