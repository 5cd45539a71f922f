"""What harvesting costs beside the bare cut forward pass, and training beside sae_lens's own trainer.

`python -m bench.sae` prints two tables: medians over rounds in which both ways are timed in turn. Harvesting is timed
on the random LLaVA-NeXT of `bench.llava`, from rows on disk to hidden states; training on hidden states that are in
memory already, at that model's width, through buffer, scaling, trainer and curve.
"""

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from bench.llava import D_MODEL, HOOK_LAYER, write_model, write_samples
from curate.datasets import DatasetSpec
from curate.harvest.activations import BLOCK_ROWS, Chunk, Place, blocks, chunks, read_block
from curate.harvest.job import SAETrainJob
from curate.harvest.plan import TrainPlan, plan
from curate.harvest.train import Step, train
from curate.models import ModelSpec
from curate.models.packing import pack
from curate.sae.parameters import TrainingParameters
from curate.sae.train import new_trainer
from curate.scoring.prepare import token_batches

BLOCKS, ROUNDS, STEPS, CHUNK = 2, 5, 12, 5000
ARCHITECTURES = ("standard", "batchtopk")


def main() -> None:
    """Print the tables."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        write_samples(folder / "data" / "samples.parquet", BLOCKS * BLOCK_ROWS)
        job = SAETrainJob(
            output=str(folder / "sae"),
            model=ModelSpec(name=str(folder / "model")),
            dataset=DatasetSpec(name=str(folder / "data")),
            hook_layer=HOOK_LAYER,
            parameters=TrainingParameters(steps=STEPS, lr_decay_steps=0),
        )
        _harvesting(plan(job))
        for architecture in ARCHITECTURES:
            _training(job, architecture)


def _harvesting(the_plan: TrainPlan) -> None:
    harvest = the_plan.harvest
    model, builder = harvest.load_model(), harvest.load_builder()
    ready = [read_block(harvest, ordinal, builder) for ordinal in range(BLOCKS)]
    tokens = sum(len(piece) for block in ready for piece in block.pieces)

    def bare() -> None:
        for block in ready:
            for batch in token_batches(block.pieces, harvest.batch_size):
                model.hidden_states(pack([piece.inputs for piece in batch]))

    def harvested() -> None:
        for block in blocks(harvest, 0, the_plan.job.prepare_workers, last=BLOCKS):
            for _ in chunks(harvest, model, block, builder.bos_token_id):
                pass

    times = _in_turn({"bare cut forward pass": bare, "harvest, from disk": harvested})
    _table(f"harvesting {tokens:,} tokens, {len(ready) * BLOCK_ROWS} samples", times, tokens)


def _training(job: SAETrainJob, architecture: str) -> None:
    batch = job.parameters.train_batch_size_tokens
    parameters = job.parameters.model_copy(update={"architecture": architecture})
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(40_000, D_MODEL, generator=generator)
    batches = [tokens[start : start + batch] for start in range(0, len(tokens) - batch, batch)]

    def theirs() -> float:
        trainer = new_trainer(parameters, D_MODEL, "cpu")
        trainer.data_provider = itertools.cycle(batches)
        return _seconds(trainer.fit)

    def ours() -> float:
        the_plan = plan(
            job.model_copy(
                update={"parameters": parameters, "n_batches_in_buffer": 8, "context_size": 4096, "log_every": 10}
            )
        )
        at: list[float] = []

        def told(step: Step) -> None:
            at.append(time.monotonic())

        train(the_plan, told, lambda place: _in_memory(tokens), overwrite=True)
        return (at[-2] - at[0]) * STEPS / (STEPS - 1)  # without the checkpoint before the end

    times: dict[str, list[float]] = {"sae_lens's trainer": [], "curate sae train": []}
    for _ in range(ROUNDS):
        times["sae_lens's trainer"].append(theirs())
        times["curate sae train"].append(ours())
    _table(f"training, {architecture}, {D_MODEL} → {16 * D_MODEL:,}, {STEPS} steps of {batch:,}", times, STEPS * batch)


def _in_memory(tokens: torch.Tensor) -> Iterator[Chunk]:
    for ordinal in itertools.count():
        first = ordinal * CHUNK % (len(tokens) - CHUNK)
        hidden = tokens[first : first + CHUNK]
        place: Place = (ordinal, 0)
        yield Chunk(hidden, torch.zeros(len(hidden), dtype=torch.bool), place, True)


def _in_turn(ways: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # warm
    for _ in range(ROUNDS):
        for name, way in ways.items():
            times[name].append(_seconds(way))
    return times


def _seconds(way: Callable[[], object]) -> float:
    begun = time.monotonic()
    way()
    return time.monotonic() - begun


def _table(title: str, times: dict[str, list[float]], tokens: int) -> None:
    print(f"\n{title}; median of {ROUNDS} (lowest to highest)")
    first = next(iter(times))
    ratios = [one / other for one, other in zip(times[first], times[list(times)[-1]], strict=True)]
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"{name:28} {median:7.2f} s ({min(seconds):.2f} to {max(seconds):.2f}) {tokens / median:10,.0f} tokens/s")
    print(f"{'ratio, pairwise':28} {statistics.median(ratios):7.2f}   ({min(ratios):.2f} to {max(ratios):.2f})")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
