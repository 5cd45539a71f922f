"""What `curate score` is asked to do. The job's plan (`curate.pipeline.plan`) checks that it can be done."""

import os
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from curate.datasets import DEMO, DatasetSpec
from curate.models import DEFAULT_MODEL, ModelSpec
from curate.pipeline.resources import Resources
from curate.scoring.parameters import ScoringParameters
from curate.scoring.sae import sae_for
from curate.storage import Location, absolute, absolute_if_there


class ScoreJob(BaseModel):
    """One execution of scoring, fully spelled out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["score"] = "score"
    output: Location = Field(description="the run folder, or its URL")
    dataset: DatasetSpec = DatasetSpec()
    model: ModelSpec = Field(
        default=None, validate_default=True, description=f"by default demo for the demo data, else {DEFAULT_MODEL}"
    )
    sae: str = Field(
        default=None,
        validate_default=True,
        description="a folder, a name of `curate saes`, RELEASE:SAE_ID of sae_lens, or OWNER/REPO/FOLDER@REVISION; by "
        "default the one that is known for the model",
    )
    parameters: ScoringParameters = ScoringParameters()
    weights: Location | None = Field(default=None, description="feature weights to reuse instead of computing them")
    allow_model_mismatch: bool = Field(default=False, description="score with an SAE that was trained on another model")
    allow_poor_fit: bool = Field(
        default=False, description="score even if the SAE reconstructs the data worse than their mean does"
    )
    resources: Resources = Resources()
    shard_rows: int = Field(default=512, ge=1, description="rows per range; batches never cross ranges")
    sample_timeout: float = Field(
        default=300,
        gt=0,
        le=86_400,
        description="seconds after which a sample that hangs is given up; a batch has them for each",
    )
    max_error_rate: float = Field(
        default=0.05, ge=0, le=1, description="stop once more than this share of all rows failed"
    )

    def absolute(self) -> "ScoreJob":
        """The job with local paths made absolute: other processes, and other sessions, have other working folders."""

        return self.model_copy(
            update={
                "output": absolute(self.output),
                "dataset": self.dataset.absolute(),
                "model": self.model.absolute(),
                "sae": self.sae if self.sae == DEMO else absolute_if_there(self.sae),
                "weights": self.weights and absolute(self.weights),
            }
        )

    @field_validator("model", mode="before")
    @classmethod
    def _default_model(cls, model: Any, info: ValidationInfo) -> Any:
        """Real data are never ranked with the demo model unasked."""
        given = {} if model is None else model
        if not isinstance(given, dict) or given.get("name") is not None:
            return given
        real = "dataset" in info.data and info.data["dataset"].name != DEMO
        return {**given, "name": DEFAULT_MODEL if real else DEMO}

    @field_validator("sae", mode="before")
    @classmethod
    def _default_sae(cls, sae: Any, info: ValidationInfo) -> Any:
        return sae_for(info.data["model"].name, sae) if "model" in info.data else sae


def inside(content: dict[str, Any] | None, part: str, output: str) -> dict[str, Any]:
    """The fields of a job that is a part of another one, which says where it writes.

    Raises:
        ValueError: they say that it writes elsewhere.
    """
    given = (content or {}).get("output")
    if given is not None and os.path.normpath(str(given)) != os.path.normpath(output):
        raise ValueError(f"{part}.output: {given} ≠ {output}, where this is always written; leave it out")
    return {**(content or {}), "output": output}
