"""What `curate sae train` is asked to do."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from curate import demo
from curate.datasets import DatasetSpec
from curate.models import ModelSpec
from curate.sae.parameters import TrainingParameters
from curate.storage import LocalFolder, absolute

Logger = Literal["tensorboard", "wandb"]


class SAETrainJob(BaseModel):
    """The training of one SAE, fully spelled out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["sae-train"] = "sae-train"
    output: LocalFolder = Field(description="the folder of the SAE, on this machine")
    model: ModelSpec
    dataset: DatasetSpec = DatasetSpec()
    hook_layer: int = Field(ge=0, description="hidden states after this decoder block are learned")
    context_size: int = Field(
        default=4096, ge=2, description="tokens of an input at most; longer documents are cut into several"
    )
    n_batches_in_buffer: int = Field(
        default=32, ge=1, description="size of the shuffling buffer, in inputs of context_size tokens"
    )
    image_share: float | None = Field(
        default=None, ge=0, le=1, description="share of image tokens; by default as the data have it"
    )
    batch_size: int = Field(default=8192, ge=1, description="tokens per forward pass")
    parameters: TrainingParameters = TrainingParameters()
    checkpoint_every: int = Field(default=1000, ge=1, description="steps between checkpoints")
    log_every: int = Field(default=10, ge=1, description="steps between lines of curve.jsonl")
    log_to: tuple[Logger, ...] = Field(default=(), description="loggers beside curve.jsonl")
    prepare_workers: int = Field(default=2, ge=1, description="threads that decode and tokenize")
    harvesters: int = Field(
        default=0, ge=0, description="Ray actors that run the model; with 0 the process that trains does, too"
    )
    address: str | None = Field(default=None, description="a running Ray cluster, for harvesters")

    def absolute(self) -> "SAETrainJob":
        """The job with local paths made absolute."""
        places = {"output": absolute(self.output), "dataset": self.dataset.absolute(), "model": self.model.absolute()}
        return self.model_copy(update=places)


# Fields of a job by what is trained. The paper's are those of its Table 2.
PRESETS: dict[str, dict[str, Any]] = {
    "llava-next-7b": {
        "model": {"name": "llava-hf/llava-v1.6-mistral-7b-hf"},
        "hook_layer": 16,
        "context_size": 4096,
        "n_batches_in_buffer": 32,
        "parameters": {"expansion": 16},
    },
    "chameleon-7b": {
        "model": {"name": "facebook/chameleon-7b"},
        "hook_layer": 8,
        "context_size": 2048,
        "n_batches_in_buffer": 64,
        "parameters": {"expansion": 32},
    },
    "demo": {
        "model": {"name": demo.NAME},
        "hook_layer": demo.HOOK_LAYER,
        "dataset": {"limit": 100_000, "seed": 1_000_003},
        "checkpoint_every": 100,
        "parameters": {
            "architecture": "batchtopk",
            "k": 12,
            "expansion": 8,
            "steps": 600,
            "lr": 3e-3,
            # Short, so that the auxiliary loss has time to revive dead features.
            "dead_feature_window": 30,
        },
    },
}
