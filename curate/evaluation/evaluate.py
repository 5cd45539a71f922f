"""An evaluation: a bench's questions answered, the answers judged, the scores summed up, and all of it resumable."""

import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from curate import __version__
from curate.errors import ConfigurationError, DataError, RunStopped
from curate.evaluation.answers import CUT, answered
from curate.evaluation.judging import RULES_JUDGE, reviewed
from curate.evaluation.plan import EvaluatePlan, Generation
from curate.evaluation.reviews import scored
from curate.evaluation.summary import Figures, Summary, summarize
from curate.manifest.atomic import write_text
from curate.manifest.inputs import INPUTS_FILE, RunInputs, own_files, read_inputs, write_inputs
from curate.manifest.lock import LOCK, locked
from curate.storage import location

ANSWERS, REVIEWS, FAILED_REVIEWS, RECORD = "answers.jsonl", "reviews.jsonl", "failed-reviews.jsonl", "evaluation.json"
OURS = {ANSWERS, REVIEWS, FAILED_REVIEWS, RECORD, INPUTS_FILE, LOCK}


class Step(NamedTuple):
    """How far an evaluation is: `answers` in questions, `reviews` in reviews."""

    stage: str
    done: int
    total: int


class JudgeRecord(BaseModel):
    """Who judged, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="the judge's model, or rules")
    url: str | None
    order: str


class EvaluationRecord(BaseModel):
    """The whole of `evaluation.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    job: dict[str, Any]
    decides: dict[str, Any] = Field(description="what the reviews depend on; bench, images and candidate by content")
    bench: str
    candidate: str = Field(description="the model whose answers were judged")
    judge: JudgeRecord
    questions: int
    unanswered: int = Field(description="questions that do not fit the model, and are in no figure")
    cut: int = Field(description="answers that came to no end, and were judged as far as they go")
    summary: Summary
    seconds: float = Field(description="of the last session")
    versions: dict[str, str]

    @property
    def score(self) -> float:
        """The pooled relative score, in %."""
        return self.summary.pooled.relative

    @property
    def categories(self) -> dict[str, Figures]:
        """The figures by category."""
        return self.summary.categories


def evaluate(
    the_plan: EvaluatePlan, report: Callable[[Step], None], overwrite: bool = False, retry_failed: bool = False
) -> EvaluationRecord:
    """Evaluate as planned, or go on with it where it was cut off; what is done already is not done again.

    Args:
        overwrite: begin anew.
        retry_failed: ask the judge again where it said no scores.

    Raises:
        ConfigurationError: the output folder holds something else, or an evaluation with other settings.
        DataError: a file of it is damaged.
        RunStopped: out of memory; the judge refuses or fails time after time; no question has scores.
    """
    output = Path(the_plan.job.output)
    try:
        with locked(location(str(output))):
            _check_output(output, the_plan, overwrite)
            if (record := _whole(output / RECORD)) is not None:
                if not (retry_failed and record.summary.failures):
                    return record
                (output / RECORD).unlink()  # which says what will not be true any more
            return _evaluate(the_plan, output, report, retry_failed)
    except KeyboardInterrupt as stop:
        raise type(stop)(
            f"interrupted; {output} keeps what was answered and judged; the same command, without --overwrite, goes on "
            "from there"
        ) from None


def _whole(file: Path) -> EvaluationRecord | None:
    try:
        return EvaluationRecord.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise DataError(f"{file} is damaged; remove it, and the same command makes it anew") from error


def _evaluate(
    the_plan: EvaluatePlan, output: Path, report: Callable[[Step], None], retry_failed: bool
) -> EvaluationRecord:
    begun = time.monotonic()
    job, bench, candidate = the_plan.job, the_plan.bench, the_plan.candidate
    n = len(bench.questions)
    if isinstance(candidate, Generation):
        answers = answered(bench, candidate, output / ANSWERS, lambda done: report(Step("answers", done, n)))
    else:
        answers = candidate
    reviews = reviewed(
        bench,
        answers,
        job.judge,
        output / REVIEWS,
        output / FAILED_REVIEWS,
        retry_failed,
        lambda done, total: report(Step("reviews", done, total)),
    )
    try:
        summary = summarize(*scored(reviews))
    except DataError as error:
        raise RunStopped(f"{error}; {output / REVIEWS} has the replies, and --retry-failed asks again") from error
    record = EvaluationRecord(
        version=__version__,
        job=job.model_dump(mode="json", exclude_none=True),
        decides=the_plan.decides,
        bench=job.bench,
        candidate=candidate.model.name if isinstance(candidate, Generation) else _model_of(the_plan),
        judge=JudgeRecord(name=job.judge.model or RULES_JUDGE, url=job.judge.url, order=job.judge.order),
        questions=n,
        unanswered=sum("error" in answers[question.question_id].metadata for question in bench.questions),
        cut=sum(CUT in answers[question.question_id].metadata for question in bench.questions),
        summary=summary,
        seconds=round(time.monotonic() - begun, 3),
        versions=_versions(the_plan),
    )
    write_text(location(str(output / RECORD)), record.model_dump_json(indent=2) + "\n")
    return record


def _model_of(the_plan: EvaluatePlan) -> str:
    """The model that answers which were given say they are of, or else their file."""
    assert isinstance(the_plan.candidate, dict)
    names = {answer.model_id for answer in the_plan.candidate.values()}
    return next(iter(names)) or str(the_plan.job.answers) if len(names) == 1 else str(the_plan.job.answers)


def _check_output(output: Path, the_plan: EvaluatePlan, overwrite: bool) -> None:
    found = own_files(output, OURS, "evaluation")
    if overwrite:
        for name in found:
            (output / name).unlink()
    root = location(str(output))
    begun = read_inputs(root)
    job = the_plan.job.model_dump(mode="json", exclude_none=True)
    inputs = RunInputs(arguments=job, decides=the_plan.decides, versions=_versions(the_plan))
    if begun is None:
        if found and not overwrite:
            raise ConfigurationError(f"--output {output} holds {min(found)} of an unknown evaluation; choose another")
        write_inputs(root, inputs)
    elif differences := begun.differences(inputs):
        raise ConfigurationError(
            f"--output {output} holds an evaluation with another {'; '.join(differences)}; choose another folder, or "
            "--overwrite"
        )


def _versions(the_plan: EvaluatePlan) -> dict[str, str]:
    names = ["torch", "transformers"] if isinstance(the_plan.candidate, Generation) else []
    names += ["openai"] if the_plan.job.judge.url is not None else []
    return {"curate": __version__, **{name: version(name) for name in names}}
