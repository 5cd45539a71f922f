"""What `curate sae evaluate` is asked to do."""

from collections import Counter
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from curate.datasets import DEMO, DatasetSpec
from curate.models import ModelSpec
from curate.storage import Location, absolute, absolute_if_there

ROWS = 200
# The demo world of this seed is evaluated. SAEs learn from seed 1,000,003, and `curate score` ranks seed 0.
HELD_OUT_SEED = 2_000_003
RESULT, PICTURE = "evaluation.json", "evaluation.svg"


class SAEEvaluateJob(BaseModel):
    """What `curate sae evaluate` is asked to do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["sae-evaluate"] = "sae-evaluate"
    saes: tuple[str, ...] = Field(
        default=(DEMO,), min_length=1, description="SAEs, each a folder or another name of one; or demo"
    )
    models: tuple[ModelSpec, ...] = Field(
        default=(), validate_default=True, description="models to judge them on; with the demo SAE alone, demo"
    )
    dataset: DatasetSpec = Field(
        default=DatasetSpec(limit=ROWS, seed=HELD_OUT_SEED),
        description=f"what they are judged on: preferences or documents; the first {ROWS} rows if it does not say",
    )
    hook_layer: int | None = Field(default=None, ge=0, description="the block they read, where their files do not say")
    batch_size: int = Field(default=8192, ge=1, description="tokens per forward pass, where loss is not computed")
    delta: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="a feature is active above it")
    loss: bool = Field(default=True, description="compute the loss recovered, which takes whole models")
    compare: bool = Field(
        default=False, description="say it in one row per SAE and model; seeds of one SAE share a row"
    )
    output: Location | None = Field(default=None, description=f"a folder to write {RESULT} and {PICTURE} to")
    plot: Location | None = Field(default=None, description="a picture to write, .svg or .png")

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        content = dict(content)
        if isinstance(content.get("saes"), str):
            content["saes"] = (content["saes"],)
        if not content.get("models"):
            if any(name != DEMO for name in content.get("saes") or ()):
                raise ValueError("--on: name the model to judge the SAE on")
            content["models"] = ({"name": DEMO},)
        data = content.get("dataset")
        if isinstance(data, dict):
            if data.get("limit") is None and data.get("sample") is None:
                data = {**data, "limit": ROWS}
            if data.get("name", DEMO) == DEMO and data.get("seed") is None:
                data = {**data, "seed": HELD_OUT_SEED}
            content["dataset"] = {key: value for key, value in data.items() if value is not None}
        return content

    @model_validator(mode="after")
    def _pictures(self) -> "SAEEvaluateJob":
        if self.plot is not None and not self.plot.lower().endswith((".svg", ".png")):
            raise ValueError(f"--plot {self.plot}: it can be an .svg or a .png")
        for what, names in (("SAE", self.saes), ("model", [model.name for model in self.models])):
            if repeated := [name for name, count in Counter(names).items() if count > 1]:
                raise ValueError(f"the {what} {repeated[0]} is named twice")
        return self

    def absolute(self) -> "SAEEvaluateJob":
        """The job with local paths made absolute."""
        return self.model_copy(
            update={
                "saes": tuple(name if name == DEMO else absolute_if_there(name) for name in self.saes),
                "models": tuple(model.absolute() for model in self.models),
                "dataset": self.dataset.absolute(),
                "output": self.output and absolute(self.output),
                "plot": self.plot and absolute(self.plot),
            }
        )
