"""Does the driver's memory grow with the rows? `python -m bench.driver --rows 2000 200000`.

Each run is a process of its own, with a model that costs nothing, so that rows go by as fast as Ray carries them. The
peak is the driver's alone: workers, whose memory holds a range at most, are other processes.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import cheap
from curate.datasets import DatasetSpec
from curate.datasets.demo import demo_row
from curate.models import ModelSpec
from curate.models.families import FAMILIES
from curate.pipeline.job import ScoreJob
from curate.pipeline.score import score
from curate.scoring.parameters import ScoringParameters


def write_data(folder: Path, rows: int) -> Path:
    """A jsonl table of rows that differ in their question, over one image."""
    folder.mkdir()
    (folder / "image.png").write_bytes(demo_row(0, 0)["image"]["bytes"])  # type: ignore[index]
    with (folder / "data.jsonl").open("w") as lines:
        for row in range(rows):
            texts = {"question": f"question {row}", "chosen": "yes", "rejected": "no"}
            lines.write(json.dumps({**texts, "image": "image.png"}) + "\n")
    return folder / "data.jsonl"


def one(rows: int) -> dict[str, float]:
    """Score that many rows in this process; returns its peak and the seconds of scoring."""
    FAMILIES[cheap.FAMILY.model_type] = cheap.FAMILY
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model, sae = cheap.write_model_and_sae(folder)
        job = ScoreJob(
            output=str(folder / "run"),
            dataset=DatasetSpec(name=str(write_data(folder / "data", rows))),
            model=ModelSpec(name=str(model)),
            sae=str(sae),
            parameters=ScoringParameters(hook_layer=0, metrics=("l0", "cooccurrence")),
        )
        start = time.monotonic()
        record = score(job, lambda step: None, lambda plan, done: None)
        assert record.counts.scored == rows, record.counts
        seconds = time.monotonic() - start
    return {
        "rows": rows,
        "driver_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds": seconds,
        "rank_seconds": record.timings["rank"],
    }


def main() -> None:
    """Print a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[2_000, 200_000])
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(one(arguments.rows[0])))
        return
    print("| rows | driver's peak, MB | seconds | of them ranking |\n|--:|--:|--:|--:|")
    for rows in arguments.rows:
        command = [sys.executable, "-m", "bench.driver", "--child", "--rows", str(rows)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found = json.loads(output.splitlines()[-1])
        print(
            f"| {rows:,} | {found['driver_peak_mb']:,.0f} | {found['seconds']:,.0f} | {found['rank_seconds']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
