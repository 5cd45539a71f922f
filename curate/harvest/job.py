"""What `curate sae train` is asked to do, and the check that it can be done before anything is loaded."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from curate import demo
from curate.datasets import NAMED, DatasetSpec
from curate.datasets.documents import open_corpus
from curate.errors import ConfigurationError
from curate.harvest.activations import Harvest
from curate.models import ModelSpec, inspect_model
from curate.sae.train import TrainingParameters
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


@dataclass(frozen=True)
class TrainPlan:
    """A job whose data and model were found and agree."""

    job: SAETrainJob
    harvest: Harvest

    def decides(self) -> dict[str, Any]:
        """What the trained weights depend on; data and model by their content. Reads all data."""
        job, harvest = self.job, self.harvest
        fields = ("hook_layer", "context_size", "n_batches_in_buffer", "image_share", "batch_size")
        return {
            "model": harvest.model.sha256,
            "data": harvest.corpus.fingerprint(),
            "rows": job.dataset.model_dump(mode="json", exclude={"name", "data_dir", "split", "files"}),
            "decoded as": job.dataset.name if job.dataset.name in NAMED else "table",
            "device": harvest.device,
            "dtype": str(harvest.dtype).removeprefix("torch."),
            **job.model_dump(mode="json", include=set(fields)),
            **job.parameters.model_dump(mode="json"),
        }


def device_and_dtype(spec: ModelSpec, on_cluster: bool | None = None) -> tuple[str, torch.dtype]:
    """What computes, and in which precision.

    Args:
        on_cluster: whether the cluster that computes has GPUs; by default this machine computes.

    Raises:
        ConfigurationError: no GPU where one is asked for.
    """
    there = torch.cuda.is_available() if on_cluster is None else on_cluster
    if spec.device == "cuda" and not there:
        raise ConfigurationError(
            f"--device cuda: {'torch sees no GPU here' if on_cluster is None else 'the cluster has no GPU'}"
        )
    device = ("cuda" if there else "cpu") if spec.device == "auto" else spec.device
    name = ("bfloat16" if device == "cuda" else "float32") if spec.dtype == "auto" else spec.dtype
    return device, getattr(torch, name)


def plan(job: SAETrainJob) -> TrainPlan:
    """Open the data and look at the model; loads no weights.

    Raises:
        ConfigurationError: something cannot work; the message says what to do.
        DataError: data cannot be read, or the hub cannot be reached.
    """
    job = job.absolute()
    corpus = open_corpus(job.dataset)
    model = inspect_model(demo.resolve(job.model.name, demo.MODEL))
    name = job.model.name
    if job.hook_layer >= model.n_layers:
        raise ConfigurationError(f"--hook-layer {job.hook_layer}: {name} has layers 0 to {model.n_layers - 1}")
    parameters = job.parameters
    if parameters.architecture in ("topk", "batchtopk") and parameters.k > parameters.expansion * model.d_model:
        raise ConfigurationError(
            f"--k {parameters.k}: there are {parameters.expansion * model.d_model:,} features "
            f"({parameters.expansion} × {model.d_model})"
        )
    if job.image_share and not model.family.takes_images:
        raise ConfigurationError(f"--image-share {job.image_share}: {name} is a text model and sees no images")
    device, dtype = device_and_dtype(job.model)
    harvest = Harvest(
        corpus=corpus,
        model=replace(model, name=name, context=min(job.context_size, model.context)),
        hook_layer=job.hook_layer,
        dtype=dtype,
        device=device,
        batch_size=job.batch_size,
        image_share=job.image_share,
        seed=parameters.seed,
    )
    return TrainPlan(job, harvest)
