"""The decisions where the SAE-V paper and its published code differ; the default comes first."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

CosineOver = Literal["cooccurring", "active"]
WeightRule = Literal["per-modality", "merged"]


def _bound(value: object) -> object:
    """Words for what pydantic would say of each type of the union."""
    try:
        fits = value == "auto" or 0 <= float(value) < float("inf")  # type: ignore[arg-type]
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"{value!r} is neither a number from 0 nor auto")
    return value


Delta = Annotated[Literal["auto"] | Annotated[float, Field(ge=0, allow_inf_nan=False)], BeforeValidator(_bound)]


class MetricParameters(BaseModel):
    """What the metrics of a run depend on beside activations."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    delta: Delta = Field(
        default="auto",
        description="activation bound: active means z > delta; auto is 1 for an SAE in normalised units, as published, "
        "and 0 for one with a threshold of its own in raw units",
    )
    cosine_over: CosineOver = Field(
        default="cooccurring",
        description="features that cosine sums over: cooccurring (published code) or active (paper)",
    )
    top_k: int = Field(default=5, ge=1, le=1000, description="K: tokens per modality behind a feature weight")
    weight_rule: WeightRule = Field(
        default="per-modality",
        description="top tokens: the K strongest per modality (paper), or K of each among the 30 strongest (code)",
    )
    seed: int = Field(default=0, description="of the random metric")

    @property
    def bound(self) -> float:
        """delta as a number; `auto` is the published code's 1 until an SAE settles it."""
        return 1.0 if self.delta == "auto" else self.delta

    def settled(self, default: float) -> Self:
        """The same with a number in place of `auto`."""
        return self.model_copy(update={"delta": default}) if self.delta == "auto" else self
