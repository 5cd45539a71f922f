"""What grows with rows, shards, batches and actors: each term at two sizes, `python -m bench.scale`.

docs/scale.md multiplies these up to 1,000 actors and 100 million samples. Processor time and memory are counted rather
than seconds wherever they can be, since they depend less on what else the machine does. Ranking has a bench of its own,
`bench.rank`.
"""

import argparse
import json
import pickle
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from bench import cheap
from bench.driver import write_data
from bench.rank import make_shards
from curate.datasets import DatasetSpec, open_dataset
from curate.manifest.ledger import commit, is_whole, ledger_sha256, read_ledger
from curate.manifest.rank import write_manifest
from curate.manifest.rows import ScoredRow, scored_table
from curate.models import ModelSpec
from curate.models.families import FAMILIES
from curate.pipeline.job import ScoreJob
from curate.pipeline.plan import plan
from curate.pipeline.score import score
from curate.storage import location

METRICS = ["cosine", "cooccurrence", "l0", "random"]
Measured = dict[str, float]


def shard_rows(start: int, rows: int = 512) -> pa.Table:
    """A range's rows as actors send them."""
    features = [(feature, 0.5) for feature in range(10)]
    scores = {name: float(start) for name in METRICS}
    return scored_table(
        [
            ScoredRow(f"{row:032x}", row, scores, 100, 1176, False, 0, None, features)
            for row in range(start, start + rows)
        ],
        METRICS,
    )


def ledger(shards: int) -> Measured:
    """Commit so many shards; then, as a resume does, read the ledger and every shard."""
    with tempfile.TemporaryDirectory() as scratch:
        run = location(scratch)
        (run / "shards").mkdir()
        rows = shard_rows(0)
        begun, cpu = time.monotonic(), time.process_time()
        for shard in range(shards):
            moved = rows.set_column(
                rows.schema.get_field_index("source_row"), "source_row", pa.array(range(shard * 512, shard * 512 + 512))
            )
            commit(run, shard * 512, shard * 512 + 512, moved, None, "stamp")
        seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
        begun = time.monotonic()
        found = read_ledger(run)
        read = time.monotonic() - begun
        begun = time.monotonic()
        assert all(is_whole(run, shard) for shard in found.values())
        ledger_sha256(found.values())
        check = time.monotonic() - begun
        del found
        tracemalloc.start()
        found = read_ledger(run)
        memory, _ = tracemalloc.get_traced_memory()
    return {
        "commit_ms_per_shard": 1000 * seconds / shards,
        "commit_cpu_ms_per_shard": 1000 * cpu / shards,
        "read_ms_per_shard": 1000 * read / shards,
        "check_ms_per_shard": 1000 * check / shards,
        "ledger_bytes_per_shard": memory / len(found),
    }


def bytes_on_disk(rows: int) -> Measured:
    """Shards and the manifest ranked from them."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch)
        make_shards(run, rows, 512)
        write_manifest(location(scratch), METRICS, (location(scratch) / "shards").glob("*.parquet"))
        shards = sum(path.stat().st_size for path in (run / "shards").glob("*.parquet"))
        return {
            "shard_bytes_per_row": shards / rows,
            "manifest_bytes_per_row": (run / "manifest.parquet").stat().st_size / rows,
        }


def plan_bytes(rows: int) -> Measured:
    """What each worker is sent, for rows that are all there are, and for rows that were drawn."""
    with tempfile.TemporaryDirectory() as scratch:
        the_plan = plan(ScoreJob(output=scratch, dataset=DatasetSpec(limit=rows)))
        whole = len(pickle.dumps((the_plan, the_plan.dataset)))
        drawn = replace(the_plan.dataset, rows=list(range(0, 2 * rows, 2)))
        return {"plan_bytes": whole, "drawn_bytes_per_row": (len(pickle.dumps((the_plan, drawn))) - 2 * whole) / rows}


def fingerprint(images: int) -> Measured:
    """Read the data's content once, as every session does before it begins."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "data.jsonl"
        file.write_bytes(b"\n" * (images * 100_000))
        dataset = replace(open_dataset(DatasetSpec()), root=location(scratch), files=(location(str(file)),))
        begun = time.process_time()
        dataset.fingerprint()
        return {"hash_gb_per_cpu_second": images * 1e5 / 1e9 / (time.process_time() - begun)}


def blocks(samples: int, actors: int = 1) -> Measured:
    """Score samples of a megabyte, each a batch and so a block by itself, with a model that costs nothing."""
    FAMILIES[cheap.FAMILY.model_type] = cheap.FAMILY
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model, sae = cheap.write_model_and_sae(folder, sample_bytes=BLOCK)
        job = ScoreJob.model_validate(
            {
                "output": str(folder / "run"),
                "dataset": {"name": str(write_data(folder / "data", samples))},
                "model": ModelSpec(name=str(model)),
                "sae": str(sae),
                "parameters": {"hook_layer": 0, "metrics": ["l0"], "batch_size": cheap.TOKENS},
                "resources": {"actors": actors, "cpus_per_actor": 1},
            }
        )
        marks: list[tuple[int, float, float]] = []
        score(
            job,
            lambda step: (
                marks.append((step.done, time.process_time(), time.monotonic())) if step.stage == "score" else None
            ),
            lambda plan, rows: None,
        )
    # From when the first rows are there to the last: starts left out.
    (first, cpu, clock), (last, cpu_end, clock_end) = next(mark for mark in marks if mark[0]), marks[-1]
    return {
        "driver_cpu_ms_per_block": 1000 * (cpu_end - cpu) / (last - first),
        "blocks_per_second_here": (last - first) / (clock_end - clock),
        "driver_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


BLOCK = 24 * 2**20  # more than the largest block that batches are put together to
TERMS: dict[str, tuple[Callable[..., Measured], tuple[int, int]]] = {
    "ledger": (ledger, (1_000, 10_000)),
    "disk": (bytes_on_disk, (100_000, 1_000_000)),
    "plan": (plan_bytes, (10_000, 1_000_000)),
    "hash": (fingerprint, (1_000, 10_000)),
    "blocks": (blocks, (300, 1_200)),
}


def main() -> None:
    """Print a table of each term at both sizes; each measurement is a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--terms", nargs="+", default=list(TERMS), choices=list(TERMS))
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        print(json.dumps(TERMS[arguments.terms[0]][0](arguments.child)))
        return
    print("| | at | | at | |\n|---|--:|--:|--:|--:|")
    for term in arguments.terms:
        found = {}
        for size in TERMS[term][1]:
            command = [sys.executable, "-m", "bench.scale", "--terms", term, "--child", str(size)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[size] = json.loads(output.splitlines()[-1])
        (small, at_small), (large, at_large) = found.items()
        for name in at_small:
            print(f"| {name} | {small:,} | {at_small[name]:,.4g} | {large:,} | {at_large[name]:,.4g} |", flush=True)


if __name__ == "__main__":
    main()
