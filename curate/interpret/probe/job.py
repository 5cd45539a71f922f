"""What `curate probe` is asked to do, and the check that it can be done before anything is loaded."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from curate.datasets.labelled import LabelledImages, open_labelled
from curate.errors import ConfigurationError
from curate.interpret.pooling import Pooling, Tokens
from curate.interpret.study import ManySAEsJob, Subject, look_at, once_each

Share = Annotated[float, Field(gt=0, lt=1)]
Threshold = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class ProbeJob(ManySAEsJob):
    """What `curate probe` is asked to do."""

    kind: Literal["probe"] = "probe"
    poolings: tuple[Pooling, ...] = Field(
        default=("sum", "max", "top-1", "top-5"),
        min_length=1,
        description="of activations over tokens: sum, max, or top-K, the sum of each token's K strongest",
    )
    tokens: Tokens = Field(default="image", description="the tokens that are pooled")
    binarise: tuple[Threshold, ...] = Field(
        default=(0.0,), description="pooled features are taken as they are, and as 1 above each of these and else 0"
    )
    train_shares: tuple[Share, ...] = Field(
        default=(0.1, 0.2, 0.3, 0.4, 0.5), min_length=1, description="shares of images to learn from; the rest judge"
    )
    feature_counts: tuple[Count, ...] = Field(
        default=(1, 5, 10, 50, 100, 500),
        description="with the largest share, also with so many features alone, those of the highest ANOVA F",
    )
    repeats: int = Field(default=3, ge=1, description="random splits at each share")
    seed: int = Field(default=0, ge=0, description="of the first split; each further one has the next")
    inverse_regularisation: float = Field(default=1.0, gt=0, description="C of scikit-learn's LogisticRegression")
    max_iter: int = Field(default=1000, ge=1, description="its iterations at most")
    workers: int = Field(default=1, ge=1, description="processes that fit classifiers, with one thread each")

    @field_validator("poolings", "binarise", "train_shares", "feature_counts")
    @classmethod
    def _once_each(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return once_each(values)

    def parameters(self) -> dict[str, Any]:
        """What figures depend on beside images, model and SAEs."""
        left = {"output", "images", "model", "hook_layer", "allow_model_mismatch", "kind", "saes", "workers"}
        return self.model_dump(mode="json", exclude=left)


class Representation(BaseModel):
    """What a classifier is given of an image: pooled features, or, without an SAE, what the vision tower says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sae: str | None = Field(default=None, description="None of the vision tower, the mean over its patches")
    hook_layer: int | None = None
    pooling: str | None = None
    threshold: float | None = Field(default=None, description="1 above it, else 0; None where features are as they are")

    @property
    def label(self) -> str:
        """Its name for people, without the SAE's."""
        if self.sae is None:
            return "vision tower"
        return f"{self.pooling}" if self.threshold is None else f"{self.pooling} > {self.threshold:g}"


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
