"""The check that a job of `curate sae train` can be done, before anything is loaded."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from curate import demo
from curate.datasets import NAMED
from curate.datasets.documents import open_corpus
from curate.errors import ConfigurationError
from curate.harvest.activations import Harvest
from curate.harvest.job import SAETrainJob
from curate.models import ModelSpec
from curate.models.families import inspect_model


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
