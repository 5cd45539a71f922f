"""Where an answer names a concept, in its text and among its tokens; and what else it says."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import takewhile

from jaxtyping import Int
from torch import Tensor


def named(text: str, words: Sequence[str]) -> list[tuple[int, int]]:
    """Where in a text any of the words stands as a word, whatever its case: [start, stop) of each place."""
    either = "|".join(map(re.escape, words))
    return [match.span() for match in re.finditer(rf"(?<!\w)(?:{either})(?!\w)", text, re.IGNORECASE)]


def kept(before: str, after: str, words: Sequence[str]) -> float:
    """The share of a text's words, but for those that name the concept, that another text has as well.

    A word counts as often as it stands in both, whatever its case; NaN where there are none.
    """
    spans = named(before, words)
    others = Counter(
        match[0].casefold()
        for match in re.finditer(r"\w+", before)
        if not any(first <= match.start() < last for first, last in spans)
    )
    return (others & Counter(re.findall(r"\w+", after.casefold()))).total() / others.total() if others else math.nan


def naming_tokens(
    ids: Int[Tensor, " tokens"], decode: Callable[[Int[Tensor, " tokens"]], str], words: Sequence[str]
) -> list[int]:
    """The places of the tokens that spell any of the words; a part of a character belongs to that character.

    What tokens spell together is not always what each spells alone, so prefixes of the answer are decoded.

    Args:
        decode: the text of token ids, as of `InputBuilder`.
    """
    text = decode(ids)
    spans = named(text, words)
    if not spans:
        return []
    found, start = [], 0
    for place in range(len(ids)):
        prefix = decode(ids[: place + 1])
        end = _alike(prefix, text)
        # What a prefix has beyond that is a part of the next character.
        reach = end + (len(prefix) > end)
        if any(start < last and first < reach for first, last in spans):
            found.append(place)
        start = end
    return found


def _alike(prefix: str, text: str) -> int:
    """How many characters both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prefix, text, strict=False)))
