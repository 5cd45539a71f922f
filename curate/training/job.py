"""What `curate train` is asked to do."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from curate.models import ModelSpec
from curate.storage import LocalFolder, Location, absolute

Method = Literal["sft", "dpo"]


class TuningParameters(BaseModel):
    """How a model is fine-tuned. The defaults are those of the paper's Table 4."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_length: int = Field(default=4096, ge=2, description="samples with more tokens are left out, none is cut")
    batch_size: int = Field(default=8, ge=1, description="samples per forward pass of one worker")
    gradient_accumulation_steps: int = Field(default=4, ge=1, description="forward passes per optimizer step")
    lr: float = Field(default=1e-6, gt=0, allow_inf_nan=False, description="learning rate, at its highest")
    lr_scheduler: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    lr_warm_up_steps: int = Field(default=10, ge=0, description="first steps, in which the learning rate rises")
    epochs: float = Field(default=3, gt=0, allow_inf_nan=False, description="passes over the samples")
    max_steps: int | None = Field(default=None, ge=1, description="optimizer steps, instead of epochs")
    validation_share: float = Field(default=0.1, ge=0, lt=1, description="of the samples, not trained on")
    evaluate_every: int = Field(default=50, ge=1, description="steps between validations")
    checkpoint_every: int = Field(default=50, ge=1, description="steps between checkpoints")
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    beta: float = Field(default=0.1, gt=0, allow_inf_nan=False, description="of DPO: how near to the reference")
    freeze_vision_tower: bool = True
    lora_r: int | None = Field(default=None, ge=1, description="rank of LoRA's adapters; without, all is trained")
    lora_alpha: int | None = Field(default=None, gt=0, description="scale of LoRA; by default twice its rank")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    lora_target: tuple[str, ...] | None = Field(
        default=None, description="linear layers with adapters; by default all of the language model"
    )
    gradient_checkpointing: bool = Field(default=False, description="less memory, about a third more time")
    prepare_workers: int = Field(default=2, ge=1, description="threads that read and tokenize before the training")
    loader_workers: int = Field(default=0, ge=0, description="processes that make batches; 0: the one that trains")
    seed: int = Field(default=42, ge=0, description="of order, split and LoRA's first weights")

    @model_validator(mode="after")
    def _lora_is_asked_for(self) -> "TuningParameters":
        given = self.lora_alpha is not None or self.lora_dropout or self.lora_target is not None
        if given and self.lora_r is None:
            raise ValueError("--lora-r: LoRA's other options need its rank")
        return self


class TrainJob(BaseModel):
    """The fine-tuning of one model on one selection, fully spelled out."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    kind: Literal["train"] = "train"
    method: Method = Field(description="sft learns the chosen responses; dpo prefers them to the rejected ones")
    data: Location = Field(description="the selection's folder, or its URL")
    run: Location | None = Field(default=None, description="the run that was selected from, where it was moved")
    model: ModelSpec | None = Field(
        default=None, description="what is fine-tuned, and the precision of its computing; by default the run's model"
    )
    output: LocalFolder = Field(
        description="the folder of the fine-tuned model, on this machine or one that all workers share"
    )
    parameters: TuningParameters = TuningParameters()
    workers: int = Field(default=1, ge=1, description="processes that train, each with a GPU where there are GPUs")
    strategy: Literal["ddp", "fsdp"] = Field(
        default="ddp", description="of several: whole models, or each a part of one"
    )
    address: str | None = Field(
        default=None,
        description="a running Ray cluster to train on; by default that of RAY_ADDRESS, else this machine",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "TrainJob":
        if self.strategy == "fsdp" and self.workers == 1:
            raise ValueError("--strategy fsdp divides a model between workers: give --workers, or leave it out")
        if self.parameters.lora_r is not None and not self.parameters.freeze_vision_tower:
            raise ValueError("--train-vision-tower: with --lora-r only adapters are trained; leave one out")
        if self.strategy == "fsdp" and self.parameters.lora_r is not None:
            raise ValueError("--strategy fsdp shards what is trained, and LoRA trains little: take ddp with it")
        if self.model is not None and self.model.dtype == "float16":
            raise ValueError("--dtype float16: gradients vanish in it; take bfloat16 or float32")
        return self

    def absolute(self) -> "TrainJob":
        """The job with local paths made absolute."""
        places = {
            "data": absolute(self.data),
            "run": self.run and absolute(self.run),
            "model": self.model and self.model.absolute(),
            "output": absolute(self.output),
        }
        return self.model_copy(update=places)


# Fields of a job. The paper's are those of its Table 4, which are the defaults, too.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "parameters": {
            "max_length": 4096,
            "batch_size": 8,
            "gradient_accumulation_steps": 4,
            "lr": 1e-6,
            "lr_scheduler": "cosine",
            "lr_warm_up_steps": 10,
            "epochs": 3,
            "validation_share": 0.1,
            "evaluate_every": 50,
        }
    },
    "demo": {
        "parameters": {
            "batch_size": 16,
            "gradient_accumulation_steps": 1,
            "lr": 5e-4,
            "lr_warm_up_steps": 2,
            "epochs": 1,
            "evaluate_every": 10,
            "checkpoint_every": 20,
        }
    },
}
