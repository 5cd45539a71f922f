"""What `curate probe` is asked to do."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from curate.interpret.pooling_rule import Pooling, Tokens
from curate.interpret.study import ManySAEsJob, once_each

Share = Annotated[float, Field(gt=0, lt=1)]
Threshold = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class ProbeJob(ManySAEsJob):
    """What `curate probe` is asked to do."""

    kind: Literal["probe"] = "probe"
    poolings: tuple[Pooling, ...] = Field(
        default=("sum", "max", "top-1", "top-5"),
        min_length=1,
        description="of activations over tokens: sum, max, or top-K, the sum of each token's K strongest",
    )
    tokens: Tokens = Field(default="image", description="the tokens that are pooled")
    binarise: tuple[Threshold, ...] = Field(
        default=(0.0,), description="pooled features are taken as they are, and as 1 above each of these and else 0"
    )
    train_shares: tuple[Share, ...] = Field(
        default=(0.1, 0.2, 0.3, 0.4, 0.5), min_length=1, description="shares of images to learn from; the rest judge"
    )
    feature_counts: tuple[Count, ...] = Field(
        default=(1, 5, 10, 50, 100, 500),
        description="with the largest share, also with so many features alone, those of the highest ANOVA F",
    )
    repeats: int = Field(default=3, ge=1, description="random splits at each share")
    seed: int = Field(default=0, ge=0, description="of the first split; each further one has the next")
    inverse_regularisation: float = Field(default=1.0, gt=0, description="C of scikit-learn's LogisticRegression")
    max_iter: int = Field(default=1000, ge=1, description="its iterations at most")
    workers: int = Field(default=1, ge=1, description="processes that fit classifiers, with one thread each")

    @field_validator("poolings", "binarise", "train_shares", "feature_counts")
    @classmethod
    def _once_each(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return once_each(values)

    def parameters(self) -> dict[str, Any]:
        """What figures depend on beside images, model and SAEs."""
        left = {"output", "images", "model", "hook_layer", "allow_model_mismatch", "kind", "saes", "workers"}
        return self.model_dump(mode="json", exclude=left)


class Representation(BaseModel):
    """What a classifier is given of an image: pooled features, or, without an SAE, what the vision tower says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sae: str | None = Field(default=None, description="None of the vision tower, the mean over its patches")
    hook_layer: int | None = None
    pooling: str | None = None
    threshold: float | None = Field(default=None, description="1 above it, else 0; None where features are as they are")

    @property
    def label(self) -> str:
        """Its name for people, without the SAE's."""
        if self.sae is None:
            return "vision tower"
        return f"{self.pooling}" if self.threshold is None else f"{self.pooling} > {self.threshold:g}"
