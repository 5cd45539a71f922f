"""The demo bench: drawn scenes that nothing in this repository learns from, and questions with known answers."""

import io
import json
import random
import re
from collections import Counter
from dataclasses import astuple

from curate.datasets.demo import (
    COLOURS,
    KINDS,
    NUMBERS,
    QUADRANTS,
    SHAPES,
    Question,
    Scene,
    answer,
    draw_scene,
    questions,
    render,
)
from curate.evaluation.benches.bench import Bench
from curate.evaluation.benches.bench import Question as BenchQuestion
from curate.evaluation.rules import RULES
from curate.fingerprint import text_sha256

NAME = "demo"
QUESTIONS = 200
# Of no data set that anything here learns from, ranks or is judged on.
SEED = 7_000_003
# The longest right answer, four objects, has 35 tokens.
MAX_NEW_TOKENS = 64

_FACTS = re.compile(rf"\b({'|'.join((*QUADRANTS, *COLOURS, *SHAPES, *NUMBERS, 'nothing'))})\b")
_ITEMS = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) in the ({'|'.join(QUADRANTS)})\b")


def open_demo() -> Bench:
    """Every kind of question in turn, each about a scene of its own."""
    asked = tuple(_question(row) for row in range(QUESTIONS))
    return Bench(
        name=NAME,
        questions=asked,
        sha256=text_sha256(json.dumps([SEED, *map(astuple, asked)])),
        rules=dict.fromkeys(KINDS, RULES["llava_bench_conv"]),
        image_bytes=_png,
        share_right=share_right,
        max_new_tokens=MAX_NEW_TOKENS,
    )


def share_right(question: BenchQuestion, text: str) -> float:
    """How right an answer is, 0 to 1, by what it says and not by its wording.

    For `describe`, the F1 of its items (colour, shape and place) and those of the scene; one that is named twice is
    invented the second time. For all else, 1 where the answer names the very colours, shapes, numbers and places that
    the reference answer does, those of the question left out, else 0.
    """
    text = text.lower()
    if question.category == "describe":
        said, there = Counter(_ITEMS.findall(text)), Counter(_ITEMS.findall(question.reference.lower()))
        return 2 * (said & there).total() / (said.total() + there.total())
    asked = set(_FACTS.findall(question.text.lower()))
    said, right = (set(_FACTS.findall(answer)) - asked for answer in (text, question.reference.lower()))
    return float(said == right)


def _drawn(row: int) -> tuple[Scene, Question, random.Random]:
    rng, kind = random.Random(f"bench:{SEED}:{row}"), KINDS[row % len(KINDS)]
    while True:
        scene = draw_scene(rng)
        if fitting := [question for question in questions(scene) if question.kind == kind]:
            return scene, rng.choice(fitting), rng


def _question(row: int) -> BenchQuestion:
    scene, question, _ = _drawn(row)
    right, described = answer(question, scene), answer(Question("describe", ""), scene)
    assert right is not None  # `questions` has only those that the scene answers
    assert described is not None
    return BenchQuestion(row, question.kind, question.text, f"{row:08d}.png", described, right, f"demo-{row}")


def _png(name: str) -> bytes:
    scene, _, rng = _drawn(int(name.removesuffix(".png")))
    png = io.BytesIO()
    render(scene, rng).save(png, "PNG")
    return png.getvalue()
