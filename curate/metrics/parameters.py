"""The decisions where the SAE-V paper and its published code differ; the default comes first."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

CosineOver = Literal["cooccurring", "active"]
WeightRule = Literal["per-modality", "merged"]


class MetricParameters(BaseModel):
    """What the metrics of a run depend on beside activations."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    delta: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="activation bound: active means z > delta")
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
