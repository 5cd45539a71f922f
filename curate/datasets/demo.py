"""The toy world: drawn scenes, questions about them, and samples with planted defects.

Every row is a function of (seed, row), so any range of a data set of any length can be made anywhere.
Rows have align-anything's columns, and `quality`: what was planted, for reports only.
"""

import io
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 80, 220),
    "yellow": (235, 215, 40),
    "purple": (150, 50, 190),
    "cyan": (50, 205, 225),
}
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")
NUMBERS = ("no", "one", "two", "three", "four")
SIZES = ((112, 112), (112, 112), (112, 84), (84, 112), (112, 56), (56, 112))
KINDS = ("colour", "shape", "count", "where", "what", "describe")
DEFECTS = (
    "blank image",
    "noise image",
    "swapped image",
    "wrong chosen answer",
    "non-visual text",
    "truncated answer",
)
CLEAN = "clean"
CLEAN_SHARE = 0.52

NON_VISUAL = (
    ("What is the capital of France?", "The capital of France is Paris.", "The capital of France is Rome."),
    ("How many days are in a week?", "There are seven days in a week.", "There are nine days in a week."),
    ("What is two plus two?", "Two plus two is four.", "Two plus two is six."),
    ("Who wrote Hamlet?", "Shakespeare wrote Hamlet.", "Newton wrote Hamlet."),
    ("What do bees make?", "Bees make honey.", "Bees make silk."),
    ("What is the opposite of hot?", "The opposite of hot is cold.", "The opposite of hot is loud."),
    ("What is frozen water called?", "Frozen water is called ice.", "Frozen water is called steam."),
    ("How many months are in a year?", "There are twelve months in a year.", "There are ten months in a year."),
    ("Which planet do we live on?", "We live on Earth.", "We live on Mars."),
    ("What is ten minus three?", "Ten minus three is seven.", "Ten minus three is five."),
    ("What language is spoken in Spain?", "Spanish is spoken in Spain.", "Dutch is spoken in Spain."),
    ("What comes after Monday?", "Tuesday comes after Monday.", "Friday comes after Monday."),
)


@dataclass(frozen=True)
class Item:
    """A coloured shape; `quadrant` indexes `QUADRANTS`."""

    colour: str
    shape: str
    quadrant: int

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """One to four items, at most one in a quadrant; `size` is (width, height) in pixels."""

    items: tuple[Item, ...]
    size: tuple[int, int]


@dataclass(frozen=True)
class Question:
    """A question of one of `KINDS`; `about` is the shape, colour, item or quadrant it asks for."""

    kind: str
    text: str
    about: str | Item | int | None = None


def draw_scene(rng: random.Random) -> Scene:
    """A scene of one to four items, drawn evenly."""
    quadrants = sorted(rng.sample(range(4), rng.randint(1, 4)))
    items = tuple(Item(rng.choice(tuple(COLOURS)), rng.choice(SHAPES), q) for q in quadrants)
    return Scene(items, rng.choice(SIZES))


def render(scene: Scene, rng: random.Random) -> Image.Image:
    """The scene as an RGB image: jittered shapes on a grey ground, with pixel noise."""
    width, height = scene.size
    image = Image.new("RGB", scene.size, (rng.randint(20, 70),) * 3)
    pen = ImageDraw.Draw(image)
    for item in scene.items:
        cell_w, cell_h = width / 2, height / 2
        radius = min(cell_w, cell_h) * rng.uniform(0.28, 0.40)
        x = (item.quadrant % 2 + 0.5) * cell_w + rng.uniform(-1, 1) * (cell_w / 2 - radius) * 0.6
        y = (item.quadrant // 2 + 0.5) * cell_h + rng.uniform(-1, 1) * (cell_h / 2 - radius) * 0.6
        colour = tuple(min(255, max(0, channel + rng.randint(-15, 15))) for channel in COLOURS[item.colour])
        _draw_shape(pen, item.shape, x, y, radius, colour)
    pixels = np.random.default_rng(rng.getrandbits(32)).normal(0, 6, (height, width, 3))
    pixels += np.asarray(image)
    # In place: it is large enough for each copy to cost its pages anew.
    return Image.fromarray(pixels.clip(0, 255, out=pixels).astype(np.uint8))


def _draw_shape(pen: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: float, fill: tuple[int, ...]) -> None:
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif shape == "square":
        pen.rectangle((x - 0.85 * r, y - 0.85 * r, x + 0.85 * r, y + 0.85 * r), fill=fill)
    elif shape == "triangle":
        pen.polygon(((x, y - r), (x + r, y + 0.8 * r), (x - r, y + 0.8 * r)), fill=fill)
    else:
        pen.rectangle((x - r, y - 0.32 * r, x + r, y + 0.32 * r), fill=fill)
        pen.rectangle((x - 0.32 * r, y - r, x + 0.32 * r, y + r), fill=fill)


def questions(scene: Scene) -> list[Question]:
    """Every question that has one right answer in the scene."""
    shapes = [item.shape for item in scene.items]
    colours = [item.colour for item in scene.items]
    names = [str(item) for item in scene.items]
    asked = [Question("count", "How many objects are there?"), Question("describe", "Describe the image.")]
    asked += [Question("what", f"What is in the {name}?", q) for q, name in enumerate(QUADRANTS)]
    for item in scene.items:
        if shapes.count(item.shape) == 1:
            asked.append(Question("colour", f"What colour is the {item.shape}?", item.shape))
        if colours.count(item.colour) == 1:
            asked.append(Question("shape", f"What shape is the {item.colour} object?", item.colour))
        if names.count(str(item)) == 1:
            asked.append(Question("where", f"Where is the {item}?", str(item)))
    return asked


def ask(scene: Scene, rng: random.Random) -> Question:
    """One question, its kind drawn evenly from the kinds the scene allows."""
    asked = questions(scene)
    kind = rng.choice(sorted({question.kind for question in asked}))
    return rng.choice([question for question in asked if question.kind == kind])


def answer(question: Question, scene: Scene) -> str | None:
    """The right answer, or None where the scene has not exactly one."""
    items = scene.items
    if question.kind == "count":
        n = len(items)
        return f"There {'is' if n == 1 else 'are'} {NUMBERS[n]} object{'s' if n > 1 else ''}."
    if question.kind == "describe":
        return ", ".join(f"a {item} in the {QUADRANTS[item.quadrant]}" for item in items).capitalize() + "."
    if question.kind == "what":
        found = [item for item in items if item.quadrant == question.about]
        return f"{f'A {found[0]}' if found else 'Nothing'} is in the {QUADRANTS[int(str(question.about))]}."
    matches = {
        "colour": [item for item in items if item.shape == question.about],
        "shape": [item for item in items if item.colour == question.about],
        "where": [item for item in items if str(item) == question.about],
    }[question.kind]
    if len(matches) != 1:
        return None
    item = matches[0]
    if question.kind == "colour":
        return f"The {item.shape} is {item.colour}."
    if question.kind == "shape":
        return f"The {item.colour} object is a {item.shape}."
    return f"The {item} is in the {QUADRANTS[item.quadrant]}."


def wrong_answer(question: Question, scene: Scene, rng: random.Random) -> str:
    """A well-formed answer that is false of the scene: another scene's answer to the same question."""
    right = answer(question, scene)
    while True:
        other = answer(question, draw_scene(rng))
        if other is not None and other != right:
            return other


def demo_row(seed: int, row: int) -> dict[str, object]:
    """Row `row` of the demo data set of this seed, in align-anything's columns plus `quality`."""
    rng = random.Random(f"{seed}:{row}")
    scene = draw_scene(rng)
    question = ask(scene, rng)
    right, wrong = answer(question, scene), wrong_answer(question, scene, rng)
    assert right is not None  # `ask` takes only questions that the scene answers
    text, image = question.text, render(scene, rng)

    quality = CLEAN if rng.random() < CLEAN_SHARE else rng.choice(DEFECTS)
    if quality == "blank image":
        image = Image.new("RGB", image.size, (rng.randint(0, 255),) * 3)
    elif quality == "noise image":
        pixels = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (image.height, image.width, 3))
        image = Image.fromarray(pixels.astype(np.uint8))
    elif quality == "swapped image":
        other = draw_scene(rng)
        while answer(question, other) == right:
            other = draw_scene(rng)
        image = render(other, rng)
    elif quality == "wrong chosen answer":
        right, wrong = wrong, right
    elif quality == "non-visual text":
        text, right, wrong = rng.choice(NON_VISUAL)
    elif quality == "truncated answer":
        words = right.split()
        right = " ".join(words[: max(1, len(words) // 3)])

    png = io.BytesIO()
    image.save(png, "PNG")
    better = rng.choice((1, 2))
    return {
        "question": text,
        "image": {"bytes": png.getvalue(), "path": f"{row:08d}.png"},
        "response_1": right if better == 1 else wrong,
        "response_2": wrong if better == 1 else right,
        "overall_response": better,
        "quality": quality,
    }
