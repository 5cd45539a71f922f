"""The benches: published formats whole, hostile ones refused, the demo's right answers right."""

import json
from collections import Counter

import numpy as np
import pytest

from curate.datasets.demo import COLOURS, KINDS, QUADRANTS
from curate.errors import BadImagePath, ConfigurationError, DataError
from curate.evaluation.benches import open_bench
from curate.evaluation.benches.bench import Question
from curate.evaluation.benches.demo import share_right
from curate.evaluation.rules import RULES, prompt


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "folder", "reference", "n"),
    [
        ("llava-bench-in-the-wild", "llava_bench_in_the_wild", "answers_gpt4.jsonl", 60),
        ("llava-bench-coco", "llava_bench_coco", "qa90_gpt4_answer.jsonl", 90),
        (None, "llava_bench_photos", "answers_reference.jsonl", 87),
        (None, "llava_bench_coco", "qa90_gpt4_answer.jsonl", 90),
    ],
)
def test_published_folders_load_whole(real_data, name, folder, reference, n):
    """Without their images: every question with the context of its image and the reference answer of its id."""
    path = real_data / folder
    bench = open_bench(name or str(path), str(path) if name else None)
    contexts = {}
    for file in path.glob("c*.jsonl"):
        for row in lines(file):
            boxes = [f"{each['category']}: {each['bbox']}" for each in row.get("instances", ())]
            parts = [row["caption"]] if "caption" in row else [*row["captions"], "", *boxes]
            contexts[row["image"]] = "\n".join(parts)
    answers = {row["question_id"]: row["text"] for row in lines(path / reference)}
    asked = lines(next(path.glob("*questions.jsonl")))
    assert len(bench.questions) == len(asked) == n
    for question, row in zip(bench.questions, asked, strict=True):
        assert (question.question_id, question.text, question.image) == (row["question_id"], row["text"], row["image"])
        assert question.context == contexts[row["image"]]
        assert question.reference == answers[row["question_id"]]
        assert question.category.removeprefix("llava_bench_") == row["category"]
        assert question.category in bench.rules
    if "photos" not in folder:
        with pytest.raises(ConfigurationError, match=r"\d+ of its \d+ images .* the first: .* --images"):
            bench.images_sha256()


def test_rules_and_prompt_are_the_published_ones(real_data):
    table = json.loads((real_data / "llava_bench_coco" / "rule.json").read_text())
    assert {name: rule.model_dump() for name, rule in RULES.items()} == {name: table[name] for name in RULES}
    said = prompt(RULES["conv"], "C", "Q", "A", "B")
    assert said == (
        "[Context]\nC\n\n[Question]\nQ\n\n[Assistant 1]\nA\n\n[End of Assistant 1]\n\n[Assistant 2]\nB\n\n"
        f"[End of Assistant 2]\n\n[System]\n{table['conv']['prompt']}\n\n"
    )


def test_photographs_are_found_in_their_own_folder(real_data):
    bench = open_bench(str(real_data / "llava_bench_photos"), images=str(real_data / "photos"))
    assert len(bench.images_sha256()) == 64
    assert bench.image(bench.questions[0]).mode == "RGB"


def write_bench(folder, **changes):
    """A bench of one question in the in-the-wild layout."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {
        "questions": {"question_id": 0, "image": "a.png", "text": "<image>\nWhat?", "category": "conv"},
        "context": {"image": "a.png", "caption": ["One.", "Two."]},
        "answers_gpt4": {"question_id": 0, "text": "That.", "answer_id": "x"},
    }
    for name, row in rows.items():
        changed = changes.get(name, {})
        text = changed if isinstance(changed, str) else json.dumps({**row, **changed})
        (folder / f"{name}.jsonl").write_text(text + "\n")
    return folder


def test_a_folder_is_a_bench_by_its_files(tmp_path):
    (question,) = open_bench(str(write_bench(tmp_path))).questions
    assert question == Question(0, "llava_bench_conv", "What?", "a.png", "One.\nTwo.", "That.", "x")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"context": {"image": "b.png"}}, DataError, "no context of a.png, which question 0"),
        ({"answers_gpt4": {"question_id": 1}}, DataError, "no answer to question 0"),
        ({"questions": "{"}, DataError, r"questions\.jsonl:1: "),
        ({"questions": {"text": 3}}, DataError, r"questions\.jsonl:1: text: "),
        ({"questions": ""}, DataError, "has no question"),
        ({"questions": {"category": "odd"}}, ConfigurationError, "no rule for the category llava_bench_odd"),
    ],
)
def test_a_bench_that_is_not_whole_is_refused_by_name(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        open_bench(str(write_bench(tmp_path, **changes)))


def test_a_question_twice_is_refused(tmp_path):
    file = write_bench(tmp_path) / "questions.jsonl"
    file.write_text(file.read_text() * 2)
    with pytest.raises(DataError, match="question 0 twice"):
        open_bench(str(tmp_path))


def test_rules_of_the_folder_come_first(tmp_path):
    write_bench(tmp_path, questions={"category": "odd"})
    (tmp_path / "rule.json").write_text(json.dumps({"llava_bench_odd": {"role": "Bot", "prompt": "Judge."}}))
    assert open_bench(str(tmp_path)).rules["llava_bench_odd"].role == "Bot"


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "http://host/a.png", "file:///etc/hostname"])
def test_images_stay_in_their_folder(tmp_path, name):
    (tmp_path / "secret.png").write_bytes(b"x")
    change = {"image": name}
    bench = open_bench(str(write_bench(tmp_path / "bench", questions=change, context=change)))
    with pytest.raises(BadImagePath):
        bench.image_bytes(name)
    with pytest.raises(ConfigurationError, match="1 of its 1 images"):
        bench.images_sha256()


def test_coco_images_may_have_cocos_names(tmp_path, real_data):
    bench = open_bench("llava-bench-coco", str(real_data / "llava_bench_coco"), str(tmp_path))
    name = bench.questions[0].image
    (tmp_path / f"COCO_val2014_{name}").write_bytes(b"there")
    assert bench.image_bytes(name) == b"there"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "nowhere"}, "none of demo, llava-bench-in-the-wild"),
        ({"name": "llava-bench-coco"}, "--data-dir"),
        ({"name": "demo", "images": "x"}, "do not go with the demo"),
    ],
)
def test_a_bench_that_is_none_is_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        open_bench(**options)


def test_the_demo_bench_is_even_and_its_own_answers_are_right():
    bench = open_bench("demo")
    counts = Counter(question.category for question in bench.questions)
    assert set(counts) == set(KINDS)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert all(share_right(question, question.reference) == 1 for question in bench.questions)
    assert bench.sha256 == open_bench("demo").sha256
    assert len(open_bench("demo", limit=7).questions) == 7


def test_the_demo_benchs_images_show_what_is_answered():
    """The brightest pixels of a quadrant have the colour that the context names there; an empty one is dark."""
    bench = open_bench("demo")
    for question in bench.questions[:12]:
        pixels = np.asarray(bench.image(question)).astype(float)
        height, width = (size // 2 for size in pixels.shape[:2])
        for number, name in enumerate(QUADRANTS):
            top, left = number // 2 * height, number % 2 * width
            cell = pixels[top : top + height, left : left + width].reshape(-1, 3)
            spread = cell.max(1) - cell.min(1)
            told = [c for c in COLOURS if any(f"{c} {s} in the {name}" in question.context.lower() for s in SHAPES)]
            if not told:
                assert np.quantile(spread, 0.9) < 60
                continue
            shown = np.median(cell[spread > 80], axis=0)
            assert min(COLOURS, key=lambda colour: np.abs(shown - COLOURS[colour]).sum()) == told[0]


SHAPES = ("circle", "square", "triangle", "cross")


@pytest.mark.parametrize(
    ("category", "asked", "reference", "answer", "share"),
    [
        ("colour", "What colour is the cross?", "The cross is red.", "Red", 1),
        ("colour", "What colour is the cross?", "The cross is red.", "The cross is blue.", 0),
        ("colour", "What colour is the cross?", "The cross is red.", "It is red or blue.", 0),
        ("colour", "What colour is the cross?", "The cross is red.", "", 0),
        ("shape", "What shape is the red object?", "The red object is a cross.", "a cross", 1),
        ("count", "How many objects are there?", "There are two objects.", "There are two objects", 1),
        ("count", "How many objects are there?", "There are two objects.", "There are three objects.", 0),
        ("where", "Where is the red cross?", "The red cross is in the top left.", "In the top left.", 1),
        ("where", "Where is the red cross?", "The red cross is in the top left.", "In the top right.", 0),
        ("what", "What is in the top left?", "Nothing is in the top left.", "Nothing.", 1),
        ("what", "What is in the top left?", "A red cross is in the top left.", "A red square.", 0),
    ],
)
def test_single_facts_are_right_or_wrong(category, asked, reference, answer, share):
    assert share_right(Question(0, category, asked, "", "", reference, ""), answer) == share


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("A red cross in the top left, a blue square in the top right.", 1),
        ("A red cross in the top left.", 2 / 3),
        ("A red cross in the top left, a blue square in the bottom right.", 1 / 2),
        ("A red cross in the top left, a red cross in the top left, a red cross in the top left.", 2 / 5),
        ("An image.", 0),
    ],
)
def test_descriptions_have_the_f1_of_their_items(answer, share):
    right = "A red cross in the top left, a blue square in the top right."
    assert share_right(Question(0, "describe", "Describe the image.", "", "", right, ""), answer) == pytest.approx(
        share
    )
