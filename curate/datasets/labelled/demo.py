"""Scenes of the demo world with one object, by its shape or its colour. Nothing in this repository learns from them."""

import random

from PIL.Image import Image

from curate.datasets.demo import COLOURS, QUADRANTS, SHAPES, SIZES, Item, Scene, render
from curate.datasets.labelled.labelled import LabelledImages
from curate.fingerprint import text_sha256

SHAPES_NAME, COLOURS_NAME = "demo-shapes", "demo-colours"
DEFAULT_IMAGES = 1000


def open_demo(name: str, n: int, seed: int) -> LabelledImages:
    """So many scenes, with all shapes or colours equally often."""
    by_shape = name == SHAPES_NAME
    classes = tuple(SHAPES if by_shape else COLOURS)

    def scene(place: int) -> tuple[Scene, random.Random]:
        rng = random.Random(f"{name}:{seed}:{place}")
        shown = classes[place % len(classes)]
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
        said = classes[label]
        return f"The {item.colour} object is a {said}." if by_shape else f"The {item.shape} is {said}."

    return LabelledImages(
        name=name,
        classes=classes,
        labels=tuple(place % len(classes) for place in range(n)),
        ids=tuple(f"{place:08d}" for place in range(n)),
        sha256=lambda: text_sha256(f"{name} {n} {seed}"),
        decode=decode,
        question=question,
        answer=answer,
    )
