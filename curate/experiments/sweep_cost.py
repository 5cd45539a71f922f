"""What a sweep costs before it starts: GPU hours computed from its multiplications, the judge's calls, disk."""

from dataclasses import dataclass
from typing import NamedTuple

from curate.datasets import DatasetSpec, open_dataset, spread
from curate.errors import DataError, SampleError
from curate.evaluation.plan import Generation
from curate.experiments.sweep_job import SweepJob, choices, n_trainings
from curate.experiments.sweep_plan import SweepPlan
from curate.models.family import ModelInfo
from curate.pipeline.cost import DEVICES, UTILISATION
from curate.training.job import Method, TuningParameters
from curate.training.plan import footprint, n_steps, n_validated, samples_in_a_step

PEAK = next(device.bfloat16 for device in DEVICES if device.name == "H100")  # operations a second
TRAINING_UTILISATION = UTILISATION  # what well-tuned trainings of 7 billion parameters reach, too
# Each token that is said reads all weights of the model, for a few answers at a time.
GENERATION_UTILISATION = 0.005
_SAMPLES_LOOKED_AT = 16
_FORWARD, _BACKWARD, _BACKWARD_OF_ADAPTERS = 2, 4, 2  # operations for each parameter and token


class Lengths(NamedTuple):
    """Mean tokens of a sample, image and question included, with each of its responses."""

    chosen: float
    rejected: float


@dataclass(frozen=True)
class Cost:
    """Costs of a sweep without its scoring; less where selections keep the same samples, or something is done already.

    Attributes:
        training_hours, generation_hours: of GPUs, computed; generation as if no answer ended before its limit.
        judge_calls: 0 where rules judge.
        kept_bytes: of tuned models, at the end.
        peak_bytes: of models and checkpoints on the disk at one time.
    """

    training_hours: float
    generation_hours: float
    judge_calls: int
    kept_bytes: int
    peak_bytes: int

    @property
    def gpu_hours(self) -> float:
        return self.training_hours + self.generation_hours


def cost(plan: SweepPlan) -> Cost:
    """What the sweep costs from its start.

    Raises:
        DataError: none of the first samples can be read.
    """
    job, candidate = plan.job, plan.base.candidate
    assert isinstance(candidate, Generation)  # validated
    model, p = candidate.model, job.training
    trainings, questions = n_trainings(job)[0], len(plan.base.bench.questions)
    lengths = mean_lengths(model, plan.dataset)
    parameters = model.family.n_parameters(model, model.n_layers - 1)
    tokens = sum(
        (job.seeds if choice.seed is None else 1)
        * training_passes(p, job.workers, method, round(choice.ratio * plan.samples), lengths)
        for choice in choices(job)
        for method in job.methods
    )
    answers = (trainings + 1) * questions
    said = _FORWARD * parameters * answers * candidate.max_new_tokens
    read = _FORWARD * parameters * answers * lengths.chosen
    disk = footprint(model, p)
    at_once = min(job.parallel or 1, trainings)
    kept = trainings * disk.model if job.keep_models else 0
    return Cost(
        training_hours=parameters * tokens / (PEAK * TRAINING_UTILISATION) / 3600,
        generation_hours=(said / GENERATION_UTILISATION + read / TRAINING_UTILISATION) / PEAK / 3600,
        judge_calls=answers * len(job.evaluation.judge.orders) if job.evaluation.judge.url else 0,
        kept_bytes=kept,
        peak_bytes=max(kept, at_once * disk.model) + at_once * disk.checkpoints,
    )


def training_passes(p: TuningParameters, workers: int, method: Method, samples: int, lengths: Lengths) -> float:
    """Operations of one training for each of the model's parameters: tokens, each by what is done with it.

    A forward pass takes 2, a backward pass 4, or 2 where adapters alone learn, and gradient checkpointing another
    forward pass. DPO's reference reads all tokens once; validation is a forward pass.
    """
    validated = n_validated(samples, p.validation_share)
    steps = n_steps(p, workers, samples - validated)
    learned = steps * samples_in_a_step(p, workers)
    checked = validated * (1 + (steps - 1) // p.evaluate_every) if validated else 0
    backward = _BACKWARD_OF_ADAPTERS if p.lora_r else _BACKWARD
    reference = _FORWARD if method == "dpo" else 0
    each = _FORWARD + backward + (_FORWARD if p.gradient_checkpointing else 0) + reference
    tokens = lengths.chosen + (lengths.rejected if method == "dpo" else 0)
    return tokens * (learned * each + checked * (_FORWARD + reference))


def mean_lengths(model: ModelInfo, spec: DatasetSpec) -> Lengths:
    """Mean lengths of samples from all over the data; those that cannot be read are skipped.

    Raises:
        DataError: none can be read.
    """
    dataset, builder = open_dataset(spec), model.family.load_builder(model)
    positions = spread(range(len(dataset)), _SAMPLES_LOOKED_AT)
    found: list[Lengths] = []
    for _, sample in dataset.samples(positions):
        if isinstance(sample, SampleError):
            continue
        try:
            both = [
                len(builder.build(sample.image, sample.question, response).input_ids)
                for response in (sample.chosen, sample.rejected)
            ]
        except SampleError:
            continue
        found.append(Lengths(*both))
    if not found:
        raise DataError(
            f"none of {len(positions)} samples of {dataset.name} fits {model.name}, so nothing says what it costs"
        )
    return Lengths(*(sum(column) / len(found) for column in zip(*found, strict=True)))


def assumptions(job: SweepJob) -> str:
    """What the computed hours rest on, in words."""
    p = job.training
    each = "4" if p.lora_r else "6"
    more = ", 2 more for gradient checkpointing" if p.gradient_checkpointing else ""
    more += ", 2 more for DPO's reference" if "dpo" in job.methods else ""
    return (
        f"computed, not measured: {each} operations for each parameter and trained token{more}, 2 for each other; at "
        f"{TRAINING_UTILISATION:.0%} of an H100's {PEAK / 1e12:g} TFLOP/s, and {GENERATION_UTILISATION:.1%} of them "
        "while answers are written"
    )
