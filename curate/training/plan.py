"""The check that a job of `curate train` can be done, before any weights are loaded."""

import math
import shutil
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from upath import UPath

from curate import demo
from curate.datasets import Dataset, DatasetSpec, open_dataset
from curate.errors import ConfigurationError, DataError, SampleError
from curate.harvest.plan import device_and_dtype
from curate.manifest.inputs import own_files
from curate.manifest.record import read_record
from curate.manifest.selection import SelectionRecord, read_selection, samples_sha256
from curate.models import ModelSpec
from curate.models.families import inspect_model
from curate.models.family import ModelInfo
from curate.pipeline.connection import cluster_has_gpus
from curate.pipeline.resources import cluster_address
from curate.training.folder import OURS
from curate.training.job import TrainJob, TuningParameters

FAMILIES = ("llava_next", "llava", "chameleon")
BYTES_WITH_OPTIMIZER = 12  # float32 weights, and the two moments of Adam
_CHECKPOINTS = 3  # two are kept, and one is being written


@dataclass(frozen=True)
class TrainPlan:
    """A job whose selection, data and model were found and agree.

    Attributes:
        rows: the selection's, in order of their source rows.
        positions: of these rows in the data set.
        dtype: of computing; what is trained is kept in float32.
    """

    job: TrainJob
    selection: SelectionRecord
    rows: pa.Table
    dataset: Dataset
    positions: tuple[int, ...]
    model: ModelInfo
    device: str
    dtype: torch.dtype

    def decides(self) -> dict[str, Any]:
        """What the trained weights depend on; data and model by their content, a selection by what it keeps."""
        job = self.job
        only_speed = {"checkpoint_every", "prepare_workers", "loader_workers"}
        return {
            "method": job.method,
            "run": self.selection.run_hash,
            "selection": samples_sha256(self.rows["sample_id"].to_pylist()),
            "dataset": self.selection.dataset_sha256,
            "model": self.model.sha256,
            "device": self.device,
            "dtype": str(self.dtype).removeprefix("torch."),
            "workers": job.workers,
            "strategy": job.strategy,
            **job.parameters.model_dump(mode="json", exclude=only_speed),
        }


def plan(job: TrainJob) -> TrainPlan:
    """Open the selection and its data and look at the model; loads no weights.

    Raises:
        ConfigurationError: something cannot work; the message says what to do.
        DataError: the selection, its run or its data are not what they were, or the hub cannot be reached.
    """
    job = job.absolute()
    own_files(Path(job.output), OURS, "training")
    record, rows, run = read_selection(job.data, job.run)
    rows = rows.sort_by("source_row")
    dataset = open_dataset(DatasetSpec.model_validate(record.dataset))
    positions = _positions(dataset, rows["source_row"].to_pylist(), job.data)
    spec = job.model or ModelSpec(name=_model_of_run(run))
    model = inspect_model(demo.resolve(spec.name, demo.MODEL))
    check_family(spec.name, model, job.parameters)
    cluster = cluster_address(job.address)
    device, dtype = device_and_dtype(spec, None if cluster is None else cluster_has_gpus(cluster))
    here = device == "cuda" and cluster is None
    if here and dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigurationError(f"{torch.cuda.get_device_name()} has no bfloat16: take --dtype float32")
    plan = TrainPlan(job, record, rows, dataset, tuple(positions), replace(model, name=spec.name), device, dtype)
    check_counts(job.parameters, job.workers, rows.num_rows, job.data)
    _check_max_length(plan)
    _check_disk(plan)
    return plan


def check_family(name: str, model: ModelInfo, p: TuningParameters) -> None:
    """Raise ConfigurationError if curate does not train such models, or not in this way."""
    kind = model.family.model_type
    if kind not in FAMILIES:
        raise ConfigurationError(f"--model {name}: its type is {kind}; curate trains {', '.join(FAMILIES)}")
    if kind == "chameleon" and not p.freeze_vision_tower:
        raise ConfigurationError(
            "--train-vision-tower: Chameleon's VQ encoder rounds images to codes, and no gradient passes through that"
        )


def _positions(dataset: Dataset, source_rows: Sequence[int], data: str) -> list[int]:
    positions = [bisect_left(dataset.rows, row) for row in source_rows]
    for row, position in zip(source_rows, positions, strict=True):
        if position >= len(dataset) or dataset.rows[position] != row:
            raise DataError(
                f"{data}: it keeps row {row} of {dataset.name}, which has no such row any more: the data were changed "
                "since they were scored; restore them, or score and select anew"
            )
    return positions


def check_counts(p: TuningParameters, workers: int, n_rows: int, data: str) -> None:
    """Raise ConfigurationError if so many samples, of the data named so, make no step or leave none to validate on."""
    n_validation = n_validated(n_rows, p.validation_share)
    if p.validation_share and n_validation == 0:
        raise ConfigurationError(
            f"--validation-share {p.validation_share}: of {n_rows:,} samples none is left to validate on; take a "
            "greater share, or 0"
        )
    step = samples_in_a_step(p, workers)
    if n_rows - n_validation < step:
        raise ConfigurationError(
            f"{data} has {n_rows:,} samples, {n_rows - n_validation:,} of them to train on, and a step takes "
            f"{step:,} (--batch-size × --gradient-accumulation-steps × --workers): select more, or take smaller steps"
        )


def samples_in_a_step(p: TuningParameters, workers: int) -> int:
    """Samples behind one step of the optimizer."""
    return p.batch_size * p.gradient_accumulation_steps * workers


def n_steps(p: TuningParameters, workers: int, n_train: int) -> int:
    """Steps of the optimizer in a whole training, as transformers counts them."""
    return p.max_steps or math.ceil(p.epochs * math.ceil(n_train / samples_in_a_step(p, workers)))


def n_validated(n_rows: int, share: float) -> int:
    """How many of the samples are not trained on."""
    return round(n_rows * share)


def _check_max_length(plan: TrainPlan) -> None:
    """That not even an image fits is no fault of the samples."""
    row, sample = next(plan.dataset.samples(plan.positions[:1]))
    if isinstance(sample, SampleError):
        raise DataError(f"row {row} of {plan.dataset.name} was scored, but cannot be read now: {sample}")
    try:
        inputs = plan.model.family.load_builder(plan.model).build_prompt(sample.image, sample.question)
    except SampleError:
        return  # which the training leaves out, and says so
    n_image_tokens, limit = int(inputs.is_image.sum()), plan.job.parameters.max_length
    if n_image_tokens > limit:
        raise ConfigurationError(
            f"--max-length {limit}: the image of row {row} alone makes {n_image_tokens:,} tokens, and images are not "
            "cut; take a greater one"
        )


class Footprint(NamedTuple):
    """Bytes on disk of one training: the tuned model, and the checkpoints that are removed at its end."""

    model: int
    checkpoints: int


def footprint(model: ModelInfo, p: TuningParameters) -> Footprint:
    """What one training of this model takes of the disk."""
    weights = sum(file.stat().st_size for file in model.path.glob("*.safetensors"))
    n_parameters = model.family.n_parameters(model, model.n_layers - 1)
    # With LoRA a checkpoint has the adapter alone.
    checkpoints = 0 if p.lora_r else _CHECKPOINTS * BYTES_WITH_OPTIMIZER * n_parameters
    return Footprint(max(weights, 4 * n_parameters), checkpoints)


def free_bytes(output: Path) -> int:
    """Room on the disk that a folder is on, or will be."""
    there = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def _check_disk(plan: TrainPlan) -> None:
    output = Path(plan.job.output)
    needed = sum(footprint(plan.model, plan.job.parameters))
    free = free_bytes(output)
    if free < needed:
        raise ConfigurationError(
            f"--output {output}: {free / 1e9:,.1f} GB are free there, and the model with its checkpoints takes about "
            f"{needed / 1e9:,.1f} GB; choose another disk, or train an adapter with --lora-r"
        )


def _model_of_run(run: UPath) -> str:
    """The model that the selection's run was scored with."""
    arguments: dict[str, Any] = read_record(run).arguments
    return str(arguments["model"]["name"])
