"""What a judge said of answers: the lines of `reviews.jsonl`, ours and those that others published."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from curate.evaluation.scores import score_pair

Order = Literal["reference-first", "candidate-first"]
# What the published parser writes where it finds no scores.
FAILED = (-1.0, -1.0)


class Review(BaseModel):
    """One reply of a judge about two answers, in the fields of LLaVA's `eval_gpt_review_bench.py` and more of ours.

    Attributes:
        pair: (reference, candidate), in whichever order they were shown; (−1, −1) where there are no scores. In files
            it is called `tuple`, in older ones `score`.
        content: the judge's reply; None where right answers were known and nobody was asked.
        order: which answer was shown first; in published files the reference.
        review_model: the judge, where the file names it.
        error: why there is no reply.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    question_id: int | str
    category: str | None = None
    pair: tuple[float, float] = Field(validation_alias=AliasChoices("tuple", "score"), serialization_alias="tuple")
    content: str | None = None
    order: Order = "reference-first"
    review_model: str | None = None
    error: str | None = None

    @property
    def failed(self) -> bool:
        """Whether it says no scores."""
        return self.pair == FAILED

    def reread(self) -> "Review":
        """The same with its scores looked for again in its content, if it has one."""
        if self.content is None:
            return self
        return self.model_copy(update={"pair": read_pair(self.content, self.order)})


def read_pair(content: str, order: Order) -> tuple[float, float]:
    """(reference, candidate) as a reply to answers shown in this order says them, or `FAILED`."""
    first, second = score_pair(content) or FAILED
    return (first, second) if order == "reference-first" else (second, first)


class Scored(NamedTuple):
    """A question with scores, each the mean over its reviews."""

    category: str | None
    reference: float
    candidate: float


def scored(reviews: Iterable[Review]) -> tuple[list[Scored], int]:
    """The questions' scores, and how many questions have none: one of their reviews failed.

    Reviews of one question are those of both orders.
    """
    by_question: dict[tuple[Any, ...], list[Review]] = {}
    for review in reviews:
        by_question.setdefault((review.category, review.question_id), []).append(review)
    found = []
    for (category, _), group in by_question.items():
        if not any(review.failed for review in group):
            reference, candidate = (sum(scores) / len(group) for scores in zip(*(r.pair for r in group), strict=True))
            found.append(Scored(category, reference, candidate))
    return found, len(by_question) - len(found)
