"""The check that a job of `curate score` can be done, before anything is loaded; `Plan` is what it finds."""

import os
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from curate.datasets import DEMO, Dataset, open_dataset
from curate.errors import ConfigurationError
from curate.manifest.inputs import INPUTS_FILE, RunInputs, read_inputs, versions
from curate.manifest.weights import WeightsRecord, given_weights
from curate.models.family import ModelInfo
from curate.pipeline.connection import cluster_has_gpus
from curate.pipeline.job import ScoreJob
from curate.pipeline.resources import Resources
from curate.sae.dictionary import DictionaryInfo
from curate.scoring.pair import Pair, agree
from curate.storage import location


@dataclass(frozen=True)
class Plan:
    """A job whose inputs were found and agree; what workers need is in here, and cheap to pickle."""

    job: ScoreJob
    dataset: Dataset
    model: ModelInfo
    sae: DictionaryInfo
    hook_layer: int
    data_stamp: str
    weights: WeightsRecord | None
    device: str
    dtype: torch.dtype
    cpus_per_actor: int
    notes: tuple[str, ...]

    @cached_property
    def dataset_sha256(self) -> str:
        """SHA-256 of the data's content. The first use reads all of it, which may take hours."""
        return self.dataset.fingerprint()

    def read_with(self, scale: float) -> "Plan":
        """The plan with the SAE's activation scale, which its config left open."""
        settled = replace(self, sae=replace(self.sae, scale=scale))
        if "dataset_sha256" in vars(self):  # which may have taken hours
            vars(settled)["dataset_sha256"] = self.dataset_sha256
        return settled

    @property
    def gpus_per_actor(self) -> float:
        if self.device != "cuda":
            return 0.0
        gpus = self.job.resources.gpus_per_actor
        return 1.0 if gpus is None else gpus


def plan(job: ScoreJob, overwrite: bool = False) -> Plan:
    """Open the data, look at model and SAE, and check that all agree; loads no weights.

    Args:
        overwrite: whether the run in `job.output` is to be replaced, so that nothing in it can be used.

    Raises:
        ConfigurationError: something cannot work; the message says what to do.
        DataError: data cannot be read, or the hub cannot be reached.
    """
    job = job.absolute()
    dataset = open_dataset(job.dataset)
    return fitted(job, dataset, agreeing(job), overwrite)


def fitted(job: ScoreJob, dataset: Dataset, pair: Pair, overwrite: bool = False) -> Plan:
    """The plan of a job whose paths are absolute, over its opened data and its model and SAE; as `plan`."""
    model, sae, layer, notes = pair
    notes = list(notes)
    if job.parameters.delta == "auto" and sae.architecture == "standard" and sae.units == "raw":
        notes.append(
            f"delta is {sae.default_delta:g}, the published bound in normalised units; the SAE's config names no "
            "normalisation, so its activations may be in others: --delta sets another bound"
        )
    job = job.model_copy(update={"parameters": job.parameters.settled(sae.default_delta)})
    # Before the content is hashed: what changes meanwhile must look changed.
    stamp = dataset.stamp()
    if job.model.name == DEMO and job.dataset.name != DEMO:
        notes.append("the demo model knows only its toy world: ranks of other data say nothing about quality")
    if len(dataset) < dataset.source.n_rows:
        notes.append(f"{len(dataset):,} of the {dataset.source.n_rows:,} rows of {dataset.name} were picked")
    device, dtype = device_and_dtype(job, None if overwrite else read_inputs(location(job.output)))
    if dtype is not torch.float32:
        notes.append(
            f"computed in {str(dtype).removeprefix('torch.')}: with another batch size or number of actors scores "
            "may change by more than 1e-5"
        )
    if device == "cpu" and job.resources.cluster and job.model.device == "auto":
        notes.append("the cluster has no GPU now, so CPUs compute; --device cuda waits for one")
    if job.weights is not None and not job.parameters.needs_weights:
        raise ConfigurationError("--weights: none of the metrics asked for needs feature weights")
    weights = _reused_weights(job, model, sae, layer, overwrite)
    if not job.parameters.reads_activations and sae.scale is None:
        sae = replace(sae, scale=1.0)  # it decides no score
    if weights is not None and weights.sae_scale is not None and sae.scale is None:
        sae = replace(sae, scale=weights.sae_scale)
        notes.append(f"the SAE's activation scale is {sae.scale:g}, as in the run of --weights {job.weights}")
    _keep_inputs_out_of_output(job, dataset, model, sae)
    return Plan(
        job=job,
        dataset=dataset,
        model=model,
        sae=sae,
        hook_layer=layer,
        data_stamp=stamp,
        weights=weights,
        device=device,
        dtype=dtype,
        cpus_per_actor=_cpus_per_actor(job.resources, device),
        notes=tuple(notes),
    )


def agreeing(job: ScoreJob) -> Pair:
    """The job's model and SAE; errors as of `agree`."""
    return agree(job.model.name, job.sae, job.parameters.hook_layer, job.allow_model_mismatch)


def _keep_inputs_out_of_output(job: ScoreJob, dataset: Dataset, model: ModelInfo, sae: DictionaryInfo) -> None:
    """An --output that is overwritten must not take an input with it."""
    output = location(job.output).resolve()
    table = location(job.dataset.name)
    holds_tables = not dataset.layout.repo and table.is_dir() and output.protocol == table.protocol
    if holds_tables and output.is_relative_to(table.resolve()):
        raise ConfigurationError(f"--output {job.output} lies in the data folder {table}; choose another")
    reads = [dataset.root, *dataset.files, location(str(model.path)), location(str(sae.path))]
    for what in reads if job.weights is None else [location(job.weights), *reads]:
        if what is not None and what.protocol == output.protocol and what.resolve().is_relative_to(output):
            raise ConfigurationError(f"--output {job.output} holds {what}, which the run reads; choose another")


def device_and_dtype(job: ScoreJob, begun: RunInputs | None) -> tuple[str, torch.dtype]:
    """What computes, and in which precision; a cluster's GPUs count, not those of the machine that asks.

    Args:
        begun: of the run that goes on, which takes the device that it was begun with.

    Raises:
        ConfigurationError: no GPU where one is asked for, or no cluster at the address.
    """
    device, cluster, gpus = job.model.device, job.resources.cluster, job.resources.gpus_per_actor
    if device == "auto" and begun is not None and begun.decides.get("device") in ("cpu", "cuda"):
        device = str(begun.decides["device"])
        if device == "cuda" and not cluster and not torch.cuda.is_available():
            raise ConfigurationError(f"{job.output} was begun on a GPU, and torch sees none here")
    if device == "auto":
        there = (bool(gpus) or cluster_has_gpus(cluster)) if cluster else torch.cuda.is_available()
        device = "cuda" if there else "cpu"
    if device == "cuda" and not cluster and not torch.cuda.is_available():
        raise ConfigurationError("--device cuda: torch sees no GPU here")
    dtype = job.model.dtype
    name = ("bfloat16" if device == "cuda" else "float32") if dtype == "auto" else dtype
    return device, getattr(torch, name)


def _cpus_per_actor(resources: Resources, device: str) -> int:
    if resources.cpus_per_actor is not None:
        return resources.cpus_per_actor
    alone = resources.cluster is None and device == "cpu"
    return max(1, (os.cpu_count() or 1) // resources.actors) if alone else 1


def _reused_weights(
    job: ScoreJob, model: ModelInfo, sae: DictionaryInfo, layer: int, overwrite: bool
) -> WeightsRecord | None:
    if job.weights is None:
        return None
    source, own = location(job.weights), location(job.output)
    # A run that goes on has its own copy of what it was given, which `inputs` compares with what it was begun with.
    resumed = not overwrite and (own / INPUTS_FILE).is_file()
    _, record = given_weights(
        job.output if resumed and not source.exists() else job.weights,
        model_sha256=model.sha256,
        sae_sha256=sae.sha256,
        hook_layer=layer,
        top_k=job.parameters.top_k,
        rule=job.parameters.weight_rule,
        text=job.parameters.weights_text,
    )
    return record


def inputs(plan: Plan) -> RunInputs:
    """What a run of this plan is begun with. Where data lie, and how many workers score them, decides nothing."""
    job, dataset = plan.job, plan.dataset
    decides = {
        "data hash": plan.dataset_sha256,
        "rows": len(dataset),
        **job.dataset.model_dump(mode="json", include={"columns", "limit", "sample", "seed", "image_size"}),
        "model hash": plan.model.sha256,
        "SAE hash": plan.sae.sha256,
        "given weights hash": None if plan.weights is None else plan.weights.sha256,
        **job.parameters.model_dump(mode="json"),
        "hook_layer": plan.hook_layer,
        "batch_size": job.parameters.tokens_per_pass(plan.device),
        "shard rows": job.shard_rows,
        "device": plan.device,
        "dtype": str(plan.dtype).removeprefix("torch."),
    }
    return RunInputs(arguments=job.model_dump(mode="json"), decides=decides, versions=versions("ray", "pyarrow"))
