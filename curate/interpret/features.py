"""The features that fire most in images, or in those of each class, once features that fire nearly everywhere are out.

As Gallifant et al. (2025), "Sparse Autoencoder Features for Classifications and Transferability", look at CIFAR-100:
features that fire on more than 1,000 of 10,000 images are left out, and the strongest of the others listed.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy import sparse

from curate.datasets.labelled import LabelledImages, open_labelled
from curate.errors import ConfigurationError
from curate.interpret.features_job import LARGEST_SHARE, FeaturesJob
from curate.interpret.pooling import pooled_images
from curate.interpret.scales import with_scales
from curate.interpret.study import LeftOut, Report, study_folder
from curate.interpret.subject import Subject, look_at
from curate.manifest.atomic import write_text
from curate.manifest.inputs import versions
from curate.storage import location

RECORD, SHARDS, PICTURE = "features.json", "images", "features"
SHOWN = 5
MOST_SAES = 100


class FeaturesPlan(NamedTuple):
    """A job whose images, model and SAEs were found and agree."""

    job: FeaturesJob
    images: LabelledImages
    subject: Subject


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageFeature(_Part):
    """A feature in one image."""

    feature: int
    value: float = Field(description="its pooled activation")


class OfImage(_Part):
    """The strongest features of an image."""

    id: str
    label: str
    features: list[ImageFeature]


class ClassFeature(_Part):
    """A feature in the images of one class, and in all others."""

    feature: int
    mean: float = Field(description="pooled activation, over the images of the class")
    elsewhere: float = Field(description="over all other images")
    share: float = Field(description="of the images of the class, those that it fires on")
    share_elsewhere: float
    images: list[str] = Field(description="the ids of the class's images that it is strongest in, these first")


class OfClass(_Part):
    """The strongest features of a class."""

    label: str
    images: int
    features: list[ClassFeature]


class Pooled(_Part):
    """What one SAE says of the images, pooled in one way."""

    sae: str
    hook_layer: int
    pooling: str
    firing: int = Field(description="features that fire on some image")
    cleaned: list[int] = Field(description="features that fire on more images than allowed, and are left out below")
    images: list[OfImage] = Field(description="none where classes are asked for")
    classes: list[OfClass] = Field(description="none where images are asked for")


class FeaturesRecord(_Part):
    """The whole of `features.json` of labelled images."""

    job: dict[str, Any]
    versions: dict[str, str]
    decides: dict[str, Any] = Field(description="all that the figures depend on: hashes and parameters")
    notes: tuple[str, ...] = Field(description="what a reader should know of the SAEs")
    images: int = Field(description="that were read")
    most_images: int = Field(description="features that fire on more are left out")
    left_out: list[LeftOut] = Field(description="images that could not be read, or do not fit the model")
    pooled: list[Pooled] = Field(description="for each SAE and pooling")


def plan(job: FeaturesJob) -> FeaturesPlan:
    """Find images, model and SAEs; loads no weights.

    Raises:
        ConfigurationError: something cannot work; the message says what to do.
        DataError: data cannot be read, or the hub cannot be reached.
    """
    job = job.absolute()
    images = open_labelled(job.images)
    return FeaturesPlan(job, images, look_at(job.model, job.saes, job.hook_layer, job.allow_model_mismatch))


def features(plan: FeaturesPlan, report: Report, overwrite: bool = False) -> FeaturesRecord:
    """Read all images, list their features, and write the record.

    Raises:
        ConfigurationError: the folder holds something else.
        DataError: no image could be read.
    """
    job, images, subject = plan
    decides = {
        **subject.decides(),
        "images": images.sha256(),
        "classes": list(images.classes),
        "drawn": job.images.model_dump(mode="json", exclude={"name"}),
        **job.model_dump(mode="json", include={"by_class", "poolings", "tokens", "clean", "rank", "top"}),
    }
    ours = {RECORD, SHARDS, *(f"{PICTURE}-{number}.png" for number in range(MOST_SAES))}
    with study_folder(job, decides, ours, overwrite, "list of features") as output:
        plan = plan._replace(subject=with_scales(plan.subject, plan.images))
        subject = plan.subject
        found = pooled_images(subject, images, job.poolings, job.tokens, output / SHARDS, report)
        labels = np.array([images.labels[place] for place in found.places])
        most = most_images(job.clean, labels)
        record = FeaturesRecord(
            job=job.model_dump(mode="json"),
            versions=versions(),
            decides=decides,
            notes=subject.notes,
            images=len(found.places),
            most_images=most,
            left_out=found.left_out,
            pooled=[
                _pooled(plan, sae, pooling, matrix, found.places, labels, most)
                for (sae, pooling), matrix in found.features.items()
            ],
        )
        write_text(location(str(output / RECORD)), record.model_dump_json(indent=2) + "\n")
        return record


def most_images(clean: float | None, labels: np.ndarray) -> int:
    """The most images that a feature may fire on: of a count or share, or by default."""
    if clean is None:
        return max(int(LARGEST_SHARE * len(labels)), 2 * int(np.bincount(labels).max()))
    return int(clean) if clean > 1 else int(Decimal(str(clean)) * len(labels))


def _pooled(
    plan: FeaturesPlan,
    sae: str,
    pooling: str,
    matrix: Any,
    places: list[int],
    labels: np.ndarray,
    most: int,
) -> Pooled:
    job, images, subject = plan
    of_class: Any = sparse.csr_array((np.ones(len(labels)), (labels, np.arange(len(labels)))))
    values, fires = (np.asarray((of_class @ each).todense()) for each in (matrix, matrix > 0))
    fires_on = fires.sum(axis=0)
    kept = fires_on <= most
    if not (kept & (fires_on > 0)).any():
        raise ConfigurationError(
            f"--clean: every feature of {sae} that fires does so on more than {most:,} of {len(labels):,} images; take "
            "a larger count or share"
        )
    of_images: list[OfImage] = []
    if not job.by_class:
        cleaned = sparse.csr_array(matrix * kept)
        bounds = zip(cleaned.indptr, cleaned.indptr[1:], strict=False)
        for place, (start, stop) in zip(places, bounds, strict=True):
            strongest = _strongest(cleaned.indices[start:stop], cleaned.data[start:stop], job.top)
            label = images.classes[images.labels[place]]
            of_images.append(OfImage(id=images.ids[place], label=label, features=strongest))
    return Pooled(
        sae=sae,
        hook_layer=subject.pairs[sae].hook_layer,
        pooling=pooling,
        firing=int((fires_on > 0).sum()),
        cleaned=np.flatnonzero(~kept).tolist(),
        images=of_images,
        classes=list(_classes(plan, matrix, values * kept, fires, places)) if job.by_class else [],
    )


def _strongest(columns: np.ndarray, values: np.ndarray, top: int) -> list[ImageFeature]:
    """Of equals, the lower feature first."""
    order = [place for place in np.lexsort((columns, -values))[:top] if values[place] > 0]
    return [ImageFeature(feature=int(columns[place]), value=float(values[place])) for place in order]


def _classes(
    plan: FeaturesPlan, matrix: Any, values: np.ndarray, fires: np.ndarray, places: list[int]
) -> Iterator[OfClass]:
    """The features of each class that has images.

    Args:
        matrix: [images, d_sae].
        values: [classes, d_sae], summed over a class's images.
        fires: [classes, d_sae], on how many of a class's images a feature fires.
    """
    job, images, _ = plan
    labels = np.array([images.labels[place] for place in places])
    columns = matrix.tocsc()
    all_values, all_fires = values.sum(axis=0), fires.sum(axis=0)
    for label, n in enumerate(np.bincount(labels)):
        if n == 0:
            continue
        others = max(1, len(labels) - n)
        mean, share = values[label] / n, fires[label] / n
        elsewhere, share_elsewhere = (all_values - values[label]) / others, (all_fires - fires[label]) / others
        by = mean if job.rank == "mean" else mean - elsewhere
        order = np.argsort(-by, kind="stable")[: job.top]
        yield OfClass(
            label=images.classes[label],
            images=int(n),
            features=[
                ClassFeature(
                    feature=int(feature),
                    mean=float(mean[feature]),
                    elsewhere=float(elsewhere[feature]),
                    share=float(share[feature]),
                    share_elsewhere=float(share_elsewhere[feature]),
                    images=_shown(columns[:, [feature]].toarray()[:, 0], labels == label, places, images),
                )
                for feature in order
                if mean[feature] > 0
            ],
        )


def _shown(values: np.ndarray, own: np.ndarray, places: list[int], images: LabelledImages) -> list[str]:
    """The ids of the class's own images where a feature is strongest, as many as are drawn."""
    order = np.argsort(-np.where(own, values, 0), kind="stable")[:SHOWN]
    return [images.ids[places[row]] for row in order if own[row] and values[row] > 0]
