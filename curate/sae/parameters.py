"""What an SAE is trained with."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Architecture = Literal["standard", "topk", "batchtopk", "jumprelu", "gated"]


class TrainingParameters(BaseModel):
    """What an SAE is trained with. Defaults are those of the SAE-V paper (Table 2), names those of sae_lens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: Architecture = Field(default="standard", description="standard is the paper's, with an L1 penalty")
    expansion: int = Field(default=16, ge=1, description="features per dimension of the hidden states")
    steps: int = Field(default=30_000, ge=1, description="optimizer steps")
    train_batch_size_tokens: int = Field(default=4096, ge=1, description="tokens of each step")
    lr: float = Field(default=5e-5, gt=0)
    lr_warm_up_steps: int = Field(default=0, ge=0, description="first steps, in which the rate rises from zero")
    lr_decay_steps: int = Field(
        default=None,
        validate_default=True,
        ge=0,
        description="last steps, in which the rate falls to zero; by default a fifth",
    )
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    l1_coefficient: float = Field(default=5.0, ge=0, description="standard, gated: weight of the sparsity penalty")
    l1_warm_up_steps: int = Field(
        default=None,
        validate_default=True,
        ge=0,
        description="standard, gated: steps in which it rises; by default a 20th",
    )
    l0_coefficient: float = Field(default=1.0, ge=0, description="jumprelu: weight of the sparsity penalty")
    l0_warm_up_steps: int = Field(
        default=None, validate_default=True, ge=0, description="jumprelu: steps in which it rises; by default a 20th"
    )
    k: int = Field(default=64, ge=1, description="topk, batchtopk: active features per token")
    dead_feature_window: int = Field(
        default=1000, ge=1, description="a feature is dead after as many steps in which it never fired"
    )
    dead_feature_threshold: float = Field(
        default=1e-4, gt=0, lt=1, description="features that fire on fewer tokens than this share are counted as rare"
    )
    feature_sampling_window: int = Field(default=1000, ge=1, description="steps that this share is taken over")
    autocast: bool = Field(default=False, description="bfloat16 matrix products")
    seed: int = Field(
        default=42, ge=0, lt=2**63, description="of weights, of the order of the data and of their mixing"
    )

    @field_validator("lr_decay_steps", "l1_warm_up_steps", "l0_warm_up_steps", mode="before")
    @classmethod
    def _share_of_steps(cls, given: Any, info: ValidationInfo) -> Any:
        """The paper's 6,000 and 1,500 of 30,000, in shorter trainings, too."""
        if given is not None:
            return given
        return info.data.get("steps", 0) // (5 if info.field_name == "lr_decay_steps" else 20)

    @model_validator(mode="after")
    def _fits(self) -> "TrainingParameters":
        if self.lr_warm_up_steps + self.lr_decay_steps > self.steps:
            raise ValueError(
                f"lr_warm_up_steps {self.lr_warm_up_steps:,} + lr_decay_steps {self.lr_decay_steps:,} are more than "
                f"the {self.steps:,} steps"
            )
        return self
