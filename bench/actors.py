"""Two actors against one, and Ray against a plain loop, on two cores: `python -m bench.actors`.

The same scoring, by the model of `bench.llava` with feature weights that are given, in several ways: a loop in one
process, two such processes at once (what the machine itself gives for a second one), and `curate.pipeline.score`. Each
trial is a process of its own; ways are taken in turn, several rounds over, and the tables give medians.

Whole seconds begin when imports are done and end with the run's record; loading, and Ray's start, are in them. Steady
throughput is taken between two arrivals of rows: from when each worker may have done two batches, so that starts are
left out, to the last arrival but one, for Ray Data hands a block over only once it has the next, and the last two
together. Ranges are of 2 samples, one batch each, or rows would arrive too seldom in so short a trial; Ray and the
driver have more to do for each sample than with the usual 512.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import torch

from bench import llava
from curate.datasets import DatasetSpec
from curate.manifest.weights import read_weights, write_weights
from curate.models import ModelSpec
from curate.pipeline.child import SETTINGS
from curate.pipeline.job import ScoreJob
from curate.pipeline.plan import plan as make_plan
from curate.pipeline.progress import Progress
from curate.pipeline.resources import Resources
from curate.pipeline.score import score
from curate.pipeline.workers import load_scorer
from curate.scoring.prepare import Prepared, prepare, token_batches
from curate.storage import location

SHARD_ROWS = 2
UNSTEADY_BATCHES = 2  # of each worker
ENOUGH = 0.9  # of the plain loop's throughput

T = TypeVar("T")


@dataclass(frozen=True)
class Way:
    """One way to score the samples; its ratio is to another's throughput."""

    name: str
    ray: bool
    workers: int
    threads: int
    baseline: str | None = None


WAYS = {
    "loop": Way("plain loop, 1 thread", False, 1, 1),
    "loop2": Way("plain loop, 2 threads", False, 1, 2, "loop"),
    "two": Way("2 plain loops at once, 1 thread each", False, 2, 1, "loop"),
    "ray": Way("Ray, 1 actor of 1 thread", True, 1, 1, "loop"),
    "ray2": Way("Ray, 2 actors of 1 thread", True, 2, 1, "ray"),
    "ray-threads": Way("Ray, 1 actor of 2 threads", True, 1, 2, "loop2"),
}


@dataclass(frozen=True)
class Trial:
    """What one way took, once.

    Attributes:
        begun, ended: times of day.
        arrivals: time of day and number of samples of each batch's rows.
        prepare_seconds: spent on decoding, tiling and tokenizing, where the loop does it itself.
        busy_share: of the actors' time.
    """

    begun: float
    ended: float
    arrivals: list[tuple[float, int]]
    prepare_seconds: float = 0.0
    busy_share: float = 1.0

    @property
    def samples(self) -> int:
        return sum(samples for _, samples in self.arrivals)

    @property
    def seconds(self) -> float:
        return self.ended - self.begun

    def steady(self, workers: int) -> float:
        """Samples a second between two arrivals, with the same number of batches of each worker between them."""
        first = UNSTEADY_BATCHES * workers - 1
        last = first + (len(self.arrivals) - 2 - first) // workers * workers
        between = self.arrivals[first + 1 : last + 1]
        return sum(samples for _, samples in between) / (self.arrivals[last][0] - self.arrivals[first][0])


def loop(job: ScoreJob, part: int, parts: int) -> Trial:
    """Score one of several equal parts of the samples in this process, without Ray."""
    begun, preparing = time.time(), 0.0

    def timed(items: Iterable[T]) -> Iterator[T]:
        nonlocal preparing
        source = iter(items)
        while True:
            start = time.perf_counter()
            item = next(source, None)
            preparing += time.perf_counter() - start
            if item is None:
                return
            yield item

    plan = make_plan(job)
    assert job.weights is not None
    builder = plan.model.family.load_builder(plan.model)
    scorer = load_scorer(plan, read_weights(location(job.weights))[0])
    share = len(plan.dataset) // parts
    arrivals = []
    for start in range(part * share, (part + 1) * share, job.shard_rows):
        samples = plan.dataset.samples(range(start, start + job.shard_rows))
        prepared = timed(prepare(samples, builder, job.parameters.text))
        budget = job.parameters.tokens_per_pass(plan.device)
        for batch in token_batches((s for s in prepared if isinstance(s, Prepared)), budget):
            rows = scorer.score(batch)
            arrivals.append((time.time(), len(rows)))
    return Trial(begun, time.time(), arrivals, preparing)


def through_ray(job: ScoreJob) -> Trial:
    """Score the samples as `curate score` does."""
    arrivals: list[tuple[float, int]] = []
    before = 0

    def report(progress: Progress) -> None:
        nonlocal before
        if progress.stage == "score" and progress.done > before:
            arrivals.append((time.time(), progress.done - before))
            before = progress.done

    begun = time.time()
    record = score(job, report, lambda plan, done: None)
    return Trial(begun, time.time(), arrivals, busy_share=record.throughput["score"].busy_share)


def make_job(folder: Path, output: Path, way: Way, samples: int) -> ScoreJob:
    """The job of one trial over files that `llava.write_all` wrote."""
    weights = folder / "weights"
    return ScoreJob(
        output=str(output),
        dataset=DatasetSpec(name=str(folder / "data" / "samples.parquet"), limit=samples),
        model=ModelSpec(name=str(folder / "model"), device="cpu"),
        sae=str(folder / "sae"),
        weights=str(weights) if weights.exists() else None,
        resources=Resources(actors=way.workers, cpus_per_actor=way.threads),
        shard_rows=SHARD_ROWS,
    )


def write_random_weights(folder: Path) -> None:
    """Feature weights that any job of these files may reuse."""
    plan = make_plan(make_job(folder, folder / "run", WAYS["loop"], 1))
    parameters = plan.job.parameters
    write_weights(
        location(str(folder / "weights")),
        torch.rand(llava.D_SAE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        torch.ones(llava.D_SAE, dtype=torch.bool),
        {},
        model_sha256=plan.model.sha256,
        sae_sha256=plan.sae.sha256,
        dataset_sha256=plan.dataset_sha256,
        hook_layer=plan.hook_layer,
        text=parameters.text,
        rule=parameters.weight_rule,
        top_k=parameters.top_k,
        seed=0,
        samples=0,
    )


def measure(folder: Path, key: str, samples: int) -> Trial:
    """One trial, in processes of its own."""
    way = WAYS[key]
    environment = {**SETTINGS, **os.environ, "OMP_NUM_THREADS": str(way.threads)}  # as Ray's actors here have them
    parts = 1 if way.ray else way.workers
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        start = [sys.executable, "-m", "bench.actors", "--samples", str(samples), "--folder", str(folder), "--child"]
        children = [
            subprocess.Popen([*start, key, scratch, str(part)], env=environment, stdout=subprocess.PIPE, text=True)
            for part in range(parts)
        ]
        outputs = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise SystemExit(f"{way.name} failed")
    trials = [Trial(**json.loads(output.splitlines()[-1])) for output in outputs]
    whole = replace(
        trials[0],
        begun=min(trial.begun for trial in trials),
        ended=max(trial.ended for trial in trials),
        arrivals=sorted((at, n) for trial in trials for at, n in trial.arrivals),
        prepare_seconds=sum(trial.prepare_seconds for trial in trials),
    )
    steady = whole.steady(way.workers)
    print(f"{way.name}: {whole.seconds:.1f} s, {steady:.3f} samples/s steady", file=sys.stderr, flush=True)
    return whole


def _child(folder: Path, samples: int, key: str, scratch: Path, part: int) -> None:
    way = WAYS[key]
    job = make_job(folder, scratch / "run", way, samples)
    print(json.dumps(asdict(through_ray(job) if way.ray else loop(job, part, way.workers))))


def report(trials: dict[str, list[Trial]]) -> Iterator[str]:
    """The table and what follows from it, line by line."""
    steady = {key: [trial.steady(WAYS[key].workers) for trial in runs] for key, runs in trials.items()}
    median = {key: statistics.median(values) for key, values in steady.items()}
    yield "| | samples | seconds | samples/s whole | samples/s steady | from, to | × baseline | busy |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for key, runs in trials.items():
        way = WAYS[key]
        seconds = statistics.median(trial.seconds for trial in runs)
        ratio = f"{median[key] / median[way.baseline]:.2f}" if way.baseline in median else ""
        busy = f"{statistics.median(trial.busy_share for trial in runs):.0%}" if way.ray else ""
        yield (
            f"| {way.name} | {runs[0].samples} | {seconds:.1f} | {runs[0].samples / seconds:.3f} | {median[key]:.3f} | "
            f"{min(steady[key]):.3f}, {max(steady[key]):.3f} | {ratio} | {busy} |"
        )
    yield ""
    for numerator, denominator, what in (
        ("ray2", "ray", "2 actors / 1 actor"),
        ("two", "loop", "2 plain loops / 1, the machine's own ceiling"),
        ("ray2", "two", "2 actors / 2 plain loops"),
        ("ray", "loop", "Ray, 1 actor / plain loop, 1 thread"),
        ("ray-threads", "loop2", "Ray, 1 actor / plain loop, 2 threads"),
    ):
        if numerator in median and denominator in median:
            rounds = [a / b for a, b in zip(steady[numerator], steady[denominator], strict=True)]
            ratio = median[numerator] / median[denominator]
            yield f"- {what}: {ratio:.2f} (by round {', '.join(f'{one:.2f}' for one in rounds)})"
    for key, base in (("ray", "loop"), ("ray-threads", "loop2")):
        if key in median and base in median:
            yield f"- {_length(trials[key], median[key], median[base], WAYS[key].name)}"
    if "loop" in trials:
        each = statistics.median(trial.prepare_seconds / trial.samples for trial in trials["loop"])
        yield f"- preparation in the plain loop of 1 thread: {each:.3f} s a sample of {1 / median['loop']:.3f} s"


def _length(runs: list[Trial], ray: float, loop: float, name: str) -> str:
    """From which number of samples the whole call keeps up with a loop that pays no start at all.

    A call of n samples takes start + n / ray seconds, the loop n / loop.
    """
    start = statistics.median(trial.seconds - trial.samples / ray for trial in runs)
    gained = 1 / (ENOUGH * loop) - 1 / ray
    if gained <= 0:
        return f"{name}: start and end {start:.1f} s; it never reaches {ENOUGH} of the plain loop"
    samples = math.ceil(start / gained)
    return (
        f"{name}: start and end {start:.1f} s, so the whole call reaches {ENOUGH} of a plain loop that starts at once "
        f"from {samples:,} samples on ({samples / loop:,.0f} s of the loop)"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=16, help="for each worker")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--folder", type=Path, help="where the model is, or is written to")
    parser.add_argument("--child", nargs=3, metavar=("WAY", "SCRATCH", "PART"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        key, scratch, part = arguments.child
        _child(arguments.folder, arguments.samples, key, Path(scratch), int(part))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        if not (folder / "weights").exists():
            llava.write_all(folder, arguments.samples * max(way.workers for way in WAYS.values()))
            write_random_weights(folder)
        trials: dict[str, list[Trial]] = {key: [] for key in arguments.ways}
        for _ in range(arguments.rounds):
            for key in arguments.ways:
                trials[key].append(measure(folder, key, arguments.samples * WAYS[key].workers))
    print(f"torch {torch.__version__}, ray {version('ray')}, Python {platform.python_version()}")
    print(f"{os.cpu_count()} cores, medians of {arguments.rounds} rounds\n")
    print("\n".join(report(trials)))


if __name__ == "__main__":
    main()
