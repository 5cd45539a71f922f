"""The check that a job of `curate steer` can be done, before any weights are loaded."""

from pathlib import Path
from typing import Any, NamedTuple

from curate.datasets.labelled import LabelledImages, open_labelled
from curate.errors import ConfigurationError
from curate.interpret.steer.job import OURS, WHAT, EditSpec, SteerJob
from curate.interpret.subject import Subject, look_at
from curate.manifest.inputs import INPUTS_FILE, own_files
from curate.scoring.pair import Pair


class SteerPlan(NamedTuple):
    """A job whose images, model and SAE were found and agree.

    Attributes:
        places: of the images that are asked about.
    """

    job: SteerJob
    images: LabelledImages
    places: list[int]
    subject: Subject

    @property
    def pair(self) -> Pair:
        """The model and the SAE."""
        return self.subject.pairs[self.job.sae]

    def decides(self) -> dict[str, Any]:
        """What the result depends on; reads all images."""
        own = {"question", "label", "random_directions", "max_new_tokens", "batch_size"}
        return {
            **self.subject.decides(),
            "images": self.images.sha256(),
            **self.job.images.model_dump(mode="json", include={"classes", "sample", "seed"}),
            **self.job.edit.model_dump(mode="json"),
            "strengths": list(self.job.edit.steps),
            **self.job.model_dump(mode="json", include=own),
            "concept": list(self.job.words),
            "seed of random directions": self.job.seed,
        }


def plan(job: SteerJob) -> SteerPlan:
    """Find images, model and SAE; loads no weights.

    Raises:
        ConfigurationError: something cannot work; the message says what to do.
        DataError: images are damaged, or the hub cannot be reached.
    """
    job = job.absolute()
    own_files(Path(job.output), {*OURS, INPUTS_FILE}, WHAT)
    images = open_labelled(job.images)
    if job.label is not None and job.label not in images.classes:
        raise ConfigurationError(f"--label {job.label}: {images.name} has {', '.join(images.classes)}")
    places = [place for place, label in enumerate(images.labels) if job.label in (None, images.classes[label])]
    subject = look_at(job.model, [job.sae], job.hook_layer, job.allow_model_mismatch)
    check_features(job.edit, subject.pairs[job.sae])
    return SteerPlan(job, images, places, subject)


def check_features(spec: EditSpec, pair: Pair) -> None:
    """Compare the features that are asked for with those that there are.

    Raises:
        ConfigurationError: there are none such, or too many at once.
    """
    sae = pair.sae
    if unknown := [feature for feature in spec.features if feature >= sae.d_sae]:
        raise ConfigurationError(f"--feature {unknown[0]}: the SAE {sae.name} has features 0 to {sae.d_sae - 1}")
    if len(spec.features) > sae.d_model:
        raise ConfigurationError(
            f"--feature: {len(spec.features):,} at once are more than hidden states have dimensions, {sae.d_model:,}"
        )
