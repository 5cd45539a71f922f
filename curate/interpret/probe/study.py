"""How well linear classifiers tell classes of images from pooled features, beside the vision tower's own.

The design is that of Gallifant et al. (2025), "Sparse Autoencoder Features for Classifications and Transferability":
SAE features pooled over tokens, binarised or not, a logistic regression, macro F1.
"""

import warnings
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from curate.errors import DataError
from curate.evaluation.benches.folder import read_rows
from curate.interpret.pooling import PooledImages, pooled_images, read_pooled, write_pooled
from curate.interpret.probe.job import ProbeJob, Representation
from curate.interpret.probe.plan import ProbePlan, check_shares
from curate.interpret.scales import with_scales
from curate.interpret.study import LeftOut, Report, study_folder
from curate.manifest.atomic import write_text
from curate.manifest.inputs import versions
from curate.manifest.journal import append, cut_torn_line
from curate.storage import location, remove

RECORD, FEATURES, SHARDS, FITS, PICTURE = "probe.json", "features.safetensors", "images", "fits.jsonl", "probe"
OURS = (RECORD, FEATURES, SHARDS, FITS, f"{PICTURE}.png", f"{PICTURE}.svg")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Task(_Record):
    """A classifier to fit."""

    representation: Representation
    train_share: float
    n_features: int = Field(description="that it is given: all, or those of the highest ANOVA F")
    repeat: int


class Fit(_Record):
    """A line of `fits.jsonl`: one classifier, judged on the images that it did not learn from."""

    task: Task
    n_train: int
    n_test: int
    macro_f1: float
    accuracy: float
    converged: bool = Field(description="in fewer than max_iter iterations")


class OverRepeats(_Record):
    """A figure over random splits of the same images."""

    mean: float
    standard_error: float | None = Field(description="of the mean, from the deviation between splits; None of one")
    values: tuple[float, ...] = Field(description="by split")


class Figure(_Record):
    """How well one representation tells the classes."""

    representation: Representation
    train_share: float
    n_features: int = Field(description="that the classifier is given")
    n_train: int
    n_test: int
    macro_f1: OverRepeats = Field(description="mean over classes of F1, on the images not learned from")
    accuracy: OverRepeats
    not_converged: int = Field(description="classifiers that reached max_iter")


class ProbeRecord(_Record):
    """The whole of `probe.json`."""

    job: dict[str, Any]
    versions: dict[str, str]
    decides: dict[str, Any] = Field(description="all that the figures depend on: hashes and parameters")
    notes: tuple[str, ...] = Field(description="what a reader should know of the SAEs")
    images: int = Field(description="that were read")
    classes: dict[str, int] = Field(description="and how many of them show each class")
    left_out: list[LeftOut] = Field(description="images that could not be read, or do not fit the model")
    chance: float = Field(description="macro F1 of guessing each class as often as it is there")
    figures: list[Figure]

    def curve(self, representation: Representation) -> list[Figure]:
        """With all features, by the share learned from."""
        full = max(each.n_features for each in self.figures if each.representation == representation)
        own = [each for each in self.figures if each.representation == representation and each.n_features == full]
        return sorted(own, key=lambda each: each.train_share)

    def by_count(self, representation: Representation) -> list[Figure]:
        """At the largest share, by the number of features."""
        share = max(each.train_share for each in self.figures)
        own = [each for each in self.figures if each.representation == representation and each.train_share == share]
        return sorted(own, key=lambda each: each.n_features)

    @property
    def representations(self) -> list[Representation]:
        """The vision tower last."""
        return list(dict.fromkeys(each.representation for each in self.figures))


def probe(plan: ProbePlan, on_images: Report, on_fits: Report, overwrite: bool = False) -> ProbeRecord:
    """Read all images, export their features, fit classifiers, and write what they can tell.

    Args:
        on_images, on_fits: told how many are done.

    Raises:
        ConfigurationError: the folder holds something else; or so many images were left out that a class is missing.
        DataError: no image could be read, or what was kept is damaged.
    """
    job, images, subject = plan
    decides = {
        **subject.decides(),
        "images": images.sha256(),
        "drawn": job.images.model_dump(mode="json", exclude={"name"}),
        "classes": list(images.classes),
        **job.parameters(),
    }
    with study_folder(job, decides, OURS, overwrite, "probe") as output:
        plan = plan._replace(subject=with_scales(plan.subject, plan.images))
        subject = plan.subject
        pooled = _features(plan, output, on_images)
        labels = np.array([images.labels[place] for place in pooled.places])
        fits = _fits(plan, pooled, labels, output / FITS, on_fits)
        record = ProbeRecord(
            job=job.model_dump(mode="json"),
            versions=versions("scikit-learn"),
            decides=decides,
            notes=subject.notes,
            images=len(labels),
            classes={name: int((labels == label).sum()) for label, name in enumerate(images.classes)},
            left_out=pooled.left_out,
            chance=1 / len(images.classes),
            figures=_figures(fits),
        )
        write_text(location(str(output / RECORD)), record.model_dump_json(indent=2) + "\n")
    return record


def _features(plan: ProbePlan, output: Path, report: Report) -> PooledImages:
    """The features of all images, from the export if it is there, which takes the place of the shards."""
    job, images, subject = plan
    if not (output / FEATURES).exists():
        pooled = pooled_images(subject, images, job.poolings, job.tokens, output / SHARDS, report)
        labels = [images.labels[place] for place in pooled.places]
        check_shares(labels, images, job.train_shares)
        learned = {
            f"train/{share}/{repeat}": rows
            for share in job.train_shares
            for repeat, rows in enumerate(splits(job, np.array(labels), share))
        }
        write_pooled(output / FEATURES, pooled, {"labels": np.array(labels), **learned})
    if (output / SHARDS).exists():
        remove(location(str(output / SHARDS)))
    return read_pooled(output / FEATURES)


def splits(job: ProbeJob, labels: np.ndarray, share: float) -> Iterator[np.ndarray]:
    """The rows to learn from, ascending, of each repeat: as many of each class as its share of all images."""
    from sklearn.model_selection import train_test_split

    for repeat in range(job.repeats):
        rows, drawn = np.arange(len(labels)), job.seed + repeat
        parts: Any = train_test_split(rows, train_size=share, stratify=labels, random_state=drawn)
        yield np.sort(parts[0])


def _tasks(plan: ProbePlan, pooled: PooledImages) -> Iterator[Task]:
    job = plan.job
    for of in plan.representations:
        given: Any = pooled.tower if of.sae is None else pooled.features[of.sae, str(of.pooling)]
        width = given.shape[1]
        curve = [(share, width) for share in job.train_shares]
        curve += [(max(job.train_shares), n) for n in job.feature_counts if n < width]
        for share, n_features in curve:
            for repeat in range(job.repeats):
                yield Task(representation=of, train_share=share, n_features=n_features, repeat=repeat)


def _fits(plan: ProbePlan, pooled: PooledImages, labels: np.ndarray, file: Path, report: Report) -> list[Fit]:
    """All classifiers; those in the file are not fitted again."""
    from sklearn.utils.parallel import Parallel, delayed

    job, tasks = plan.job, list(_tasks(plan, pooled))
    cut_torn_line(file)
    kept = read_rows(file, Fit) if file.exists() else []
    if [fit.task for fit in kept] != tasks[: len(kept)]:
        raise DataError(f"{file} holds other classifiers; --overwrite begins anew")
    report(len(kept), len(tasks))
    learned = {share: list(splits(job, labels, share)) for share in job.train_shares}
    # In order, and one by one as they come.
    pool: Any = Parallel(n_jobs=job.workers, return_as="generator")
    for representation, own in groupby(tasks[len(kept) :], key=lambda task: task.representation):
        x = _matrix(pooled, representation)
        calls = (delayed(_fit)(x, labels, learned[task.train_share][task.repeat], task, job) for task in own)
        for fit in pool(calls):
            append(file, [fit.model_dump(mode="json")])
            kept.append(fit)
            report(len(kept), len(tasks))
    return kept


def _matrix(pooled: PooledImages, of: Representation) -> Any:
    """[images, features] in double precision: sparse of an SAE, dense of the vision tower."""
    if of.sae is None:
        return pooled.tower.astype(np.float64)
    features: Any = pooled.features[of.sae, str(of.pooling)]
    return (features if of.threshold is None else features > of.threshold).astype(np.float64)


def _fit(x: Any, labels: np.ndarray, learned: np.ndarray, task: Task, job: ProbeJob) -> Fit:
    """Fit one classifier and judge it. In one thread, so that sums do not depend on the machine's number of cores."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import accuracy_score, f1_score
    from threadpoolctl import threadpool_limits

    judged = np.setdiff1d(np.arange(len(labels)), learned)
    model = _classifier(task, job, x.shape[1])
    with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        predicted = model.fit(x[learned], labels[learned]).predict(x[judged])
    return Fit(
        task=task,
        n_train=len(learned),
        n_test=len(judged),
        macro_f1=float(f1_score(labels[judged], predicted, average="macro")),
        accuracy=float(accuracy_score(labels[judged], predicted)),
        converged=not any(issubclass(each.category, ConvergenceWarning) for each in caught),
    )


def _classifier(task: Task, job: ProbeJob, width: int) -> Any:
    """Features are chosen and scaled by what is learned from alone; scaling keeps zeros, where there are many."""
    from sklearn.feature_selection import SelectKBest, f_classif
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler, StandardScaler

    chosen = [SelectKBest(f_classif, k=task.n_features)] if task.n_features < width else []
    scaler = StandardScaler() if task.representation.sae is None else MaxAbsScaler()
    regression = LogisticRegression(C=job.inverse_regularisation, max_iter=job.max_iter)
    return make_pipeline(*chosen, scaler, regression)


def _figures(fits: Sequence[Fit]) -> list[Figure]:
    of: dict[tuple[Representation, float, int], list[Fit]] = {}
    for fit in fits:
        of.setdefault((fit.task.representation, fit.task.train_share, fit.task.n_features), []).append(fit)
    return [
        Figure(
            representation=representation,
            train_share=share,
            n_features=n_features,
            n_train=own[0].n_train,
            n_test=own[0].n_test,
            macro_f1=_over_repeats([fit.macro_f1 for fit in own]),
            accuracy=_over_repeats([fit.accuracy for fit in own]),
            not_converged=sum(not fit.converged for fit in own),
        )
        for (representation, share, n_features), own in of.items()
    ]


def _over_repeats(values: Sequence[float]) -> OverRepeats:
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else None
    return OverRepeats(mean=float(np.mean(values)), standard_error=error, values=tuple(values))
