"""What a judge is told, as LLaVA-Bench was published.

The words are those of the LLaVA repository (haotian-liu/LLaVA, Apache-2.0): `llava/eval/eval_gpt_review_bench.py` and
`eval_gpt_review_visual.py` put the parts together, `llava/eval/table/rule.json` says what is asked of the judge.
"""

from pydantic import BaseModel, ConfigDict

SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."


class Rule(BaseModel):
    """What a judge is asked about the two answers to a question of some category; an entry of `rule.json`.

    Attributes:
        role: how the two are called: `Assistant` 1 and 2.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: str
    prompt: str


def _rule(context: str) -> Rule:
    return Rule(
        role="Assistant",
        prompt="We would like to request your feedback on the performance of two AI assistants in response to the user "
        "question displayed above. The user asks the question on observing an image. For your reference, the visual "
        f"content in the image is represented with {context} \nPlease rate the helpfulness, relevance, accuracy, level "
        "of details of their responses. Each assistant receives an overall score on a scale of 1 to 10, where a higher "
        "score indicates better overall performance.\nPlease first output a single line containing only two values "
        "indicating the scores for Assistant 1 and 2, respectively. The two scores are separated by a space.\nIn the "
        "subsequent line, please provide a comprehensive explanation of your evaluation, avoiding any potential bias "
        "and ensuring that the order in which the responses were presented does not affect your judgment.",
    )


_SENTENCES = _rule("a few sentences describing the image.")
_CAPTIONS_AND_BOXES = _rule(
    "five descriptive sentences describing the same image and the bounding box coordinates of each object in the "
    "scene. These coordinates are in the form of bounding boxes, represented as (x1, y1, x2, y2) with floating numbers "
    "ranging from 0 to 1. These values correspond to the top left x, top left y, bottom right x, and bottom right y."
)
_CATEGORIES = ("conv", "detail", "complex")
# By category of the reviews: that of the questions, which the in-the-wild bench puts `llava_bench_` before.
RULES = {f"llava_bench_{name}": _SENTENCES for name in _CATEGORIES} | dict.fromkeys(_CATEGORIES, _CAPTIONS_AND_BOXES)


def prompt(rule: Rule, context: str, question: str, first: str, second: str) -> str:
    """The judge's user turn: what is in the image, the question, the answers in their order, and the task."""
    role = rule.role
    return (
        f"[Context]\n{context}\n\n[Question]\n{question}\n\n"
        f"[{role} 1]\n{first}\n\n[End of {role} 1]\n\n[{role} 2]\n{second}\n\n[End of {role} 2]\n\n"
        f"[System]\n{rule.prompt}\n\n"
    )
