"""The two scores in a judge's reply."""

import re

# Judges are asked for 1 to 10, and give 0 to what they find worthless: to drop those would flatter the candidate.
LOWEST, HIGHEST = 0.0, 10.0

_WHO = r"(?:assistants?|answers?|responses?|models?)\s*\#?\s*"
# A line is read piece by piece, each by the first of these that fits there.
_PIECES = re.compile(
    rf"""
      (?P<range>-?\d+(?:\.\d+)?\s*(?:[-–]|to\b)\s*-?\d+)               # 1-10, which is a scale
    | (?P<fraction>\d+(?:\.\d+)?\s*/\s*(?!10(?:\.0+)?(?![\d.]*\d))\d+)  # 4/5, which is of no scale that was asked for
    | \b{_WHO}(?P<both>1\s*(?:and|&|,|/)\s*(?:{_WHO})?2|2\s*(?:and|&|,|/)\s*(?:{_WHO})?1)\b
    | \b{_WHO}(?P<label>[12])\b
    | ^[\W_]*(?:scores?\s*)?(?P<item>[12])[.):](?=\s)
    | (?<![\w.-])(?P<score>\d+(?:\.\d+)?)(?:\s*(?:/|out\s+of)\s*10(?:\.0+)?)?(?!\w|\.\d)
    | \b(?:the|a|an|are|is|and|vs|for|of|on|both|respectively|overall|scores?|scored|ratings?|rated|gets|receives
      |assistants?)\b
    | [^\w-]+|_|-(?=\s)
    """,
    re.I | re.X,
)


def score_pair(reply: str) -> tuple[float, float] | None:
    """The scores of the first and the second answer; None where the reply does not say them beyond doubt.

    Looked for in the first line that is not blank, where judges are told to write them; if there is no pair there, in
    the lines after it: a line of two scores and nothing else, or one line for each answer. Two different pairs are
    none. Scores are from 0 to 10, as "8 9", "8, 9", "8/10 9/10", "Assistant 1: **8** …" or "1. 8"; a line of scores
    that are too many, or beyond 0 to 10, fails the reply.
    """
    lines = [_scores_alone(line) for line in reply.splitlines() if line.strip()]
    found = [line for line in lines if line]
    if lines and lines[0] and len(lines[0]) == 2:
        return _valid(lines[0])
    if any(len(line) > 2 for line in found):
        return None
    pairs = {tuple(sorted(line.items())) for line in found if len(line) == 2}
    if not pairs:
        singles = [item for line in found for item in line.items()]
        pairs = {tuple(sorted(singles))} if len(singles) == 2 else set()
    return _valid(dict(pairs.pop())) if len(pairs) == 1 else None


def _scores_alone(line: str) -> dict[int, float]:
    """The scores of a line that holds scores and nothing else, by answer; more than two where they are too many.

    A single score that is of neither answer is none.
    """
    kinds, scores, labels, at = "", [], [], 0
    line = line.replace("*", "")
    while at < len(line):
        piece = _PIECES.match(line, at)
        if piece is None or piece["range"] or piece["fraction"]:
            return {}
        at = piece.end()
        if piece["score"]:
            kinds, scores = kinds + "s", [*scores, float(piece["score"])]
        elif said := piece["both"] or piece["label"] or piece["item"]:
            numbers = [int(digit) for digit in re.findall(r"[12]", said)]
            kinds, labels = kinds + "l" * len(numbers), [*labels, *numbers]
    if kinds in ("ss", "llss", "ssll", "lsls") and sorted(labels) in ([], [1, 2]):
        return dict(zip(labels or (1, 2), scores, strict=True))
    if kinds == "ls":
        return {labels[0]: scores[0]}
    return dict(enumerate([*scores, 0, 0], start=1)) if len(scores) > 1 else {}


def _valid(scores: dict[int, float]) -> tuple[float, float] | None:
    if set(scores) != {1, 2} or not all(LOWEST <= score <= HIGHEST for score in scores.values()):
        return None
    return scores[1], scores[2]
