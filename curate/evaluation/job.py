"""What `curate evaluate` is asked to do, and the check that it can be done before anything is loaded or asked."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from curate import demo
from curate.errors import ConfigurationError, DataError
from curate.evaluation.benches import NAMES, open_bench
from curate.evaluation.benches.bench import Bench
from curate.evaluation.benches.demo import NAME as DEMO_BENCH
from curate.evaluation.benches.folder import AnswerRow, by_question, read_rows
from curate.evaluation.judge import JudgeSpec, check_judge
from curate.fingerprint import file_sha256
from curate.harvest.job import device_and_dtype
from curate.models import ModelSpec, inspect_model
from curate.models.family import ModelInfo
from curate.storage import LocalFolder, Location, absolute, absolute_if_there, location


class EvaluateJob(BaseModel):
    """The evaluation of one model, or of its answers, on one bench."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["evaluate"] = "evaluate"
    bench: Location = Field(default=DEMO_BENCH, description=f"{', '.join(NAMES)}, or a folder of LLaVA-Bench's layout")
    data_dir: Location | None = Field(default=None, description="a local copy of a named bench")
    images: Location | None = Field(default=None, description="the folder of its images, where they lie apart")
    limit: int | None = Field(default=None, ge=1, description="only so many questions, from the first")
    model: ModelSpec | None = Field(default=None, description="whose answers are judged; with the demo bench, demo")
    answers: Location | None = Field(default=None, description="a file of answers to judge, in place of a model")
    output: LocalFolder = Field(description="the folder of answers, reviews and figures, on this machine")
    judge: JudgeSpec = JudgeSpec()
    max_new_tokens: int | None = Field(
        default=None, ge=1, description="of an answer; 1,024 as published, of the demo bench 64"
    )
    batch_size: int = Field(default=8, ge=1, description="questions that are answered together")

    @model_validator(mode="before")
    @classmethod
    def _demo_model(cls, content: Any) -> Any:
        if not isinstance(content, dict) or content.get("model") or content.get("answers"):
            return content
        if content.get("bench", DEMO_BENCH) != DEMO_BENCH:
            raise ValueError("--model: name the model that shall answer, or --answers to judge")
        return {**content, "model": {"name": demo.NAME}}

    @model_validator(mode="after")
    def _is_one_thing(self) -> "EvaluateJob":
        if self.model is not None and self.answers is not None:
            raise ValueError("--model and --answers: there is one candidate; leave one out")
        if self.judge.url is None and self.bench != DEMO_BENCH:
            raise ValueError(f"--judge-url: name who judges; only the {DEMO_BENCH} bench is judged by rules")
        return self

    def absolute(self) -> "EvaluateJob":
        """The job with local paths made absolute."""
        return self.model_copy(
            update={
                "bench": self.bench if self.bench in NAMES else absolute_if_there(self.bench),
                "data_dir": self.data_dir and absolute(self.data_dir),
                "images": self.images and absolute(self.images),
                "model": self.model and self.model.absolute(),
                "answers": self.answers and absolute(self.answers),
                "output": absolute(self.output),
            }
        )


@dataclass(frozen=True)
class Generation:
    """The model that answers, and how."""

    model: ModelInfo
    dtype: torch.dtype
    device: str
    max_new_tokens: int
    batch_size: int


@dataclass(frozen=True)
class EvaluatePlan:
    """A job whose bench, candidate and judge were found and agree.

    Attributes:
        candidate: the model, or the answers of one by question id.
        decides: what the reviews depend on; bench, images, model and answers by their content.
    """

    job: EvaluateJob
    bench: Bench
    candidate: Generation | dict[int | str, AnswerRow]
    decides: dict[str, Any]


def plan(job: EvaluateJob) -> EvaluatePlan:
    """Open the bench, look at the candidate, and check that the judge can be asked; loads no weights, asks nothing.

    Raises:
        ConfigurationError: something cannot work; the message says what to do.
        DataError: a file is damaged, answers are missing, or the hub cannot be reached.
    """
    job = job.absolute()
    bench = open_bench(job.bench, job.data_dir, job.images, job.limit)
    judge = job.judge
    if judge.url is not None:
        check_judge()
    decides: dict[str, Any] = {
        "bench": bench.sha256,
        "questions": len(bench.questions),
        "judge url": judge.url,
        "judge model": judge.model,
        **judge.model_dump(mode="json", include={"order", "temperature", "max_tokens"}),
    }
    if job.answers is not None:
        file = location(job.answers)
        answers = by_question(file, read_rows(file, AnswerRow))
        if missing := [q.question_id for q in bench.questions if q.question_id not in answers]:
            raise DataError(
                f"--answers {file}: {len(missing):,} of {len(bench.questions):,} questions are not answered, the "
                f"first: {missing[0]}"
            )
        return EvaluatePlan(job, bench, answers, {**decides, "answers": file_sha256(file)})
    assert job.model is not None  # validated
    info = replace(inspect_model(demo.resolve(job.model.name, demo.MODEL)), name=job.model.name)
    if not info.family.takes_images:
        raise ConfigurationError(f"--model {job.model.name}: a text model sees no images")
    device, dtype = device_and_dtype(job.model)
    generation = Generation(info, dtype, device, job.max_new_tokens or bench.max_new_tokens, job.batch_size)
    decides |= {
        "images": bench.images_sha256(),
        "candidate": info.sha256,
        "dtype": str(dtype).removeprefix("torch."),
        "device": device,
        "max_new_tokens": generation.max_new_tokens,
        "batch_size": generation.batch_size,
    }
    return EvaluatePlan(job, bench, generation, decides)
