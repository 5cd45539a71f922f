"""What would go wrong with a job of any kind."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError
from rich.filesize import decimal

from curate.errors import ConfigurationError, first_line
from curate.evaluation.job import EvaluateJob
from curate.evaluation.plan import EvaluatePlan as BenchPlan
from curate.evaluation.plan import Generation
from curate.evaluation.plan import plan as plan_bench
from curate.experiments.calibrate import CalibratePlan
from curate.experiments.calibrate import plan as plan_calibration
from curate.experiments.calibrate_job import CalibrateJob
from curate.experiments.sweep_cost import Cost, assumptions, cost
from curate.experiments.sweep_job import SweepJob, n_trainings
from curate.experiments.sweep_plan import SweepPlan
from curate.experiments.sweep_plan import plan as plan_sweep
from curate.harvest.evaluate_job import SAEEvaluateJob
from curate.harvest.evaluate_plan import EvaluatePlan
from curate.harvest.evaluate_plan import plan as plan_evaluation
from curate.harvest.job import SAETrainJob
from curate.harvest.plan import TrainPlan
from curate.harvest.plan import plan as plan_training
from curate.interpret.features import FeaturesPlan
from curate.interpret.features import plan as plan_features
from curate.interpret.features_job import FeaturesJob
from curate.interpret.patches.job import PatchesJob
from curate.interpret.patches.plan import PatchesPlan
from curate.interpret.patches.plan import plan as plan_patches
from curate.interpret.probe.job import ProbeJob
from curate.interpret.probe.plan import ProbePlan
from curate.interpret.probe.plan import plan as plan_probe
from curate.interpret.steer.job import SteerJob
from curate.interpret.steer.plan import SteerPlan
from curate.interpret.steer.plan import plan as plan_steering
from curate.jobs.files import Job
from curate.jobs.pipeline import PipelineJob, references
from curate.manifest.ledger import read_ledger
from curate.manifest.select import Choice, SelectJob, choose
from curate.pipeline.finding import Finding, looked, tried
from curate.pipeline.job import ScoreJob
from curate.pipeline.preflight import examine as examine_score
from curate.pipeline.preflight import storage
from curate.pipeline.retry_job import RetryJob, score_job
from curate.pipeline.trial import Limits
from curate.storage import location
from curate.training.job import TrainJob
from curate.training.plan import TrainPlan as TuningPlan
from curate.training.plan import free_bytes
from curate.training.plan import plan as plan_tuning


def examine(
    job: Job, price: float | None = None, overwrite: bool = False, limits: Limits = Limits()
) -> Iterator[Finding]:
    """Try all that the job rests on, and say how long it takes.

    Args:
        price: of a GPU hour.
        overwrite: whether a run that is there is to be replaced.
        limits: how a trial is watched.
    """
    match job:
        case ScoreJob():
            yield from examine_score(job, price, overwrite=overwrite, limits=limits)
        case SelectJob():
            yield from _select(job)
        case RetryJob():
            yield from _retry(job, price, limits)
        case SAETrainJob():
            yield from _sae_train(job)
        case SAEEvaluateJob():
            yield from tried("evaluation", lambda: plan_evaluation(job.absolute()), _judged)
        case TrainJob():
            yield from tried("training", lambda: plan_tuning(job), _tuned)
        case EvaluateJob():
            yield from tried("evaluation", lambda: plan_bench(job), _evaluated)
        case SweepJob():
            yield from _sweep(job, price, overwrite, limits)
        case CalibrateJob():
            yield from tried("calibration", lambda: plan_calibration(job), _calibrated)
        case FeaturesJob():
            yield from tried("features", lambda: plan_features(job), _listed)
        case PatchesJob():
            yield from tried("study of patches", lambda: plan_patches(job), _masked)
        case ProbeJob():
            yield from tried("probe", lambda: plan_probe(job), _probed)
        case SteerJob():
            yield from tried("steering", lambda: plan_steering(job), _steered)
        case PipelineJob():
            for name in job.order():
                for finding in _stage(job, name, price, limits):
                    yield replace(finding, check=f"{name}: {finding.check}")


def _select(job: SelectJob) -> Iterator[Finding]:
    choice = yield from tried("selection", lambda: choose(job.absolute()), _kept)
    if choice is not None:
        yield from storage(str(choice.folder), rows=0)


def _kept(choice: Choice) -> str:
    decided = f", before {len(choice.decided):,} decisions of people" if choice.decided else ""
    return f"would keep {choice.keep:,} of {choice.record.counts.scored:,} samples by {choice.rule}{decided}"


def _retry(job: RetryJob, price: float | None, limits: Limits) -> Iterator[Finding]:
    def begun() -> ScoreJob:
        try:
            return score_job(job)
        except ValidationError as error:
            raise ConfigurationError(first_line(error)) from error

    def rows() -> int:
        return sum(shard.quarantined for shard in read_ledger(location(job.run)).values())

    begun_job = yield from tried("run", begun, lambda _: f"{job.run} is a run")
    if begun_job is not None:
        found = yield from tried("quarantine", rows, lambda count: f"{count:,} quarantined rows to try again")
        yield from examine_score(begun_job, price, samples=found, limits=limits)


def _sae_train(job: SAETrainJob) -> Iterator[Finding]:
    plan = yield from tried("training", lambda: plan_training(job), _trained)
    if plan is not None:
        yield from storage(str(plan.job.output), rows=0)


def _trained(plan: TrainPlan) -> str:
    p, model = plan.job.parameters, plan.harvest.model
    return (
        f"would train {p.expansion * model.d_model:,} features ({p.architecture}) after block {plan.job.hook_layer} of "
        f"{plan.job.model.name} on {p.steps * p.train_batch_size_tokens:,} tokens of {plan.harvest.corpus.name}, on "
        f"{plan.harvest.device}"
    )


def _tuned(plan: TuningPlan) -> str:
    job = plan.job
    return (
        f"would train {plan.model.name} by {job.method} on {plan.rows.num_rows:,} samples, the best of "
        f"{plan.selection.scored:,} by {plan.selection.rule}, on {plan.device}"
    )


def _evaluated(plan: BenchPlan) -> str:
    job, n = plan.job, len(plan.bench.questions)
    whose = plan.candidate.model.name if isinstance(plan.candidate, Generation) else job.answers
    return (
        f"would judge answers of {whose} to {n:,} questions of {job.bench} by {job.judge.model or 'rules'}, in "
        f"{n * len(job.judge.orders):,} reviews"
    )


def _swept(plan: SweepPlan) -> str:
    job, (trainings, on_all) = plan.job, n_trainings(plan.job)
    cells = len(job.methods) * job.seeds * len(job.metrics) * len(job.ratios)
    return (
        f"would train {trainings:,} times at most, for {cells:,} cells ({', '.join(job.methods)} × {len(job.metrics)} "
        f"metrics × {len(job.ratios)} ratios × {job.seeds} seeds): {on_all:,} on all data, which every metric shares, "
        f"and fewer where selections keep the same samples; and evaluate {trainings + 1:,} models, the base among them"
    )


def _sweep(job: SweepJob, price: float | None, overwrite: bool, limits: Limits) -> Iterator[Finding]:
    if job.score is not None:
        for finding in examine_score(job.score, price, overwrite=overwrite, limits=limits):
            yield replace(finding, check=f"scoring: {finding.check}")
    plan = yield from tried("sweep", lambda: plan_sweep(job), _swept)
    if plan is not None:
        yield from looked("cost", _cost(plan, price))


def _cost(plan: SweepPlan, price: float | None) -> Iterator[Finding]:
    """The computed cost of all trainings and evaluations; scoring has lines of its own."""
    job, found = plan.job, cost(plan)
    hours = f"{_hours(found.training_hours)} GPU hours of training, {_hours(found.generation_hours)} of writing answers"
    paid = "" if price is None else f", {found.gpu_hours * price:,.2f} at {price:g} an hour"
    numbers = {"training_gpu_hours": found.training_hours, "generation_gpu_hours": found.generation_hours}
    yield Finding("time", "ok", f"{hours}{paid}, beside the scoring ({assumptions(job)})", numbers)
    judge = job.evaluation.judge
    calls = f"{found.judge_calls:,} calls of {judge.model}" if judge.url else "no calls: the bench is judged by rules"
    yield Finding("judge", "ok", calls, {"judge_calls": found.judge_calls})
    yield _disk(job, found)


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 0.1 else "less than 0.1"


def _disk(job: SweepJob, found: Cost) -> Finding:
    kept = "all tuned models are kept" if job.keep_models else "a tuned model is removed once it is evaluated"
    free = free_bytes(Path(job.output))
    each = "" if job.parallel else " for each training that runs at a time"
    what = (
        f"up to {decimal(found.peak_bytes)} in {job.output} at one time{each}, checkpoints included, and "
        f"{decimal(found.kept_bytes)} of models at the end ({kept}); {decimal(free)} free"
    )
    numbers = {"peak_bytes": found.peak_bytes, "kept_bytes": found.kept_bytes, "free_bytes": free}
    if free < found.peak_bytes:
        return Finding("disk", "fail", f"{what}: choose another --output, or adapters by --lora-r", numbers)
    return Finding("disk", "ok", what, numbers)


def _judged(plan: EvaluatePlan) -> str:
    models = ", ".join(model.name for model in plan.job.models)
    return f"would judge {', '.join(plan.job.saes)} on {models}, with {len(plan.corpus):,} rows of {plan.corpus.name}"


def _calibrated(plan: CalibratePlan) -> str:
    job, n = plan.job, min(plan.job.samples, len(plan.dataset))
    return (
        f"would score {n:,} samples of {plan.dataset.name} and {n * len(job.damages):,} damaged copies by "
        f"{', '.join(job.score.parameters.metrics)}"
    )


def _listed(plan: FeaturesPlan) -> str:
    return (
        f"would read {len(plan.images.labels):,} images of {len(plan.images.classes):,} classes of {plan.images.name} "
        f"with {plan.job.model.name} on {plan.subject.device}, and list the features of {', '.join(plan.job.saes)}"
    )


def _masked(plan: PatchesPlan) -> str:
    job, n = plan.job, len(plan.images.labels)
    return (
        f"would look at {n:,} images of {len(plan.images.classes):,} classes of {plan.images.name} whole, and "
        f"{len(job.methods) * len(job.ratios)} times masked, with {job.model.name} on {plan.subject.device}"
    )


def _probed(plan: ProbePlan) -> str:
    job, n, classes = plan.job, len(plan.images.labels), len(plan.images.classes)
    return (
        f"would read {n:,} images of {classes:,} classes of {plan.images.name} with {job.model.name} on "
        f"{plan.subject.device}, and fit linear classifiers on features of "
        f"{', '.join(job.saes)}, and on the vision tower's own"
    )


def _steered(plan: SteerPlan) -> str:
    job, n = plan.job, len(plan.places)
    edits = len(job.edit.steps) * (1 + job.random_directions)
    return (
        f"would answer about {n:,} images of {plan.images.name} with {job.model.name} on {plan.subject.device}, and "
        f"{edits:,} times more with features {', '.join(map(str, job.edit.features))} or random directions edited: "
        f"{n * (1 + edits):,} answers"
    )


def _stage(pipeline: PipelineJob, name: str, price: float | None, limits: Limits) -> Iterator[Finding]:
    """A stage as far as it can be looked at before those whose outputs it takes have run."""
    stage = pipeline.resolved(name)
    runs = [pipeline.stages[other] for other in references(pipeline.stages[name])]
    to_come = [run for run in runs if isinstance(run, ScoreJob) and not (location(run.output) / "run.json").exists()]
    if isinstance(stage, SelectJob) and to_come:
        metrics = to_come[0].parameters.columns
        if stage.by is not None and stage.by not in metrics:
            yield Finding("selection", "fail", f"by: {stage.by}: the run will have {', '.join(metrics)}")
        else:
            yield Finding("selection", "ok", f"by {stage.by or metrics[0]}, once {stage.run} is there")
        return
    if isinstance(stage, TrainJob) and runs and not location(stage.data).exists():
        yield Finding("training", "ok", f"by {stage.method} on {stage.data}, once it is there")
        return
    if isinstance(stage, EvaluateJob) and stage.model and runs and not location(stage.model.name).exists():
        yield Finding("evaluation", "ok", f"of {stage.model.name}, once it is there")
        return
    if isinstance(stage, ScoreJob) and to_come:
        stage = stage.model_copy(update={"weights": None})  # there are none yet to look at
    yield from examine(stage, price, limits=limits)
