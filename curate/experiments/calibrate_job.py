"""What `curate calibrate` is asked to do."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from curate.experiments.calibration import CONTROLS
from curate.experiments.damage import DAMAGES
from curate.metrics import METRICS
from curate.pipeline.job import ScoreJob, inside
from curate.storage import LocalFolder, absolute

ORIGINAL, DAMAGED, SAMPLES, PLOT = "original", "damaged", "samples", "calibration.png"


class CalibrateJob(BaseModel):
    """What `curate calibrate` is asked to do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["calibrate"] = "calibrate"
    output: LocalFolder = Field(
        description="the folder of all that is made, on this machine or one that all workers share"
    )
    score: ScoreJob = Field(
        default=None, validate_default=True, description="which data, and how they are scored; by default every metric"
    )
    samples: int = Field(default=500, ge=2, description="drawn from the data, each with a copy of every damage")
    damages: tuple[str, ...] = Field(default=tuple(DAMAGES), min_length=1, description="kinds of damage")
    seed: int = Field(default=0, description="of the draw, and of the damages")

    @field_validator("score", mode="before")
    @classmethod
    def _score_into_output(cls, score: Any, info: ValidationInfo) -> Any:
        """Every metric there is, or those that are named, and always the controls."""
        if not isinstance(score, dict | None) or "output" not in info.data:
            return score
        content = inside(score, "score", f"{info.data['output']}/{ORIGINAL}")
        parameters = {"metrics": tuple(METRICS), **(content.get("parameters") or {})}
        metrics = parameters["metrics"]
        if isinstance(metrics, list | tuple):
            parameters["metrics"] = (*metrics, *(name for name in CONTROLS if name not in metrics))
        return {**content, "parameters": parameters}

    @field_validator("damages")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in names if name not in DAMAGES]:
            raise ValueError(f"no damage {', '.join(unknown)}; there are: {', '.join(DAMAGES)}")
        return tuple(dict.fromkeys(names))

    def absolute(self) -> "CalibrateJob":
        """The job with local paths made absolute."""
        return self.model_copy(update={"output": absolute(self.output), "score": self.score.absolute()})
