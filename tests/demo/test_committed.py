"""The committed model and dictionary are what their report says, and small."""

import json
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sae_lens import SAE

from curate import demo
from curate.datasets.demo import (
    CLEAN,
    DEFECTS,
    KINDS,
    NON_VISUAL,
    QUADRANTS,
    answer,
    ask,
    demo_row,
    draw_scene,
    questions,
    render,
    wrong_answer,
)
from curate.demo.train_model import exact_match
from curate.demo.train_sae import evaluate, hidden_tokens
from curate.models.families import inspect_model
from curate.sae.load import inspect_dictionary

REPORT = json.loads(demo.TRAINING_REPORT.read_text())


def test_weights_are_small_and_safetensors_only():
    files = [file for folder in (demo.MODEL, demo.SAE) for file in folder.rglob("*")]
    assert sum(file.stat().st_size for file in files) <= 8 * 2**20
    assert {file.suffix for file in files} <= {".json", ".jinja", ".safetensors"}
    assert 600_000 <= REPORT["model"]["parameters"] <= 3_000_000


def test_every_question_kind_is_answered_as_the_report_says():
    measured = exact_match(demo.MODEL, scenes=500)
    assert set(measured) == set(KINDS)
    for kind in KINDS:
        assert measured[kind] >= 0.95, kind
        # Greedy decoding on another processor may flip an answer or two.
        assert measured[kind] == pytest.approx(REPORT["model"]["exact_match"][kind], abs=0.01), kind


def test_the_dictionary_explains_what_its_report_says():
    info = inspect_model(str(demo.MODEL))
    measured = evaluate(demo.SAE, hidden_tokens(info, 20_000, first_row=10**8))
    assert measured["explained_variance"] >= 0.95
    assert measured["explained_variance"] == pytest.approx(REPORT["sae"]["explained_variance"], abs=0.005)
    assert measured["l0"] == pytest.approx(REPORT["sae"]["l0"], abs=0.5)
    assert REPORT["sae"]["dead_features"] < 30


def test_the_dictionary_knows_its_model_and_loads_in_sae_lens():
    info = inspect_dictionary(str(demo.SAE))
    assert (info.hook_layer, info.d_model, info.d_sae) == (demo.HOOK_LAYER, 96, 768)
    assert info.model_hash == inspect_model(str(demo.MODEL)).sha256
    sae = SAE.load_from_disk(demo.SAE)
    assert sae.cfg.metadata.hook_layer == demo.HOOK_LAYER
    assert sae.cfg.metadata.training["tokens"] == 1_500_000


def test_rows_depend_on_seed_and_position_alone():
    assert demo_row(3, 17) == demo_row(3, 17)
    assert demo_row(3, 17) != demo_row(3, 18)
    assert demo_row(3, 17) != demo_row(4, 17)


def truth(text: str, scene) -> bool:
    """Whether a sentence is true of a scene, read from its words by rules of its own."""
    text = text.lower().rstrip(".")
    items = {(item.colour, item.shape, QUADRANTS[item.quadrant]) for item in scene.items}
    if match := re.fullmatch(r"there (?:is|are) (\w+) objects?", text):
        return len(items) == ("no", "one", "two", "three", "four").index(match[1])
    if match := re.fullmatch(r"nothing is in the (\w+ \w+)", text):
        return all(quadrant != match[1] for _, _, quadrant in items)
    if match := re.fullmatch(r"(?:a|the) (\w+) (\w+) is in the (\w+ \w+)", text):
        return match.groups() in items
    if match := re.fullmatch(r"the (\w+) is (\w+)", text):
        return any((colour, shape) == (match[2], match[1]) for colour, shape, _ in items)
    if match := re.fullmatch(r"the (\w+) object is a (\w+)", text):
        return any((colour, shape) == match.groups() for colour, shape, _ in items)
    return set(re.findall(r"a (\w+) (\w+) in the (\w+ \w+)", text)) == items


def test_right_answers_are_true_and_wrong_answers_false():
    kinds = Counter()
    for index in range(400):
        rng = random.Random(index)
        scene = draw_scene(rng)
        assert 1 <= len(scene.items) <= 4
        assert all(truth(str(answer(question, scene)), scene) for question in questions(scene))
        question = ask(scene, rng)
        kinds[question.kind] += 1
        assert not truth(wrong_answer(question, scene, rng), scene)
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) > 20


def test_objects_are_drawn_where_the_scene_says():
    for index in range(50):
        rng = random.Random(f"picture:{index}")
        scene = draw_scene(rng)
        pixels = np.asarray(render(scene, rng)).astype(int)
        height, width = pixels.shape[:2]
        for quadrant in range(4):
            rows = slice(quadrant // 2 * height // 2, (quadrant // 2 + 1) * height // 2)
            columns = slice(quadrant % 2 * width // 2, (quadrant % 2 + 1) * width // 2)
            part = pixels[rows, columns]
            colourful = (part.max(axis=2) - part.min(axis=2) > 90).mean() > 0.05
            assert colourful == any(item.quadrant == quadrant for item in scene.items)


def test_defects_are_planted_and_labelled():
    rows = [demo_row(0, row) for row in range(600)]
    shares = Counter(row["quality"] for row in rows)
    assert set(shares) == {CLEAN, *DEFECTS}
    assert 0.45 < shares[CLEAN] / 600 < 0.6
    assert all(shares[defect] > 25 for defect in DEFECTS)
    trivia = {question for question, _, _ in NON_VISUAL}
    for row in rows:
        assert (row["question"] in trivia) == (row["quality"] == "non-visual text")


def test_export_writes_the_same_samples_in_align_anythings_layout(tmp_path: Path):
    from curate.datasets import DatasetSpec, open_dataset
    from curate.demo.export import export
    from curate.errors import ConfigurationError

    export(tmp_path / "demo", samples=120, seed=3)
    spec = DatasetSpec(name="align-anything", data_dir=tmp_path / "demo" / "data")
    exported, made = open_dataset(spec), open_dataset(DatasetSpec(limit=120, seed=3))
    for (_, one), (_, other) in zip(exported.samples(range(120)), made.samples(range(120)), strict=True):
        assert one == other
    assert (
        inspect_dictionary(str(tmp_path / "demo" / "sae")).model_hash
        == inspect_model(str(tmp_path / "demo" / "model")).sha256
    )
    with pytest.raises(ConfigurationError, match="not an empty folder"):
        export(tmp_path / "demo", samples=1, seed=0)
