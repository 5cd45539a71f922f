"""How activations are pooled over the tokens of an image, as options name it."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator

SUM, MAX = "sum", "max"
_TOP = re.compile(r"top-([1-9][0-9]*)")


def checked_pooling(name: str) -> str:
    """The name of a way to pool.

    Raises:
        ValueError: it is none.
    """
    if name not in (SUM, MAX) and not _TOP.fullmatch(name):
        raise ValueError(f"{name} is no pooling: there are {SUM}, {MAX}, and top-K with a number K, such as top-5")
    return name


Pooling = Annotated[str, AfterValidator(checked_pooling)]
Tokens = Literal["image", "all"]
