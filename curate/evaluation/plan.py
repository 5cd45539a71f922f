"""The check that a job of `curate evaluate` can be done, before anything is loaded or asked."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from curate import demo
from curate.errors import ConfigurationError, DataError
from curate.evaluation.benches import open_bench
from curate.evaluation.benches.bench import Bench
from curate.evaluation.benches.folder import AnswerRow, by_question, read_rows
from curate.evaluation.job import EvaluateJob
from curate.evaluation.judge import check_judge
from curate.fingerprint import file_sha256
from curate.harvest.plan import device_and_dtype
from curate.models.families import inspect_model
from curate.models.family import ModelInfo
from curate.storage import location


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
