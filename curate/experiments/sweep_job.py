"""What `curate sweep` is asked to do."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from curate.datasets import DEMO
from curate.evaluation.job import EvaluateJob
from curate.manifest.record import read_record
from curate.metrics import METRICS
from curate.models import ModelSpec
from curate.pipeline.job import ScoreJob, inside
from curate.scoring.parameters import REJECTED
from curate.storage import LocalFolder, Location, absolute, location
from curate.training.job import Method, TrainJob, TuningParameters

RUN, CELLS, BASE, EVALUATION = "run", "cells", "base", "evaluation"
FULL, RANDOM = "full", "random"


class SweepJob(BaseModel):
    """A grid of trainings, each on another selection of the same scored data, and each evaluated alike."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    kind: Literal["sweep"] = "sweep"
    output: LocalFolder = Field(
        description="the folder of all that is made, on this machine or one that all workers share"
    )
    run: Location | None = Field(default=None, description="a finished run to select from, in place of `score`")
    score: ScoreJob | None = Field(
        default=None,
        validate_default=True,
        description="how data are scored, by default the demo's; into OUTPUT/run",
    )
    metrics: tuple[str, ...] = Field(
        default=("cosine", "cooccurrence", "l0", "ifd", "random"), min_length=1, description="to select by"
    )
    ratios: tuple[Decimal, ...] = Field(
        default=tuple(Decimal(tenths) / 10 for tenths in range(1, 11)),
        min_length=1,
        description="of the scored samples, above 0; 1 is the same for every metric, and always among them",
    )
    seeds: int = Field(default=3, ge=1, description="trainings on each selection, with seeds from 0")
    methods: tuple[Method, ...] = Field(default=("sft", "dpo"), min_length=1)
    training: TuningParameters = Field(
        default=TuningParameters(), description="of every training; its seed is the cell's"
    )
    workers: int = Field(default=1, ge=1, description="processes of each training")
    strategy: Literal["ddp", "fsdp"] = "ddp"
    evaluation: EvaluateJob = Field(
        default=None,
        validate_default=True,
        description="of the model that is tuned, by default the one scored with; every tuned one likewise, "
        "into OUTPUT/cells",
    )
    model_score: bool = Field(default=False, description="feature weights of every tuned model, too")
    model_score_samples: int = Field(default=200, ge=1, description="samples that they are computed from")
    parallel: int | None = Field(
        default=None, ge=1, description="trainings or evaluations at a time; by default one for each GPU, else CPU"
    )
    address: str | None = Field(default=None, description="a running Ray cluster")
    keep_models: bool = Field(default=False, description="do not remove a tuned model once it is evaluated")

    @field_validator("metrics")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in names if name.removesuffix(REJECTED) not in METRICS]:
            raise ValueError(f"no metric {', '.join(unknown)}; there are: {', '.join(METRICS)}")
        return tuple(dict.fromkeys(names))

    @field_validator("ratios")
    @classmethod
    def _shares(cls, ratios: tuple[Decimal, ...]) -> tuple[Decimal, ...]:
        if bad := [str(ratio) for ratio in ratios if not 0 < ratio <= 1]:
            raise ValueError(f"{bad[0]} is no share above 0 and up to 1")
        return tuple(sorted({ratio.normalize() for ratio in ratios}))

    @field_validator("score", mode="before")
    @classmethod
    def _score_into_output(cls, score: Any, info: ValidationInfo) -> Any:
        """Every metric there is, so that others can be added to the sweep without scoring anew."""
        if isinstance(score, ScoreJob) or (score is None and info.data.get("run") is not None):
            return score
        if not isinstance(score, dict | None) or "output" not in info.data:
            return score
        content = inside(score, "score", f"{info.data['output']}/{RUN}")
        return {**content, "parameters": {"metrics": tuple(METRICS), **(content.get("parameters") or {})}}

    @field_validator("evaluation", mode="before")
    @classmethod
    def _evaluate_the_model_scored_with(cls, evaluation: Any, info: ValidationInfo) -> Any:
        if isinstance(evaluation, EvaluateJob) or not isinstance(evaluation, dict | None):
            return evaluation
        content = inside(evaluation, "evaluation", f"{info.data.get('output')}/{CELLS}/{BASE}/{EVALUATION}")
        if not content.get("model") and info.data.get("score") is not None:
            content["model"] = info.data["score"].model
        elif not content.get("model") and info.data.get("run"):
            content["model"] = read_record(location(info.data["run"])).arguments["model"]
        if content.get("model") and _name_of(content["model"]) != DEMO and content.get("bench") is None:
            raise ValueError("--bench: name one; that of the demo's world says nothing of another model")
        return content

    @model_validator(mode="after")
    def _fits_together(self) -> "SweepJob":
        if self.run is not None and self.score is not None:
            raise ValueError("--run: the data of a run are scored already; leave out what says how to score")
        if self.score is not None and (other := set(self.metrics) - set(self.score.parameters.columns)):
            raise ValueError(f"score.parameters.metrics: {', '.join(sorted(other))} is swept over and not computed")
        if self.evaluation.model is None:
            raise ValueError("evaluation.answers: a sweep evaluates models")
        for method in self.methods:
            train_job(self, method, 0, "selection", "training")  # or what is wrong with it is found after scoring
        return self

    @property
    def model(self) -> ModelSpec:
        """The model that is tuned."""
        assert self.evaluation.model is not None  # validated
        return self.evaluation.model

    def absolute(self) -> "SweepJob":
        """The job with local paths made absolute."""
        output = absolute(self.output)
        score = self.score and self.score.absolute()
        if score is not None and score.resources.address is None:
            resources = score.resources.model_copy(update={"address": self.address})
            score = score.model_copy(update={"resources": resources})
        places = {"output": output, "run": self.run and absolute(self.run), "score": score}
        return self.model_copy(update={**places, "evaluation": self.evaluation.absolute()})


def train_job(job: SweepJob, method: Method, seed: int, data: str, output: str) -> TrainJob:
    """One training of a sweep; one worker trains in the process of its task."""
    return TrainJob(
        method=method,
        data=data,
        model=job.model,
        output=output,
        parameters=job.training.model_copy(update={"seed": seed}),
        workers=job.workers,
        strategy=job.strategy,
        address="local" if job.workers == 1 else job.address,
    )


def _name_of(model: Any) -> Any:
    return model.get("name") if isinstance(model, dict) else getattr(model, "name", None)


# Fields of a job. The demo's model is nearly perfect on its bench, so a training has to be rough to be seen.
PRESETS: dict[str, dict[str, Any]] = {
    "demo": {
        "score": {"dataset": {"limit": 300}},
        "training": {
            "batch_size": 8,
            "gradient_accumulation_steps": 1,
            "lr": 1e-3,
            "lr_warm_up_steps": 2,
            "epochs": 1,
            "validation_share": 0,
        },
        "evaluation": {"bench": "demo", "limit": 90, "batch_size": 32},
    },
}


class Choice(NamedTuple):
    """A rule of the grid: by which metric, how much of the data, and, where selections are drawn, of which seed."""

    metric: str
    ratio: Decimal
    seed: int | None


def choices(job: SweepJob) -> Iterator[Choice]:
    """The selections of a sweep. That of all data is none of a metric's, and is there for every metric."""
    for metric in job.metrics:
        for ratio in job.ratios:
            if ratio < 1:
                yield from (Choice(metric, ratio, seed) for seed in (range(job.seeds) if metric == RANDOM else [None]))
    yield Choice(FULL, Decimal(1), None)


def n_trainings(job: SweepJob) -> tuple[int, int]:
    """Trainings of the grid, and those of them on all data; fewer where selections keep the same samples."""
    each = sum(job.seeds if choice.seed is None else 1 for choice in choices(job))
    return len(job.methods) * each, len(job.methods) * job.seeds
