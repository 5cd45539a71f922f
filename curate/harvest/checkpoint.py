"""A training on disk, at some step."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from curate.errors import DataError, first_line
from curate.harvest.activations import Place
from curate.manifest.atomic import sync_folder
from curate.sae.buffer import MixingBuffer
from curate.sae.train import restore_trainer, save_trainer
from curate.scoring.memory import is_out_of_memory
from curate.storage import follow_umask

if TYPE_CHECKING:
    from sae_lens.training.sae_trainer import SAETrainer

BUFFER_FILE, STATE_FILE = "buffer.safetensors", "state.json"


@dataclass
class State:
    """All of a training but its trainer and buffer.

    Attributes:
        place: of the chunk to come.
        scale: what hidden states are multiplied with; None before the first step.
        harvested: tokens that came from the model; image_tokens: those of them that are of images.
        figures: of the last line of the curve.
        left_out: by source row, those without hidden states.
    """

    place: Place = (0, 0)
    scale: float | None = None
    harvested: int = 0
    image_tokens: int = 0
    harvest_seconds: float = 0.0
    step_seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    left_out: dict[int, dict[str, Any]] = field(default_factory=dict)


def save_checkpoint(
    folder: Path, decides: Mapping[str, Any], trainer: "SAETrainer[Any, Any]", buffer: MixingBuffer, state: State
) -> None:
    """Write a checkpoint that is there whole or not at all, in place of the one before.

    Args:
        decides: what the training depends on, by which another one is told from it.
    """
    whole = folder / f"step-{trainer.n_training_steps:09}"
    if whole.exists():
        return
    temporary = folder / ".saving"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_trainer(trainer, temporary)
    save_file(buffer.state(), temporary / BUFFER_FILE)
    (temporary / STATE_FILE).write_text(json.dumps({"decides": decides, **asdict(state)}), encoding="utf-8")
    follow_umask(temporary)
    sync_files(temporary)
    temporary.rename(whole)
    sync_folder(folder)
    for older in folder.glob("step-*"):
        if older != whole:
            shutil.rmtree(older)


def restored(folder: Path, trainer: "SAETrainer[Any, Any]", buffer: MixingBuffer) -> State:
    """Set trainer and buffer to the last checkpoint's, if there is one, and return the rest of it.

    Raises:
        DataError: it is damaged.
    """
    saved = sorted(folder.glob("step-*"))
    if not saved:
        return State()
    try:
        found = json.loads((saved[-1] / STATE_FILE).read_text(encoding="utf-8"))
        restore_trainer(trainer, saved[-1])
        buffer.restore(load_file(saved[-1] / BUFFER_FILE), trainer.cfg.device)
        fields = {name: found[name] for name in State.__dataclass_fields__}
        fields |= {"place": tuple(found["place"])}
        fields |= {"left_out": {int(row): each for row, each in found["left_out"].items()}}
        return State(**fields)
    # Each part has errors of its own for a damaged file.
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        raise DataError(
            f"the checkpoint {saved[-1]} cannot be read, {type(error).__name__}: {first_line(error)}; if it is "
            "damaged, --overwrite begins anew"
        ) from error


def sync_files(folder: Path) -> None:
    """Make the files of a folder survive a crash of the machine."""
    for file in folder.iterdir():
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())
    sync_folder(folder)
