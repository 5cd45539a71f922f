"""The grid of a sweep: its selections, the trainings that its places share, and what each of them came to."""

import shutil
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from pydantic import ValidationError

from curate.errors import DataError, first_line
from curate.evaluation.evaluate import EvaluationRecord, evaluate
from curate.evaluation.job import EvaluateJob
from curate.evaluation.plan import plan as plan_evaluation
from curate.experiments.model_score import ModelScore, model_score
from curate.experiments.sweep_job import BASE, CELLS, EVALUATION, choices, train_job
from curate.experiments.sweep_plan import SweepPlan
from curate.experiments.sweep_results import FULL, Cell, Tuned
from curate.manifest.atomic import write_text
from curate.manifest.record import RunRecord
from curate.manifest.select import SelectJob, select
from curate.manifest.selection import SELECTION, samples_sha256
from curate.pipeline.progress import Progress, Report
from curate.pipeline.tasks import Failed, Takes, Task
from curate.storage import location
from curate.training.folder import MODEL
from curate.training.folder import RECORD as TRAINING_RECORD
from curate.training.job import Method, TrainJob
from curate.training.plan import plan as plan_training
from curate.training.train import TrainingRecord, train

SELECTIONS, TRAINING, CELL = "selections", "training", "cell.json"


class Selected(NamedTuple):
    """A selection on disk; two with the same `rows` keep the same samples."""

    folder: str
    n_samples: int
    rows: str


class Place(NamedTuple):
    """One place in the grid, and the name of the training that it shares with places of the same samples."""

    method: Method
    metric: str
    ratio: Decimal
    seed: int
    selected: Selected

    @property
    def training(self) -> str:
        return f"{self.method}-{self.selected.rows[:12]}-seed-{self.seed}"


def places(the_plan: SweepPlan, run: RunRecord) -> Iterator[Place]:
    """The grid, its selections written."""
    job = the_plan.job
    for choice in choices(job):
        # All rows in the order of the run's own metric, whatever metrics are swept over.
        by = run.metrics[0] if choice.metric == FULL else choice.metric
        name = f"{choice.metric}-{choice.ratio}" + ("" if choice.seed is None else f"-seed-{choice.seed}")
        selected = _selected(
            SelectJob(
                run=the_plan.run_folder,
                by=by,
                ratio=choice.ratio,
                seed=choice.seed,
                output=f"{job.output}/{SELECTIONS}/{name}",
            )
        )
        for method in job.methods:
            for seed in range(job.seeds) if choice.seed is None else [choice.seed]:
                yield Place(method, choice.metric, choice.ratio, seed, selected)


def _selected(job: SelectJob) -> Selected:
    folder, record = select(job)
    ids = pq.read_table(str(folder / SELECTION), columns=["sample_id"])["sample_id"].to_pylist()
    return Selected(str(folder), record.selected, samples_sha256(ids))


class Cells:
    """The trainings of a sweep, and the base model, as tasks fill them; each is written as soon as it is whole.

    Attributes:
        whole: what is evaluated, by the training's name.
        errors: why something is missing, by the same name.
    """

    def __init__(self, the_plan: SweepPlan, run: RunRecord, grid: Sequence[Place], report: Report) -> None:
        self.job, self.run, self.run_folder, self.report = the_plan.job, run, the_plan.run_folder, report
        self.takes: Takes = "GPU" if the_plan.on_gpu else "CPU"
        self.trainings = {place.training: place for place in reversed(grid)}  # of those that share it, the first
        self.errors: dict[str, str] = {}
        self.whole: dict[str, Tuned] = {}
        self._results: dict[str, dict[str, Any]] = {name: {} for name in (BASE, *self.trainings)}
        self._done = self._total = 0
        for name in self._results:
            if (cell := _read_cell(self._folder(name) / CELL)) is not None:
                self.whole[name] = cell
                self._thin(name)

    def tasks(self) -> Iterator[Task]:
        """What is left to do."""
        found = [task for name in self._results for task in self._tasks_of(name)]
        self._total = len(found)
        self.report(Progress("sweep", 0, self._total))
        yield from found

    def _tasks_of(self, name: str) -> Iterator[Task]:
        job, folder = self.job, self._folder(name)
        if self._is_done(name):
            return
        model, first = job.model, ()
        if name != BASE:
            model, first = model.model_copy(update={"name": str(folder / TRAINING / MODEL)}), (f"train {name}",)
            # Several processes are Ray's own tasks, which take what they need.
            takes = self.takes if job.workers == 1 else "nothing"
            yield Task(*first, partial(_train, self._train_job(self.trainings[name], folder)), takes=takes)
        if name not in self.whole:
            evaluation = job.evaluation.model_copy(update={"model": model, "output": str(folder / EVALUATION)})
            yield Task(f"evaluate {name}", partial(_evaluate, evaluation), first, self.takes)
        if job.model_score:
            weigh = partial(model_score, model, self.run, job.model_score_samples)
            yield Task(f"weigh {name}", weigh, first, self.takes)

    def take(self, task: str, result: Any) -> None:
        """Keep what a task came to."""
        part, _, name = task.partition(" ")
        if isinstance(result, Failed):
            self.errors.setdefault(name, f"{part}: {result.reason}")
        else:
            self._results[name][part] = result
            self._keep(name)
        self._done += 1
        self.report(Progress("sweep", self._done, self._total))

    def at(self, place: Place) -> Cell:
        """The cell at a place of the grid."""
        return Cell(
            method=place.method,
            metric=place.metric,
            ratio=float(place.ratio),
            seed=place.seed,
            n_samples=place.selected.n_samples,
            training=place.training,
            tuned=self.whole.get(place.training),
            error=self.errors.get(place.training),
        )

    def _keep(self, name: str) -> None:
        results, cell = self._results[name], self.whole.get(name)
        if cell is None and "evaluate" in results:
            cell = _tuned(results.get("train"), results["evaluate"])
        if cell is None:
            return
        if "weigh" in results:
            weighed: ModelScore = results["weigh"]
            if weighed.model_sha256 != cell.model_sha256:
                self.errors[name] = "weigh: the model that was trained again is not, bit for bit, the one evaluated"
                return
            cell = cell.model_copy(update={"mean_weight": weighed.mean_weight, "features": weighed.features})
        self.whole[name] = cell
        write_text(location(str(self._folder(name) / CELL)), cell.model_dump_json(indent=2) + "\n")
        self._thin(name)

    def _is_done(self, name: str) -> bool:
        cell = self.whole.get(name)
        return cell is not None and (cell.mean_weight is not None or not self.job.model_score)

    def _thin(self, name: str) -> None:
        """Remove weights that nothing needs any more; the training's record stays."""
        if self._is_done(name) and not self.job.keep_models:
            model = self._folder(name) / TRAINING / MODEL
            if model.exists():  # or what is half removed would be taken for a model
                model.rename(model.with_name(f".{MODEL}"))
            shutil.rmtree(model.with_name(f".{MODEL}"), ignore_errors=True)

    def _folder(self, name: str) -> Path:
        return Path(self.job.output) / CELLS / name

    def _train_job(self, place: Place, folder: Path) -> TrainJob:
        job = train_job(self.job, place.method, place.seed, place.selected.folder, str(folder / TRAINING))
        return job.model_copy(update={"run": self.run_folder})


def _train(job: TrainJob) -> TrainingRecord:
    """Train in a task's process; anew where the weights were removed, and are needed again."""
    output = Path(job.output)
    removed = (output / TRAINING_RECORD).exists() and not (output / MODEL).exists()
    return train(plan_training(job), lambda step: None, overwrite=removed)


def _evaluate(job: EvaluateJob) -> EvaluationRecord:
    return evaluate(plan_evaluation(job), lambda step: None)


def _tuned(training: TrainingRecord | None, evaluation: EvaluationRecord) -> Tuned:
    summary = evaluation.summary
    return Tuned(
        model_sha256=str(evaluation.decides["candidate"]),
        n_train=training.n_train if training else 0,
        steps=training.steps if training else 0,
        relative=evaluation.score,
        macro=summary.macro.relative,
        categories={name: figures.relative for name, figures in evaluation.categories.items()},
        n=summary.n,
        failures=summary.failures,
        seconds=round(evaluation.seconds + (training.seconds if training else 0), 3),
    )


def _read_cell(file: Path) -> Tuned | None:
    try:
        return Tuned.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{file} is damaged ({first_line(error)}); remove it, and the same command makes it anew"
        ) from error
