"""Milliseconds a sample of preparing, of the weights pass and of scoring: `python -m bench.samples`.

All on the demo, in one process, round by round. Times are the process's CPU time, by default of one thread, so that
other work on the machine hardly counts. The hashes are of what was made: two versions that agree in them made the same
tensors, weights and rows, bit for bit.
"""

import argparse
import hashlib
import os
import platform
import statistics
import time
from collections.abc import Iterable, Iterator

import torch

from curate.manifest.rows import QuarantineRow, ScoredRow
from curate.pipeline.job import ScoreJob
from curate.pipeline.plan import plan
from curate.pipeline.workers import load_cut
from curate.sae.load import load_dictionary
from curate.scoring.prepare import Prepared, prepare, token_batches
from curate.scoring.scorer import Scorer
from curate.scoring.weights_pass import WeightsPass


def measure(n_samples: int, rounds: int, threads: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of CPU time of each step, round by round, and a hash of what each makes; a first round warms up."""
    job = plan(ScoreJob.model_validate({"output": "unused", "dataset": {"name": "demo", "limit": n_samples}}))
    builder, model, sae = job.model.family.load_builder(job.model), load_cut(job), load_dictionary(job.sae, "cpu")
    torch.set_num_threads(threads)  # not before: `load_cut` sets as many as an actor has
    parameters = job.job.parameters
    seconds: dict[str, list[float]] = {"prepare": [], "weights": [], "scores": []}
    hashes: dict[str, str] = {}
    for number in range(rounds + 1):
        laps = [time.process_time()]
        found = prepare(job.dataset.samples(range(len(job.dataset))), builder, parameters.text)
        samples = [sample for sample in found if isinstance(sample, Prepared)]
        laps.append(time.process_time())
        weights_pass = WeightsPass(model, sae, parameters, job.dataset.rows, job.model.context)
        for sample in samples:
            weights_pass.add(sample)
        weights = weights_pass.weights()
        laps.append(time.process_time())
        scorer = Scorer(model, sae, parameters, weights.weight)
        batches = token_batches(samples, parameters.tokens_per_pass("cpu"))
        rows = [row for batch in batches for row in scorer.score(batch)]
        laps.append(time.process_time())
        for step, start, stop in zip(seconds, laps, laps[1:], strict=False):
            seconds[step] += [stop - start] if number else []
        made = (_of_samples(samples), (_bytes(weights.weight),), map(_of_row, rows))
        hashes = {step: _sha256(parts) for step, parts in zip(seconds, made, strict=True)}
    return seconds, hashes


def _of_samples(samples: Iterable[Prepared]) -> Iterator[bytes]:
    for sample in samples:
        yield f"{sample.sample_id} {sample.source_row} {sample.quality}".encode()
        for text in sample.texts:
            yield f"{text.n_response} {text.image} {list(text.tensors)}".encode()
            yield from map(_bytes, (text.input_ids, text.is_image, *text.tensors.values()))


def _of_row(row: ScoredRow | QuarantineRow) -> bytes:
    return repr(row).encode()


def _bytes(tensor: torch.Tensor) -> bytes:
    return f"{tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes()


def _sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}")
    print(f"{arguments.samples} samples, {arguments.threads} threads, {arguments.rounds} rounds\n")
    seconds, hashes = measure(arguments.samples, arguments.rounds, arguments.threads)
    print("| | ms a sample, median | from, to | SHA-256 |\n|---|--:|--:|---|")
    for step, taken in seconds.items():
        each = sorted(1000 * time / arguments.samples for time in taken)
        print(f"| {step} | {statistics.median(each):.2f} | {each[0]:.2f}, {each[-1]:.2f} | {hashes[step][:16]} |")


if __name__ == "__main__":
    main()
