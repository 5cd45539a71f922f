"""What a model takes an image for: how likely it finds each class's answer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from curate.errors import NonFinite
from curate.interpret.patches.job import Score
from curate.models.inputs import ModelInputs


class Guess(NamedTuple):
    """What an image was taken for.

    Attributes:
        predicted: the class whose answer is the likeliest, the first of equals.
        scores: the log-probability of each class's answer.
    """

    predicted: int
    scores: list[float]


def about(image: ModelInputs, texts: Sequence[ModelInputs]) -> list[ModelInputs]:
    """The same texts about another image of the same size, of which there are therefore as many tokens.

    Args:
        image: any text about that image.
    """
    return [replace(text, tensors=image.tensors, image=image.image) for text in texts]


def guess(log_probabilities: Sequence[Float[Tensor, " response"]], score: Score) -> Guess:
    """The class whose answer is the likeliest.

    Args:
        log_probabilities: of the tokens of each class's answer, with what the template writes after it.
        score: their mean, by which a long name is no worse than a short one, or their sum.

    Raises:
        NonFinite: one is NaN or infinite.
    """
    said = [each.double().cpu() for each in log_probabilities]
    scores = torch.stack([each.mean() if score == "mean" else each.sum() for each in said])
    if not bool(scores.isfinite().all()):
        raise NonFinite("log-probabilities of the answers are NaN or infinite")
    listed = scores.tolist()
    return Guess(listed.index(max(listed)), listed)
