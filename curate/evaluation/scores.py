"""The two scores in a judge's reply."""

import re

LOWEST, HIGHEST = 1.0, 10.0

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.]*\d)")
_OUT_OF = re.compile(r"\s*(?:/\s*|out of\s+)10\b(?!\.\d)", re.I)
_LABEL = re.compile(r"\b(?:assistants?|answers?|responses?|models?)\s*#?\s*([12])\b(?:\s*(?:and|&|,)\s*[12]\b)?", re.I)
# What may stand beside scores. A line with other words is prose, and its numbers may be of anything.
_WORDS = re.compile(
    r"\b(?:the|a|an|are|is|and|vs|for|of|on|respectively|overall|scores?|scored|ratings?|rated|gets|receives"
    r"|assistants?)\b",
    re.I,
)
_LETTERS = re.compile(r"[^\W\d_]")


def score_pair(reply: str) -> tuple[float, float] | None:
    """The scores of the first and the second answer; None where the reply does not say them beyond doubt.

    Looked for in the first line that is not blank, where judges are told to write them; if there is no pair there, in
    the lines after it: a line of two scores and nothing else, or one line for `Assistant 1` and one for `Assistant 2`.
    Two different pairs are none. Scores are from 1 to 10, as "8 9", "8, 9", "8/10 9/10" or "Assistant 1: **8** …";
    a line of scores with more than two numbers, or with one beyond 1 to 10, fails the reply.
    """
    lines = [_scores_alone(line) for line in reply.splitlines() if line.strip()]
    if lines and lines[0] is not None and len(lines[0][1]) >= 2:
        return _valid(lines[0][1])
    found = [line for line in lines if line is not None]
    pairs = {tuple(scores) for _, scores in found if len(scores) >= 2}
    if not pairs:
        first, second = ([scores[0] for label, scores in found if label == number] for number in ("1", "2"))
        pairs = {(first[0], second[0])} if len(first) == len(second) == 1 else set()
    return _valid(list(pairs.pop())) if len(pairs) == 1 else None


def _scores_alone(line: str) -> tuple[str | None, list[float]] | None:
    """The label and the numbers of a line that holds scores and nothing else; None of any other line."""
    labels = _LABEL.findall(line)
    bare = _OUT_OF.sub(" ", _LABEL.sub(" ", line).replace("*", " "))
    if _LETTERS.search(_WORDS.sub(" ", bare)):
        return None
    numbers = [float(number) for number in _NUMBER.findall(bare)]
    if labels == ["2", "1"]:
        numbers.reverse()
    return (labels[0] if len(labels) == 1 else None, numbers) if numbers else None


def _valid(scores: list[float]) -> tuple[float, float] | None:
    if len(scores) != 2 or not all(LOWEST <= score <= HIGHEST for score in scores):
        return None
    return scores[0], scores[1]
