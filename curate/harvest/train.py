"""Training one SAE: hidden states through the buffer to sae_lens's trainer, and all of it resumable."""

import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel, ConfigDict

from curate import __version__
from curate.errors import ConfigurationError, DataError, RunStopped, Terminated
from curate.harvest.activations import Chunk, Place, blocks, chunks
from curate.harvest.checkpoint import STATE_FILE, State, restored, save_checkpoint, sync_files
from curate.harvest.loggers import Log, logging_to
from curate.harvest.plan import TrainPlan
from curate.manifest.atomic import write_text
from curate.manifest.inputs import own_files
from curate.manifest.lock import LOCK, locked
from curate.manifest.rows import QUARANTINE_SCHEMA
from curate.sae.buffer import MixingBuffer
from curate.sae.scale import estimate_scale
from curate.sae.train import new_trainer, save_dictionary, step
from curate.scoring.memory import is_out_of_memory
from curate.storage import location

RECORD, CURVE, QUARANTINE, CHECKPOINT = "training.json", "curve.jsonl", "quarantine.parquet", "checkpoint"
OURS = {RECORD, CURVE, QUARANTINE, CHECKPOINT, LOCK, "cfg.json", "sae_weights.safetensors", "tensorboard", "wandb"}

ChunksFrom = Callable[[Place], Iterator[Chunk]]


class Step(NamedTuple):
    """How far a training is. `figures` are those of the last line of the curve."""

    done: int
    total: int
    tokens: int
    figures: dict[str, float]


class TrainingRecord(BaseModel):
    """The whole of `training.json`.

    Attributes:
        decides: what the weights depend on.
        tokens: learned from; harvested: those that came from the model, of which some are left in the buffer.
        image_share: of image tokens among those harvested.
        figures: of the last step.
        seconds: harvest (waiting for hidden states) and step, over all sessions.
    """

    model_config = ConfigDict(extra="forbid")

    version: str
    job: dict[str, Any]
    decides: dict[str, Any]
    d_sae: int
    scale: float
    tokens: int
    harvested: int
    image_share: float
    left_out: int
    epochs: float
    figures: dict[str, float]
    seconds: dict[str, float]


def local_chunks(the_plan: TrainPlan) -> ChunksFrom:
    """Hidden states made by this process."""
    harvest = the_plan.harvest

    def chunks_from(place: Place) -> Iterator[Chunk]:
        model, bos_token_id = harvest.load_model(), harvest.load_builder().bos_token_id
        for block in blocks(harvest, place[0], the_plan.job.prepare_workers):
            yield from (chunk for chunk in chunks(harvest, model, block, bos_token_id) if chunk.place >= place)

    return chunks_from


def train(
    the_plan: TrainPlan, report: Callable[[Step], None], chunks_from: ChunksFrom, overwrite: bool = False
) -> TrainingRecord:
    """Train the SAE of a plan, or go on with it where it was cut off; what is done already is not done again.

    Args:
        chunks_from: hidden states from a place on, the same whoever makes them.

    Raises:
        ConfigurationError: the output folder holds something else, or a training with other settings.
        DataError: there is nothing to learn from; a checkpoint is damaged.
        RunStopped: out of memory.
    """
    output = Path(the_plan.job.output)
    with locked(location(str(output))), ExitStack() as stack:
        decides = the_plan.decides()
        _check_output(output, decides, overwrite)
        if (output / RECORD).exists():
            return TrainingRecord.model_validate_json((output / RECORD).read_text())
        try:
            training = _Training(the_plan, decides, output)
            log = stack.enter_context(logging_to(the_plan.job, output, training.trainer.n_training_steps))
            stopped = training.run(chunks_from, report, log)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise RunStopped(
                "out of memory: take a lower --batch-size (forward pass), --n-batches-in-buffer or --expansion"
            ) from error
        record = training.finish()
        for signal_ in stopped:
            raise signal_(f"stopped after the last step; the SAE in {output} is whole")
        return record


def _check_output(output: Path, decides: dict[str, Any], overwrite: bool) -> None:
    found = own_files(output, OURS, "training")
    if overwrite:
        for name in found & (OURS - {LOCK}):
            shutil.rmtree(output / name) if (output / name).is_dir() else (output / name).unlink()
        return
    states = [output / RECORD] if RECORD in found else sorted((output / CHECKPOINT).glob(f"step-*/{STATE_FILE}"))
    if not states:
        if found & {"cfg.json", "sae_weights.safetensors"}:
            raise ConfigurationError(f"--output {output} holds an SAE already; --overwrite replaces it")
        return
    try:
        begun = json.loads(states[-1].read_text(encoding="utf-8"))["decides"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{states[-1]} is damaged; --overwrite begins anew") from error
    differences = [
        f"{name} {_short(begun.get(name))} ≠ {_short(value)}"
        for name, value in decides.items()
        if begun.get(name) != value
    ]
    if differences:
        raise ConfigurationError(
            f"--output {output} holds a training with another {'; '.join(differences)}; choose another folder, or "
            "--overwrite"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


class _Training:
    """A training at some step: trainer, buffer, and how far the data are read."""

    def __init__(self, the_plan: TrainPlan, decides: dict[str, Any], output: Path) -> None:
        self.job, self.harvest, self.decides, self.output = the_plan.job, the_plan.harvest, decides, output
        p = self.job.parameters
        self.trainer = new_trainer(p, self.harvest.model.d_model, self.harvest.device)
        size = self.job.n_batches_in_buffer * self.harvest.model.context
        generator = torch.Generator().manual_seed(p.seed)
        self.buffer = MixingBuffer(size, p.train_batch_size_tokens, generator)
        self.state = restored(output / CHECKPOINT, self.trainer, self.buffer)
        take_back(output / CURVE, self.trainer.n_training_steps)

    def run(self, chunks_from: ChunksFrom, report: Callable[[Step], None], log: Log) -> list[type[KeyboardInterrupt]]:
        """Train to the last step; returns the signal that came during it, if one did."""
        p, state, trainer = self.job.parameters, self.state, self.trainer
        source = _opened_late(chunks_from, state)
        report(Step(trainer.n_training_steps, p.steps, trainer.n_training_samples, state.figures))
        curve_file = (self.output / CURVE).open("a", encoding="utf-8")
        # Workers end with the source: here, and not whenever its frame is forgotten.
        with signals_between_steps() as stop, curve_file as curve, closing(source):
            while trainer.n_training_steps < p.steps:
                if stop:
                    self._save()
                    raise stop[0](
                        f"stopped at step {trainer.n_training_steps:,}; the same command, without --overwrite, goes on "
                        "from there"
                    )
                begun = time.monotonic()
                if not self.buffer.ready:
                    self._fill(source, stop)
                    if not self.buffer.ready:
                        continue
                harvested = time.monotonic()
                batch = self._scale() * self.buffer.take().float()
                output = step(trainer, batch)
                done = trainer.n_training_steps
                if done % self.job.log_every == 0 or done == p.steps:
                    self._check(output)
                    state.figures = self._figures(output)
                    curve.write(json.dumps({"step": done, **state.figures}) + "\n")
                    curve.flush()
                    log(done, state.figures)
                state.harvest_seconds += harvested - begun
                state.step_seconds += time.monotonic() - harvested
                if done % self.job.checkpoint_every == 0 or done == p.steps:
                    self._check(output)
                    self._save()
                report(Step(done, p.steps, trainer.n_training_samples, state.figures))
        return stop

    def _fill(self, source: Iterator[Chunk], stop: list[Any]) -> None:
        """Take in hidden states until the buffer is ready, or a signal came."""
        state = self.state
        while not self.buffer.ready and not stop:
            chunk = next(source)
            ordinal, number = chunk.place
            state.place = (ordinal + 1, 0) if chunk.last else (ordinal, number + 1)
            state.harvested += len(chunk.hidden)
            state.image_tokens += int(chunk.is_image.sum())
            state.left_out |= {row.source_row: asdict(row) for row in chunk.left_out}
            if len(chunk.hidden):
                self.buffer.add(chunk.hidden)
            if ordinal + 1 >= self.harvest.n_blocks and chunk.last and state.harvested == 0:
                first = next(iter(state.left_out.values()), {"reason": "none has a token"})
                raise DataError(
                    f"{self.harvest.corpus.name} has no token to learn from: {len(state.left_out):,} of "
                    f"{len(self.harvest.corpus):,} rows left out; the first: {first['reason']}"
                    + ("" if self.harvest.image_share is None else f" (--image-share {self.harvest.image_share})")
                )

    def _scale(self) -> float:
        """That of the first buffer, from then on."""
        scale, tokens = self.state.scale, self.buffer.mixed
        if scale is None:
            assert tokens is not None
            scale = self.state.scale = estimate_scale(tokens.split(8192))
        return scale

    def _figures(self, output: Any) -> dict[str, float]:
        """sae_lens's own, and the share of image tokens."""
        found = self.trainer.build_train_step_log_dict(output, self.trainer.n_training_samples)
        rare = self.trainer.feature_sparsity < self.job.parameters.dead_feature_threshold
        found |= {"sparsity/rare_features": int(rare.sum()), "details/image_share": self._image_share()}
        return {name: float(value) for name, value in found.items()}

    def _check(self, output: Any) -> None:
        """That the training has not diverged: no such state is ever kept."""
        if not math.isfinite(output.loss.item()):
            raise RunStopped(
                f"the loss at step {self.trainer.n_training_steps:,} is NaN or infinite: begin anew with a lower --lr "
                "or a longer --lr-warm-up-steps"
            )

    def _image_share(self) -> float:
        return self.state.image_tokens / max(1, self.state.harvested)

    def _save(self) -> None:
        save_checkpoint(self.output / CHECKPOINT, self.decides, self.trainer, self.buffer, self.state)

    def finish(self) -> TrainingRecord:
        """Write the SAE, and the record last: it says that all is done."""
        state, p, model = self.state, self.job.parameters, self.harvest.model
        assert state.scale is not None
        job = self.job.model_dump(mode="json", exclude_none=True)
        record = TrainingRecord(
            version=__version__,
            job=job,
            decides=self.decides,
            d_sae=p.expansion * model.d_model,
            scale=state.scale,
            tokens=self.trainer.n_training_samples,
            harvested=state.harvested,
            image_share=self._image_share(),
            left_out=len(state.left_out),
            epochs=state.place[0] / self.harvest.n_blocks,
            figures=state.figures,
            seconds={"harvest": round(state.harvest_seconds, 3), "step": round(state.step_seconds, 3)},
        )
        facts = {
            "hook_layer": self.job.hook_layer,
            "hook_name": f"blocks.{self.job.hook_layer}.hook_resid_post",
            "model_name": self.job.model.name,
            "model_hash": model.sha256,
            "context_size": model.context,
            "activation_scale": state.scale,
            "training": {
                **{name: value for name, value in self.decides.items() if name not in ("model", "data", "rows")},
                "dataset": self.job.dataset.model_dump(mode="json", exclude_none=True),
                "dataset_sha256": self.decides["data"],
                "tokens": record.tokens,
                "measured_image_share": record.image_share,
                "curate_version": __version__,
            },
        }
        temporary = self.output / ".finishing"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        save_dictionary(self.trainer, temporary, state.scale, facts)
        rows = sorted(state.left_out.values(), key=lambda row: row["source_row"])
        pq.write_table(pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA), temporary / QUARANTINE)
        sync_files(temporary)
        for file in temporary.iterdir():
            file.replace(self.output / file.name)
        temporary.rmdir()
        write_text(location(str(self.output / RECORD)), record.model_dump_json(indent=2) + "\n")
        shutil.rmtree(self.output / CHECKPOINT, ignore_errors=True)
        return record


def _opened_late(chunks_from: ChunksFrom, state: State) -> Generator[Chunk]:
    """The chunks from the state's place on; no model is loaded before the first is asked for."""
    yield from chunks_from(state.place)


def take_back(curve: Path, steps: int) -> None:
    """Remove the lines of steps after these, and the one that a killed process left half written."""
    kept = []
    for line in curve.read_text(encoding="utf-8").splitlines() if curve.exists() else ():
        with suppress(ValueError):
            if json.loads(line)["step"] <= steps:
                kept.append(f"{line}\n")
    write_text(location(str(curve)), "".join(kept))


@contextmanager
def signals_between_steps() -> Iterator[list[type[KeyboardInterrupt]]]:
    """A list that a first Ctrl-C or SIGTERM is noted in, so that no step is torn; a second one interrupts at once."""
    noted: list[type[KeyboardInterrupt]] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    kinds = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}

    def note(number: int, _: object) -> None:
        if noted:
            raise kinds[signal.Signals(number)]
        noted.append(kinds[signal.Signals(number)])

    before = {number: signal.signal(number, note) for number in kinds}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
