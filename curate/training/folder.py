"""The folder of a training: what may lie in it, and whether it is this training's."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curate.errors import ConfigurationError, DataError
from curate.manifest.atomic import sync_folder, write_text
from curate.manifest.lock import LOCK
from curate.storage import location

RECORD, CURVE, PLOT, SAMPLES, QUARANTINE = (
    "training.json",
    "curve.jsonl",
    "curve.png",
    "samples.parquet",
    "quarantine.parquet",
)
MODEL, ADAPTER, TENSORBOARD, CHECKPOINTS = "model", "adapter", "tensorboard", "checkpoints"
OURS = {RECORD, CURVE, PLOT, SAMPLES, QUARANTINE, MODEL, ADAPTER, TENSORBOARD, CHECKPOINTS, LOCK}
BEGUN, WHOLE = "begun.json", "whole"


def clear(output: Path) -> None:
    """Remove a training; the lock stays."""
    for entry in output.iterdir():
        if entry.name in OURS - {LOCK}:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def refuse_another(output: Path, decides: Mapping[str, Any]) -> bool:
    """Whether this training was begun here already.

    Raises:
        ConfigurationError: another was, or there is a model of unknown origin; the message names the difference.
        DataError: what it says of itself is damaged.
    """
    record = next((file for file in (output / RECORD, output / CHECKPOINTS / BEGUN) if file.exists()), None)
    if record is None:
        if (output / MODEL).exists():
            raise ConfigurationError(f"--output {output} holds a model already; --overwrite replaces it")
        return False
    try:
        begun = json.loads(record.read_text(encoding="utf-8"))["decides"]
        other = [
            f"{name} {json.dumps(begun.get(name)):.40} ≠ {json.dumps(value):.40}"
            for name, value in decides.items()
            if begun.get(name) != value
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{record} is damaged; --overwrite begins anew") from error
    if other:
        raise ConfigurationError(
            f"--output {output} holds a training with another {'; '.join(other)}; choose another folder, or --overwrite"
        )
    return True


def begin(output: Path, decides: Mapping[str, Any]) -> None:
    """Note what is trained here, once its samples are written."""
    (output / CHECKPOINTS).mkdir(exist_ok=True)
    write_text(location(str(output / CHECKPOINTS / BEGUN)), json.dumps({"decides": decides}) + "\n")


def mark_whole(checkpoint: Path) -> None:
    """Note that all of a checkpoint is on the disk: transformers writes its files in place, one after another."""
    for path in checkpoint.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    write_text(location(str(checkpoint / WHOLE)), "")
    sync_folder(checkpoint.parent)


def remove_half_written(output: Path) -> None:
    """Remove the checkpoint that a killed process was writing."""
    for checkpoint in (output / CHECKPOINTS).glob("checkpoint-*"):
        if not (checkpoint / WHOLE).exists():
            shutil.rmtree(checkpoint)


def last_checkpoint(output: Path) -> Path | None:
    """The newest whole checkpoint."""
    return max(
        (whole.parent for whole in (output / CHECKPOINTS).glob(f"checkpoint-*/{WHOLE}")), key=step_of, default=None
    )


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was saved."""
    return int(checkpoint.name.rpartition("-")[2])
