"""A sweep: one scored run, trainings on selections of it, evaluations of the tuned models; all of it resumable."""

import shutil
import time
from pathlib import Path
from typing import Any

from curate.errors import ConfigurationError
from curate.evaluation.judge import check_judge
from curate.experiments.published import comparisons
from curate.experiments.records import SWEEP as RECORD
from curate.experiments.sweep_cells import SELECTIONS, Cells, places
from curate.experiments.sweep_job import BASE, CELLS, RUN, SweepJob
from curate.experiments.sweep_plan import SweepPlan
from curate.experiments.sweep_plot import draw_figure7, draw_figure8, has_weights
from curate.experiments.sweep_results import SweepRecord, as_csv, correlations, findings, means
from curate.manifest.atomic import write_text
from curate.manifest.inputs import INPUTS_FILE, RunInputs, own_files, read_inputs, versions, write_inputs
from curate.manifest.lock import LOCK, locked
from curate.manifest.record import RunRecord
from curate.pipeline.progress import Report
from curate.pipeline.resources import cluster_address
from curate.pipeline.score import score
from curate.pipeline.session import SAME_COMMAND, resumable
from curate.pipeline.tasks import Failed, Task, run_tasks
from curate.storage import location

TABLE, FIGURE7, FIGURE8 = "sweep.csv", "figure7", "figure8"
OURS = {RUN, SELECTIONS, CELLS, RECORD, TABLE, INPUTS_FILE, LOCK}
OURS |= {f"{figure}.{kind}" for figure in (FIGURE7, FIGURE8) for kind in ("png", "svg")}


def sweep(plan: SweepPlan, report: Report, overwrite: bool = False) -> SweepRecord:
    """Score, select, train and evaluate what is not done yet, and write what came of all of it.

    A cell that fails is empty in the record, with its reason; the others go on.

    Raises:
        ConfigurationError: the output folder holds something else, or a sweep with other settings.
        DataError: the run or a cell is damaged.
        RunStopped: scoring cannot go on.
        KeyboardInterrupt: with a message that says how to resume.
    """
    job, output, begun = plan.job, Path(plan.job.output), time.monotonic()
    with locked(location(job.output)), resumable(f"the same command; what is whole in {output} is not done again"):
        _check_output(output, overwrite)
        _refuse_another(plan, run_hash=None)
        run = plan.run or _scored(job, report, overwrite)
        decides = _refuse_another(plan, run.run_hash)
        grid = list(places(plan, run))
        _check_judge_there(job)
        cells_of = Cells(plan, run, grid, report)
        run_tasks(list(cells_of.tasks()), cells_of.take, job.parallel, job.address)
        cells = tuple(cells_of.at(place) for place in grid)
        found, correlated = means(cells), correlations(cells)
        record = SweepRecord(
            job=job.model_dump(mode="json", exclude_none=True),
            decides=decides,
            trainings=len({place.training for place in grid}),
            base=cells_of.whole.get(BASE),
            base_error=cells_of.errors.get(BASE),
            cells=cells,
            means=found,
            correlations=correlated,
            findings=findings(cells_of.whole.get(BASE), found, correlated),
            published=comparisons(
                job.model.name,
                plan.dataset.name,
                job.evaluation.bench,
                {(each.method, each.metric, each.ratio): each.mean for each in found},
            ),
            seconds=round(time.monotonic() - begun, 3),
        )
        _write(output, record)
        return record


def _check_output(output: Path, overwrite: bool) -> None:
    found = own_files(output, OURS, "sweep")
    if overwrite:
        for name in found - {RUN}:  # which scoring replaces
            shutil.rmtree(output / name) if (output / name).is_dir() else (output / name).unlink()


def _refuse_another(plan: SweepPlan, run_hash: str | None) -> dict[str, Any]:
    """What decides every cell, written at first; metrics, ratios, seeds and methods may be added later.

    Args:
        run_hash: None before the run is there, when all else is compared.

    Raises:
        ConfigurationError: the folder's sweep was begun with something else.
    """
    job, root = plan.job, location(plan.job.output)
    begun = read_inputs(root)
    if run_hash is None and begun is not None:
        run_hash = str(begun.decides["run"])
    only_speed = {"checkpoint_every", "prepare_workers", "loader_workers"}
    training = job.training.model_dump(mode="json", exclude={"seed", *only_speed})
    # Where a cluster computes, its nodes decide on what: only what was asked for is compared.
    base = {name: value for name, value in plan.base.decides.items() if name not in ("device", "dtype")}
    decides = {
        "run": run_hash,
        **base,
        **{f"training {name}": value for name, value in training.items()},
        "workers": job.workers,
        "strategy": job.strategy,
        "device": job.model.device,
        "dtype": job.model.dtype,
        "samples of feature weights": job.model_score_samples,
    }
    inputs = RunInputs(arguments=job.model_dump(mode="json"), decides=decides, versions=versions("ray", "pyarrow"))
    if begun is not None and (differences := begun.differences(inputs)):
        raise ConfigurationError(
            f"--output {job.output} holds a sweep with another {'; '.join(differences)}; choose another folder, or "
            "--overwrite"
        )
    if begun is None and run_hash is not None:
        write_inputs(root, inputs)
    return decides


def _check_judge_there(job: SweepJob) -> None:
    """That nodes of a cluster have the judge's key, which is not sent there: before any training is paid for."""
    if job.evaluation.judge.url is None or cluster_address(job.address) is None:
        return
    ends: dict[str, Any] = {}
    run_tasks([Task("judge", check_judge, takes="nothing")], ends.__setitem__, address=job.address)
    if isinstance(ends["judge"], Failed):
        raise ConfigurationError(f"on a node of the cluster: {ends['judge'].reason}")


def _scored(job: SweepJob, report: Report, overwrite: bool) -> RunRecord:
    assert job.score is not None  # validated: there is no run
    return score(job.score, report, lambda plan, done: None, overwrite, SAME_COMMAND)


def _write(output: Path, record: SweepRecord) -> None:
    """The record, the table and the figures."""
    draw_figure7(output / FIGURE7, record)
    if has_weights(record):
        draw_figure8(output / FIGURE8, record)
    write_text(location(str(output / TABLE)), as_csv(record.cells))
    write_text(location(str(output / RECORD)), record.model_dump_json(indent=2) + "\n")
