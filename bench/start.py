"""What the first minute of a user costs: `python -m bench.start --rounds 5`.

Whole commands, each in a process of its own, timed in turn: `curate score` of 20 and of 1,000 demo samples by both
executors; imports of torch and of transformers' code of models; and a plain loop in one process that prepares, weighs
and scores 1,000 samples and writes nothing. Memory is the proportional set size of all processes of a command, in sum,
at the highest of looks a tenth of a second apart.
"""

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

IMPORTS = "import torch, transformers.modeling_utils"
LOOP = "from bench.start import loop; loop({samples})"


def loop(samples: int) -> None:
    """Prepare, weigh and score demo samples in this process."""
    from curate.datasets import DatasetSpec
    from curate.pipeline.job import ScoreJob
    from curate.pipeline.plan import plan
    from curate.pipeline.workers import load_cut
    from curate.sae.load import load_dictionary
    from curate.scoring.prepare import Prepared, prepare, token_batches
    from curate.scoring.scorer import Scorer
    from curate.scoring.weights_pass import WeightsPass

    found = plan(ScoreJob(output="none", dataset=DatasetSpec(limit=samples)))
    parameters, rows = found.job.parameters, found.dataset.rows
    builder = found.model.family.load_builder(found.model)
    cut, dictionary = load_cut(found), load_dictionary(found.sae, "cpu")
    made = prepare(found.dataset.samples(range(samples)), builder, parameters.text)
    prepared = [sample for sample in made if isinstance(sample, Prepared)]
    weights = WeightsPass(cut, dictionary, parameters, rows, found.model.context)
    for sample in prepared:
        weights.add(sample)
    scorer = Scorer(cut, dictionary, parameters, weights.weights().weight)
    scored = [
        row for batch in token_batches(prepared, parameters.tokens_per_pass("cpu")) for row in scorer.score(batch)
    ]
    assert len(scored) == samples, "samples were lost"


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds that a command takes, and the highest memory of its processes in MB."""
    start, peak = time.perf_counter(), 0.0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, _memory(process.pid))
        time.sleep(0.1)
    assert process.returncode == 0, command
    return time.perf_counter() - start, peak / 1e6


def _memory(pid: int) -> float:
    total = 0
    with contextlib.suppress(psutil.Error):
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            with contextlib.suppress(psutil.Error, OSError):
                total += process.memory_full_info().pss
    return total


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-ray", action="store_true")
    arguments = parser.parse_args()
    curate = str(Path(sys.executable).parent / "curate")
    with tempfile.TemporaryDirectory() as scratch:

        def score(samples: int, executor: str) -> list[str]:
            run = ["--output", f"{scratch}/run", "--overwrite"]
            return [curate, "score", "--limit", str(samples), "--executor", executor, *run]

        ways = {
            "import torch and the code of models": [sys.executable, "-c", IMPORTS],
            "score 20, local": score(20, "local"),
            "loop over 1,000 in one process": [sys.executable, "-c", LOOP.format(samples=1000)],
            "score 1,000, local": score(1000, "local"),
        }
        if not arguments.without_ray:
            ways |= {"score 20, ray": score(20, "ray"), "score 1,000, ray": score(1000, "ray")}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, command in ways.items():
                found[name].append(measure(command))
                print(f"{name}: {found[name][-1][0]:.1f} s", file=sys.stderr, flush=True)
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} at the end\n")
    print(f"| medians of {arguments.rounds} | s | from, to | peak MB |\n|---|--:|--:|--:|")
    seconds = {name: [each for each, _ in trials] for name, trials in found.items()}
    for name, trials in found.items():
        peak = statistics.median(peak for _, peak in trials)
        times = seconds[name]
        print(f"| {name} | {statistics.median(times):.1f} | {min(times):.1f}, {max(times):.1f} | {peak:,.0f} |")
    print()
    for mine, its in (
        ("score 20, local", "import torch and the code of models"),
        ("score 1,000, local", "loop over 1,000 in one process"),
    ):
        ratios = [one / other for one, other in zip(seconds[mine], seconds[its], strict=True)]
        print(f"- {mine} / {its}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
