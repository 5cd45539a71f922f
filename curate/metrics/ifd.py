"""`ifd`: how little question and image help to say the response."""

from curate.metrics.metric import Evidence, Metric


def ifd(evidence: Evidence) -> float:
    """Loss of the chosen response given image and question, over its loss alone; the same tokens in both.

    Instruction-following difficulty (Li et al. 2023, "From Quantity to Quality", equation 4), with the image beside the
    question, as the SAE-V paper compares with. Samples over 1, where the question makes the response less likely, are
    ranked first and not left out. Infinite, and so quarantined, where the response alone is certain.
    """
    alone = -evidence.likelihood["alone"]
    return -evidence.likelihood["chosen"] / alone if alone else float("inf")


METRIC = Metric(
    "ifd",
    "loss of the chosen response with image and question, over its loss alone",
    "likelihood",
    ifd,
    ("chosen", "alone"),
)
