"""`curate saes`, for readers and for programs."""

import json
from pathlib import Path

import jsonschema
import pytest

from curate.sae.known import KnownSAEs, known_saes
from tests.command import curate

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "saes.schema.json").read_text())


def listed(*options):
    result = curate("saes", *options)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("options", [(), ("--model", "chameleon-7b"), ("--model", "nope")])
def test_json_is_valid_by_its_schema(options):
    found = json.loads(listed("--json", *options))
    jsonschema.validate(found, SCHEMA)
    read = KnownSAEs.model_validate(found).root
    assert all(sae in known_saes() for sae in read)


def test_all_are_listed():
    assert KnownSAEs.model_validate_json(listed("--json")).root == known_saes()
    text = listed()
    for sae in known_saes():
        assert f"{sae.name}{'* ' if sae.pickled else ' '}" in text
    assert "Default for llava-hf/llava-v1.6-mistral-7b-hf: sae-v-llava-next-7b" in text
    assert "Default for facebook/chameleon-7b: sae-v-chameleon-7b" in text
    assert "--sae NAME:LAYER" in text
    assert "* A pickle" in text


@pytest.mark.parametrize("columns", ["100", "80"])
def test_the_table_fits_and_nothing_is_cut(columns, monkeypatch):
    monkeypatch.setattr("curate.cli.console.OUT._width", int(columns))
    text = listed()
    assert max(map(len, text.splitlines())) <= int(columns)
    assert "…" not in text
    if columns == "100":
        row = next(line for line in text.splitlines() if line.startswith("sae-v-chameleon-7b"))
        assert " ".join(row.split()) == "sae-v-chameleon-7b 8 131,072 standard images and CC BY-NC 4.0 -"


def test_a_model_is_named_in_full_or_by_its_last_part():
    names = [sae["name"] for sae in json.loads(listed("--json", "--model", "llava-hf/llava-v1.6-mistral-7b-hf"))]
    assert names == ["sae-v-llava-next-7b", "mistral-7b-wg"]
    assert [sae["name"] for sae in json.loads(listed("--json", "--model", "LLaVA-v1.6-Mistral-7B-hf"))] == names
    text = listed("--model", "chameleon-7b")
    assert "sae-v-chameleon-7b" in text
    assert "sae-v-llava-next-7b" not in text
    assert "pickle" not in text


def test_a_model_that_nothing_fits():
    text = listed("--model", "team/[red]model")
    advice = "curate sae train --model team/[red]model --hook-layer N --dataset DATA --output DIR"
    assert text == f"no known SAE fits team/[red]model; train one with: {advice}\n"
    command = advice.replace(" N ", " 3 ").replace("DATA", "the-pile").split()[1:]
    assert curate(*command, "--print-job").exit_code == 0
    assert json.loads(listed("--model", "team/model", "--json")) == []
