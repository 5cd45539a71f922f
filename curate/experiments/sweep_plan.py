"""The check that a job of `curate sweep` can be done, before anything is paid for."""

from dataclasses import dataclass
from pathlib import Path

from curate.datasets import DatasetSpec
from curate.errors import ConfigurationError
from curate.evaluation.plan import EvaluatePlan, Generation
from curate.evaluation.plan import plan as plan_evaluation
from curate.experiments.sweep_job import RUN, SweepJob
from curate.manifest.record import RunRecord, read_record
from curate.pipeline.connection import cluster_has_gpus
from curate.pipeline.plan import plan as plan_scoring
from curate.pipeline.resources import cluster_address
from curate.storage import location
from curate.training.plan import check_counts, check_family


@dataclass(frozen=True)
class SweepPlan:
    """A job whose data, models, bench and judge were found and agree.

    Attributes:
        run: the record of the run to select from, if it is there.
        base: the evaluation of the model that is tuned.
        dataset: what is scored, or was.
        samples: how many there are to select from, at most.
        on_gpu: whether trainings and evaluations take a GPU each.
    """

    job: SweepJob
    run: RunRecord | None
    base: EvaluatePlan
    dataset: DatasetSpec
    samples: int
    on_gpu: bool

    @property
    def run_folder(self) -> str:
        return self.job.run or f"{self.job.output}/{RUN}"


def plan(job: SweepJob) -> SweepPlan:
    """Open data, models and bench; loads no weights.

    Raises:
        ConfigurationError: something cannot work; the message says what to do.
        DataError: data or the run cannot be read, or the hub cannot be reached.
    """
    job = job.absolute()
    if Path(job.output).is_file():
        raise ConfigurationError(f"--output {job.output} is a file; name a folder")
    base = plan_evaluation(job.evaluation)
    candidate = base.candidate
    assert isinstance(candidate, Generation)  # no answers, validated
    check_family(job.model.name, candidate.model, job.training)
    record = None
    if job.run is not None:
        record = read_record(location(job.run))
        if record.status != "complete":
            raise ConfigurationError(
                f"--run {job.run} is {record.status}: finish it with curate score --resume {job.run}"
            )
        if other := [name for name in job.metrics if name not in record.metrics]:
            raise ConfigurationError(f"--metric {', '.join(other)}: {job.run} has {', '.join(record.metrics)}")
        n_rows, spec = record.counts.scored, DatasetSpec.model_validate(record.arguments["dataset"])
    else:
        assert job.score is not None  # validated: there is no run
        n_rows, spec = len(plan_scoring(job.score).dataset), job.score.dataset
    smallest = job.ratios[0]
    check_counts(job.training, job.workers, round(smallest * n_rows), f"--ratios {smallest}: the selection")
    cluster = cluster_address(job.address)
    on_gpu = candidate.device == "cuda"
    if cluster is not None and job.model.device == "auto":
        on_gpu = cluster_has_gpus(cluster)
    return SweepPlan(job, record, base, spec, n_rows, on_gpu)
