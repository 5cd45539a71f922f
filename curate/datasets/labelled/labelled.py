"""What a set of labelled images is."""

from collections.abc import Callable
from dataclasses import dataclass

from PIL.Image import Image

QUESTION = "What is in the image? Answer with its name."


def asked(_image: int) -> str:
    """The question about an image of which no more is known."""
    return QUESTION


@dataclass(frozen=True)
class LabelledImages:
    """Images that each show one of some classes; an image is named by its place, from 0.

    Attributes:
        classes: their names.
        labels: the class of each image.
        ids: a name of each image, for people.
        sha256: over names, images and labels; reads them all.
        decode: an image; raises SampleError.
        question: what a model may be asked about an image, to name its class.
        answer: of (image, class), how a model would say that the image shows it.
    """

    name: str
    classes: tuple[str, ...]
    labels: tuple[int, ...]
    ids: tuple[str, ...]
    sha256: Callable[[], str]
    decode: Callable[[int], Image]
    question: Callable[[int], str]
    answer: Callable[[int, int], str]
