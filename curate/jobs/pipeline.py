"""Stages that take each other's outputs: the DAG of a pipeline."""

import re
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from curate.evaluation.job import EvaluateJob
from curate.harvest.job import SAETrainJob
from curate.manifest.select import SelectJob
from curate.pipeline.job import ScoreJob
from curate.training.job import TrainJob

Stage = Annotated[ScoreJob | SelectJob | SAETrainJob | TrainJob | EvaluateJob, Field(discriminator="kind")]
STAGE_KINDS = [stage.model_fields["kind"].default for stage in get_args(get_args(Stage)[0])]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][\w-]*$")]
_REFERENCE = re.compile(r"\$\{([^}]*)\}")


class PipelineJob(BaseModel):
    """Stages by name. Where a field of one is `${name}`, it takes the output of the stage of that name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["pipeline"] = "pipeline"
    stages: dict[Name, Stage] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_a_dag(self) -> "PipelineJob":
        for name, stage in self.stages.items():
            for other in references(stage):
                if other not in self.stages:
                    raise ValueError(f"stage {name} names ${{{other}}}; there are: {', '.join(self.stages)}")
                if self.stages[other].output is None:
                    raise ValueError(f"stage {name} names ${{{other}}}, so the stage {other} must say its output")
        try:
            self.order()
        except CycleError as error:
            raise ValueError(f"the stages {' → '.join(error.args[1])} wait for each other") from error
        return self

    def order(self) -> list[str]:
        """The stages' names, each after those whose outputs it takes."""
        return list(TopologicalSorter({name: references(stage) for name, stage in self.stages.items()}).static_order())

    def absolute(self) -> "PipelineJob":
        """The pipeline with its stages' local paths made absolute."""
        return PipelineJob(stages={name: stage.absolute() for name, stage in self.stages.items()})

    def resolved(self, name: str) -> Stage:
        """A stage with the outputs of others in place of their names."""
        stage = self.stages[name]
        outputs = {other: self.stages[other].output for other in references(stage)}
        return type(stage).model_validate(_filled(stage.model_dump(), outputs))


def references(stage: BaseModel) -> list[str]:
    """The names of the stages whose outputs a stage takes, in order of its fields."""
    return list(dict.fromkeys(name for text in _strings(stage.model_dump()) for name in _REFERENCE.findall(text)))


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [text for part in inner for text in _strings(part)]


def _filled(value: Any, outputs: dict[str, str | None]) -> Any:
    if isinstance(value, str):
        return _REFERENCE.sub(lambda match: str(outputs[match[1]]), value)
    if isinstance(value, dict):
        return {key: _filled(part, outputs) for key, part in value.items()}
    return [_filled(part, outputs) for part in value] if isinstance(value, list | tuple) else value
