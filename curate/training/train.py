"""One training from its plan to the tuned model, resumable, and the record of what it was made from."""

import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from curate import __version__
from curate.errors import RunStopped
from curate.manifest.atomic import write_text
from curate.manifest.inputs import own_files
from curate.manifest.lock import locked
from curate.manifest.rule import Rule
from curate.manifest.selection import samples_sha256
from curate.models.families import inspect_model
from curate.pipeline.resources import cluster_address
from curate.scoring.memory import is_out_of_memory
from curate.storage import location, remove
from curate.training.curve import draw, read_curve
from curate.training.fit import Report, Step, fit
from curate.training.folder import (
    CHECKPOINTS,
    CURVE,
    MODEL,
    OURS,
    PLOT,
    RECORD,
    begin,
    clear,
    refuse_another,
    remove_half_written,
)
from curate.training.job import Method
from curate.training.plan import TrainPlan
from curate.training.samples import LEFT_OUT, TRAIN, VALIDATION, samples_of, write_samples

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate")


class TrainingRecord(BaseModel):
    """The whole of `training.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    version: str
    versions: dict[str, str] = Field(description="of the libraries that trained")
    job: dict[str, Any]
    decides: dict[str, Any] = Field(description="what the weights depend on; data and model by their content")
    method: Method
    run_hash: str = Field(description="sha256 of the manifest that was selected from")
    selection_sha256: str = Field(description="of selection.parquet")
    rule: Rule
    dataset_sha256: str
    base_sha256: str = Field(description="of the model that was fine-tuned")
    model_sha256: str = Field(description="of the fine-tuned model")
    n_train: int
    n_validation: int
    n_left_out: int
    train_sha256: str = Field(description="of the sorted sample ids that were trained on, each with a line feed")
    validation_sha256: str
    steps: int
    figures: dict[str, float] = Field(description="of the last step and the last validation")
    device: str
    seconds: float = Field(description="of the session that finished it")
    peak_memory_bytes: int | None = Field(description="of the GPU, where this process trained")


def train(the_plan: TrainPlan, report: Report, overwrite: bool = False) -> TrainingRecord:
    """Fine-tune as planned, or go on where it was cut off; what is done already is not done again.

    Raises:
        ConfigurationError: the output folder holds something else, or a training with other settings.
        DataError: the data were changed since they were scored; a file of the training is damaged.
        RunStopped: out of memory, or the loss is no number.
    """
    output, decides = Path(the_plan.job.output), the_plan.decides()
    with locked(location(str(output))):
        own_files(output, OURS, "training")
        if overwrite:
            clear(output)
        begun = refuse_another(output, decides)
        if (output / RECORD).exists():
            return TrainingRecord.model_validate_json((output / RECORD).read_text(encoding="utf-8"))
        start, total = time.monotonic(), the_plan.rows.num_rows
        if not begun:
            write_samples(the_plan, output, lambda done: report(Step(done, total, "samples")))
            begin(output, decides)
        remove_half_written(output)
        try:
            stopped = _fit(the_plan, output, report)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise RunStopped(
                "out of memory: take a lower --batch-size with more --gradient-accumulation-steps, "
                "--gradient-checkpointing, or an adapter with --lora-r"
            ) from error
        draw(read_curve(output / CURVE), output / PLOT)
        record = _finish(the_plan, output, decides, time.monotonic() - start)
        for signal_ in stopped:
            raise signal_(f"stopped after the last step; the model in {output} is whole")
        return record


def _fit(the_plan: TrainPlan, output: Path, report: Report) -> list[type[KeyboardInterrupt]]:
    """As `fit`, by as many processes as the job names; by one in this process, unless there is a cluster."""
    if _here(the_plan):
        return fit(the_plan, output, report)
    from curate.training.distributed import fit_on_workers  # imports Ray

    fit_on_workers(the_plan, output, report)
    return []


def _here(the_plan: TrainPlan) -> bool:
    return the_plan.job.workers == 1 and cluster_address(the_plan.job.address) is None


def _finish(the_plan: TrainPlan, output: Path, decides: dict[str, Any], seconds: float) -> TrainingRecord:
    """Write the record, last: it says that all is done."""
    curve = read_curve(output / CURVE)
    on_our_gpu = the_plan.device == "cuda" and _here(the_plan)
    ids = {part: samples_of(output, part)["sample_id"].to_pylist() for part in (TRAIN, VALIDATION)}
    hashes = {part: samples_sha256(ids[part]) for part in ids}
    record = TrainingRecord(
        version=__version__,
        versions={name: version(name) for name in LIBRARIES},
        job=the_plan.job.model_dump(mode="json", exclude_none=True),
        decides=decides,
        method=the_plan.job.method,
        run_hash=the_plan.selection.run_hash,
        selection_sha256=the_plan.selection.sha256,
        rule=the_plan.selection.rule,
        dataset_sha256=the_plan.selection.dataset_sha256,
        base_sha256=the_plan.model.sha256,
        model_sha256=inspect_model(str(output / MODEL)).sha256,
        n_train=len(ids[TRAIN]),
        n_validation=len(ids[VALIDATION]),
        n_left_out=samples_of(output, LEFT_OUT).num_rows,
        train_sha256=hashes[TRAIN],
        validation_sha256=hashes[VALIDATION],
        steps=int(curve[-1]["step"]),
        figures={name: value for line in curve for name, value in line.items() if name != "step"},
        device=torch.cuda.get_device_name() if on_our_gpu else the_plan.device,
        seconds=round(seconds, 3),
        peak_memory_bytes=torch.cuda.max_memory_allocated() if on_our_gpu else None,
    )
    write_text(location(str(output / RECORD)), record.model_dump_json(indent=2) + "\n")
    remove(location(str(output / CHECKPOINTS)))
    return record
