"""How soon the viewer answers over a large run: `python -m bench.view --rows 1000000`.

A real `curate view`, asked over loopback as its pages ask: the first page, the slider at places drawn over its whole
range, pages of the list drawn over all there are, each by metrics in turn; then the same with a filter, and with
decisions of people. The table gives medians and the slowest of each, and the server's peak memory. The run is that of
`bench.report`.
"""

import argparse
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import httpx
from upath import UPath

from bench.report import METRICS, make_run
from curate.manifest.annotations import ANNOTATIONS, annotate
from curate.manifest.order import rows_at
from curate.report.viewer.browse import ON_PAGE

DECISIONS = 200
FILTER = "least.n_text_tokens=60&label=clean"


def main() -> None:
    """Make a run, start the viewer, ask it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--asks", type=int, default=40, help="of each kind")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = UPath(folder) / "run"
        run.mkdir()
        make_run(run, arguments.rows)
        print(f"{arguments.rows:,} rows, manifest {(run / 'manifest.parquet').stat().st_size / 2**20:,.0f} MiB")
        print(f"Python {platform.python_version()}, DuckDB {version('duckdb')}, {os.cpu_count()} cores\n")
        print("| asked | times | median, ms | slowest, ms |\n|---|---:|---:|---:|")
        peak = _asked(run, arguments.rows, arguments.asks)
    print(f"\npeak memory of the server: {peak / 2**20:,.0f} MiB")


def _asked(run: UPath, rows: int, asks: int) -> float:
    """Ask a viewer of its own everything, printing a line of the table for each kind; its peak memory in bytes."""
    start = time.perf_counter()
    viewer = subprocess.Popen(
        [Path(sys.executable).with_name("curate"), "view", str(run), "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    try:
        assert viewer.stderr is not None
        address = viewer.stderr.readline().split(" on ")[1].split(" ")[0]
        with httpx.Client(base_url=address, timeout=120) as client:
            _line("from the command to the address it prints", [time.perf_counter() - start])
            _line("first page", [_seconds(client, "/")])
            for name, more in (("", ""), (", filtered", f"&{FILTER}")):
                _line(
                    f"first slider answer of a metric{name}",
                    [_seconds(client, f"/answer?{each}{more}") for each in _first()],
                )
                _line(f"slider answer{name}", [_seconds(client, f"/answer?{each}{more}") for each in _sliders(asks)])
                scores = [_seconds(client, f"/answer?{each}{more}") for each in _scores(asks)]
                _line(f"slider answer by score{name}", scores)
                _line(
                    f"page of the gallery{name}",
                    [_seconds(client, f"/list?{each}{more}") for each in _pages(asks, rows)],
                )
            _line("sorted by another column, first page", [_seconds(client, "/list?sort=n_text_tokens&view=table")])
            _decide(run, random.Random(0).sample(range(rows), DECISIONS))
            _line(f"first slider answer after {DECISIONS} decisions", [_seconds(client, "/answer")])
            _line("slider answer, with decisions", [_seconds(client, f"/answer?{each}") for each in _sliders(asks)])
            _line("sample page", [_seconds(client, f"/samples/{rank}") for rank in range(1, asks)])
        status = Path(f"/proc/{viewer.pid}/status").read_text()
    finally:
        viewer.send_signal(signal.SIGINT)
        viewer.wait(30)
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024


def _first() -> Iterator[str]:
    return (f"by={metric}" for metric in METRICS)


def _sliders(asks: int) -> Iterator[str]:
    rng = random.Random(1)
    return (f"by={METRICS[ask % len(METRICS)]}&ratio={rng.uniform(0.001, 1):.3f}" for ask in range(asks))


def _scores(asks: int) -> Iterator[str]:
    rng = random.Random(3)
    return (f"by={METRICS[ask % len(METRICS)]}&keep_by=score&min_score={rng.gauss(1, 1):.3f}" for ask in range(asks))


def _pages(asks: int, rows: int) -> Iterator[str]:
    rng = random.Random(2)
    last = rows // ON_PAGE["gallery"]
    return (f"by={METRICS[ask % len(METRICS)]}&page={rng.randint(1, last)}" for ask in range(asks))


def _seconds(client: httpx.Client, path: str) -> float:
    start = time.perf_counter()
    answer = client.get(path)
    answer.raise_for_status()
    return time.perf_counter() - start


def _decide(run: UPath, places: list[int]) -> None:
    for number, row in enumerate(rows_at(run, places, ["sample_id"])):
        decision = "keep" if number % 2 else "drop"
        annotate(Path(str(run)) / ANNOTATIONS, row["sample_id"], "bench", {"decision": decision})


def _line(name: str, seconds: list[float]) -> None:
    median, slowest = statistics.median(seconds) * 1e3, max(seconds) * 1e3
    print(f"| {name} | {len(seconds)} | {median:,.0f} | {slowest:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
