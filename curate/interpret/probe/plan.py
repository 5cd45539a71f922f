"""The check that a job of `curate probe` can be done, before anything is loaded."""

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from curate.datasets.labelled import LabelledImages, open_labelled
from curate.errors import ConfigurationError
from curate.interpret.probe.job import ProbeJob, Representation
from curate.interpret.subject import Subject, look_at


class ProbePlan(NamedTuple):
    """A job whose images, model and SAEs were found and agree."""

    job: ProbeJob
    images: LabelledImages
    subject: Subject

    @property
    def representations(self) -> list[Representation]:
        """All that classifiers are given, the vision tower last."""
        ways = product(self.subject.pairs.items(), self.job.poolings, (None, *self.job.binarise))
        return [
            *(
                Representation(sae=sae, hook_layer=pair.hook_layer, pooling=pooling, threshold=threshold)
                for (sae, pair), pooling, threshold in ways
            ),
            Representation(),
        ]


def plan(job: ProbeJob) -> ProbePlan:
    """Find the images and look at model and SAEs; loads no weights.

    Raises:
        ConfigurationError: something cannot work; the message says what to do.
        DataError: data are damaged, or the hub cannot be reached.
    """
    job = job.absolute()
    images = open_labelled(job.images)
    check_shares(images.labels, images, job.train_shares)
    subject = look_at(job.model, job.saes, job.hook_layer, job.allow_model_mismatch)
    return ProbePlan(job, images, subject)


def check_shares(labels: Sequence[int], images: LabelledImages, shares: Sequence[float]) -> None:
    """See that every class is on both sides of every split.

    Args:
        labels: of those images that there are.

    Raises:
        ConfigurationError: one is not; the message says which.
    """
    n = len(labels)
    counts = {label: labels.count(label) for label in range(len(images.classes))}
    for share, (label, count) in product(shares, counts.items()):
        n_train = math.floor(share * n)  # as scikit-learn does
        side = "learn from" if count * n_train < n else "judge by" if count * (n - n_train) < n else None
        if side is not None:
            raise ConfigurationError(
                f"--train-shares {share:g}: of {images.name}'s class {images.classes[label]}, with {count:,} of {n:,} "
                f"images, that leaves none to {side}; take more images with --sample, other shares, or other --classes"
            )
