"""What `curate evaluate` is asked to do."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from curate import demo
from curate.evaluation.benches import NAMES
from curate.evaluation.benches.demo import NAME as DEMO_BENCH
from curate.evaluation.judge import JudgeSpec
from curate.models import ModelSpec
from curate.storage import LocalFolder, Location, absolute, absolute_if_there


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
