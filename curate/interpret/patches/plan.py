"""The check that a job of `curate patches` can be done, before any weights are loaded."""

from dataclasses import replace
from typing import Any, NamedTuple

from curate.datasets.labelled import open_labelled
from curate.datasets.labelled.labelled import LabelledImages
from curate.interpret.patches.job import PatchesJob
from curate.interpret.subject import Subject, look_at
from curate.manifest.weights import WeightsRecord, given_weights
from curate.metrics.parameters import MetricParameters
from curate.scoring.pair import Pair
from curate.scoring.parameters import BATCH_SIZE


class PatchesPlan(NamedTuple):
    """A job whose images, model and SAE were found and agree.

    Attributes:
        weights: the record of the feature weights that are given; None where none are.
    """

    job: PatchesJob
    images: LabelledImages
    subject: Subject
    weights: WeightsRecord | None

    @property
    def pair(self) -> Pair:
        """The model and the SAE."""
        return self.subject.pairs[self.job.sae]

    @property
    def parameters(self) -> MetricParameters:
        """What activations are judged by."""
        return MetricParameters(delta=self.job.delta)

    @property
    def tokens_per_pass(self) -> int:
        """Tokens of a forward pass, but for an image whose answers alone are more."""
        return self.job.batch_size or BATCH_SIZE[self.subject.device]

    def decides(self) -> dict[str, Any]:
        """What the result depends on; reads all images."""
        return {
            **self.subject.decides(),
            "images": self.images.sha256(),
            "class names": list(self.images.classes),
            **self.job.images.model_dump(mode="json", include={"classes", "sample", "seed"}),
            "given weights hash": None if self.weights is None else self.weights.sha256,
            **self.job.model_dump(
                mode="json",
                include={"methods", "ratios", "fill", "question", "answer", "score", "delta"},
            ),
            "seed of ties": self.job.seed,
            "batch size": self.tokens_per_pass,
        }


def plan(job: PatchesJob) -> PatchesPlan:
    """Find images, model, SAE and weights; loads no model.

    Raises:
        ConfigurationError: something cannot work; the message says what to do.
        DataError: images are damaged, or the hub cannot be reached.
    """
    job = job.absolute()
    images = open_labelled(job.images)
    subject = look_at(job.model, [job.sae], job.hook_layer, job.allow_model_mismatch)
    given = None
    if job.weights is not None:
        pair = subject.pairs[job.sae]
        hashes = {"model_sha256": pair.model.sha256, "sae_sha256": pair.sae.sha256}
        _, given = given_weights(job.weights, hook_layer=pair.hook_layer, **hashes)
        if pair.sae.scale is None:
            read = pair._replace(sae=replace(pair.sae, scale=given.sae_scale))
            subject = replace(subject, pairs={job.sae: read})
    if job.delta == "auto":
        job = job.model_copy(update={"delta": subject.pairs[job.sae].sae.default_delta})
    return PatchesPlan(job, images, subject, given)
