"""Scenes of the demo world with one object, by its shape or its colour. Nothing in this repository learns from them."""

import random

from PIL.Image import Image

from curate.datasets.demo import COLOURS, QUADRANTS, SHAPES, SIZES, Item, Scene, render
from curate.datasets.labelled.labelled import LabelledImages
from curate.fingerprint import text_sha256

SHAPES_NAME, COLOURS_NAME = "demo-shapes", "demo-colours"
DEFAULT_IMAGES = 1000


def classes(name: str) -> tuple[str, ...]:
    """The classes of a set."""
    return SHAPES if name == SHAPES_NAME else tuple(COLOURS)


def open_demo(name: str, n: int, seed: int) -> LabelledImages:
    """So many scenes, with all shapes or colours equally often."""
    by_shape, known = name == SHAPES_NAME, classes(name)

    def scene(place: int) -> tuple[Scene, random.Random]:
        rng = random.Random(f"{name}:{seed}:{place}")
        shown = known[place % len(known)]
        other = rng.choice(tuple(COLOURS if by_shape else SHAPES))
        colour, shape = (other, shown) if by_shape else (shown, other)
        return Scene((Item(colour, shape, rng.randrange(len(QUADRANTS))),), rng.choice(SIZES)), rng

    def decode(place: int) -> Image:
        return render(*scene(place))

    def question(place: int) -> str:
        (item,) = scene(place)[0].items
        return f"What shape is the {item.colour} object?" if by_shape else f"What colour is the {item.shape}?"

    def answer(place: int, label: int) -> str:
        (item,) = scene(place)[0].items
        said = known[label]
        return f"The {item.colour} object is a {said}." if by_shape else f"The {item.shape} is {said}."

    return LabelledImages(
        name=name,
        classes=known,
        labels=tuple(place % len(known) for place in range(n)),
        ids=tuple(f"{place:08d}" for place in range(n)),
        sha256=lambda: text_sha256(f"{name} {n} {seed}"),
        decode=decode,
        question=question,
        answer=answer,
    )
