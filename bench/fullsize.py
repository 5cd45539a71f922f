"""What a model and an SAE of true size cost on this machine: `python -m bench.fullsize`.

Writes LLaVA-NeXT-Mistral-7B (15 GB in four shards) and an SAE of 65,536 features (2 GB) with random weights, laid out
as `bench.published` says, and measures hashing, loading below the cut, one photograph, and the doctor's trial. `--scale
small` does the same in seconds.
"""

import argparse
import io
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from rich.filesize import decimal

from bench.published import NAME, SCALES, Scale, write_model, write_sae
from curate.datasets import DatasetSpec, open_dataset
from curate.pipeline.probe import forget_peak
from curate.sae.load import load_dictionary
from curate.scoring.pair import agree
from curate.scoring.parameters import ScoringParameters
from curate.scoring.prepare import Prepared, prepare
from curate.scoring.scorer import Scorer

ROWS, EDGE = 16, 336
ROOM = {"full": 20 * 10**9, "small": 10**8}
T = TypeVar("T")


def main() -> None:
    """Write what is missing, print the table and what the doctor says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=tempfile.gettempdir(), help="where a folder is made for all")
    parser.add_argument("--keep", action="store_true", help="keep that folder, for the next time")
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--trial-seconds", type=float, default=300, help="limit of the doctor's trial")
    arguments = parser.parse_args()
    place: Path = Path(arguments.folder) / f"curate-{arguments.scale}"
    place.mkdir(parents=True, exist_ok=True)
    try:
        measure(place, arguments.scale, arguments.dtype, arguments.trial_seconds)
    finally:
        if not arguments.keep:
            shutil.rmtree(place)
    if arguments.keep:
        print(f"\nkept in {place}")


def measure(folder: Path, scale: str, dtype: str, trial_seconds: float) -> None:
    """Measure each step in a process of its own, and print a table."""
    model, sae = folder / "model" / NAME.rpartition("/")[2], folder / "sae"
    written = _written(folder, model, sae, scale)
    # Each time, hashes are computed once.
    os.environ["CURATE_CACHE"] = tempfile.mkdtemp(dir=folder, prefix="cache")
    time.sleep(2.5)  # the hash of a file just written is not kept
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {_memory()}; Python {platform.python_version()}, torch "
        f"{torch.__version__}, transformers {version('transformers')}; {scale} size, {dtype}; load average "
        f"{os.getloadavg()[0]:.1f} of others\n"
    )
    print("| | seconds | peak memory |\n|---|--:|--:|")
    for line in written:
        _row(*line)
    _row("hash model and SAE, first", *_apart(_hash, model, sae))
    _row("hash model and SAE, remembered", *_apart(_hash, model, sae))
    for line in _apart(_score, model, sae, folder / "data", dtype)[2]:
        _row(*line)
    shutil.rmtree(os.environ["CURATE_CACHE"])
    _doctor(folder, model, sae, dtype, trial_seconds)


def _row(name: str, seconds: float, peak: float, _result: Any = None) -> None:
    print(f"| {name} | {seconds:.1f} | {decimal(int(peak))} |", flush=True)


def _memory() -> str:
    return decimal(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _written(folder: Path, model: Path, sae: Path, scale: str) -> list[tuple[str, float, float]]:
    """Write what is not there yet; the time of each part and its peak of memory."""
    free = shutil.disk_usage(folder).free
    if not sae.exists() and free < ROOM[scale]:
        sys.exit(f"{folder}: {decimal(ROOM[scale])} are needed, and {decimal(free)} are free: give another --folder")
    steps: list[tuple[str, Path, Callable[[Path, Scale], None]]] = [
        ("write the model", model, write_model),
        ("write the SAE", sae, write_sae),
        ("write photographs", folder / "data", _write_data),
    ]
    lines = []
    for name, path, write in steps:
        if path.exists():
            continue
        part = path.with_name(f"{path.name}.part")  # of a write that was cut off, nothing counts
        shutil.rmtree(part, ignore_errors=True)
        lines.append((name, *_apart(write, part, SCALES[scale])[:2]))
        part.rename(path)
    return lines


def _write_data(folder: Path, _scale: Scale) -> None:
    """Pieces of scikit-learn's two photographs, each with a question and two answers."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    rows = []
    for number in range(ROWS):
        left, top, jpeg = 10 * number, 5 * number, io.BytesIO()
        piece = photographs[number % 2].crop((left, top, left + EDGE, top + EDGE))
        piece.save(jpeg, "JPEG", quality=90)
        chosen = "A temple in front of a hill, with a red roof, and people before it. " * 2
        question = "What is in this photograph? Describe it part by part."
        rows.append({"question": question, "image": jpeg.getvalue(), "chosen": chosen, "rejected": "A dog."})
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "photographs.parquet")


def _apart(do: Callable[..., T], *arguments: Any) -> tuple[float, float, T]:
    """The seconds and the peak memory that a function takes in a new process, and what it returns."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_timed, do, *arguments).result()


def _timed(do: Callable[..., T], *arguments: Any) -> tuple[float, float, T]:
    started = time.monotonic()
    result = do(*arguments)
    return time.monotonic() - started, _peak(), result


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _hash(model: Path, sae: Path) -> None:
    agree(str(model), str(sae), None)


def _score(model: Path, sae: Path, data: Path, dtype: str) -> list[tuple[str, float, float]]:
    """Load model and SAE and score one photograph, twice."""
    pair = agree(str(model), str(sae), None)
    torch.set_num_threads(os.cpu_count() or 1)
    cut_seconds, _, cut = _timed(
        pair.model.family.load_model, pair.model, pair.hook_layer, getattr(torch, dtype), "cpu"
    )
    lines = [("load the model below the cut (mapped files count)", cut_seconds, _peak())]
    forget_peak()
    seconds, peak, dictionary = _timed(load_dictionary, pair.sae)
    lines.append(("load the SAE beside it", seconds, peak))
    forget_peak()
    dataset = open_dataset(DatasetSpec(name=str(data)))
    builder = pair.model.family.load_builder(pair.model)
    seconds, _, [sample] = _timed(lambda: list(prepare(dataset.samples([0]), builder, "prompt+chosen")))
    assert isinstance(sample, Prepared)
    lines.append((f"prepare a photograph of {EDGE} × {EDGE}: {len(sample):,} tokens", seconds, _peak()))
    parameters = ScoringParameters(hook_layer=pair.hook_layer)
    scorer = Scorer(cut, dictionary, parameters, torch.zeros(dictionary.d_sae, dtype=torch.float64))
    for turn in ("first", "again"):
        seconds, peak, _ = _timed(scorer.score, [sample])
        lines.append((f"score it, {turn}", seconds, peak))
    return lines


def _doctor(folder: Path, model: Path, sae: Path, dtype: str, trial_seconds: float) -> None:
    job = folder / "job.yaml"
    content = {
        "kind": "score",
        "output": str(folder / "run"),
        "dataset": {"name": str(folder / "data")},
        "model": {"name": str(model), "dtype": dtype, "device": "cpu"},
        "sae": str(sae),
    }
    job.write_text(json.dumps(content))  # which is YAML, too
    command = [sys.executable, "-m", "curate", "doctor", str(job), "--trial-seconds", f"{trial_seconds:g}"]
    started = time.monotonic()
    print(f"\n`curate doctor JOB --trial-seconds {trial_seconds:g}`:\n\n```")
    print(subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.replace(str(folder), "…"), end="")
    print(f"```\n\nin {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
