"""A small run that takes seconds: forty rows of jsonl with images beside them, in four ranges."""

import json
from pathlib import Path

from curate import demo
from curate.datasets import DatasetSpec
from curate.datasets.demo import demo_row
from curate.manifest.record import MANIFEST, QUARANTINE
from curate.manifest.verify import verify_run
from curate.models import ModelSpec
from curate.pipeline.job import ScoreJob
from curate.pipeline.score import score
from curate.scoring.parameters import ScoringParameters

BROKEN = {7: "no-such.png", 25: None}


def write_data(folder: Path) -> Path:
    """Forty rows of jsonl with their images beside them, two of them broken."""
    folder.mkdir()
    with (folder / "data.jsonl").open("w") as lines:
        for index in range(40):
            row = demo_row(3, index)
            (folder / f"{index}.png").write_bytes(row["image"]["bytes"])  # type: ignore[index]
            better = row["overall_response"]
            answers = {"chosen": row[f"response_{better}"], "rejected": row[f"response_{3 - better}"]}  # type: ignore[operator]
            image = BROKEN.get(index, f"{index}.png")
            lines.write(json.dumps({"question": row["question"], "image": image, **answers}) + "\n")
    return folder


def job(run: Path | str, data: Path | None, **options) -> ScoreJob:
    parameters = {"hook_layer": demo.HOOK_LAYER, "weight_samples": 20, **options.pop("parameters", {})}
    arguments = {
        "output": run,
        "dataset": DatasetSpec(name=str(data / "data.jsonl") if data else "demo"),
        "model": ModelSpec(name="demo"),
        "parameters": ScoringParameters.model_validate(parameters),
        "shard_rows": 10,
        "max_error_rate": 0.1,
    }
    return ScoreJob.model_validate({**arguments, **options})


def run(the_job: ScoreJob, overwrite: bool = False):
    """Score, and return the record with the numbers of rows that came out of workers."""
    steps, kept = [], []
    record = score(the_job, steps.append, lambda plan, rows: kept.append(rows), overwrite)
    rows = [step.done for step in steps if step.stage == "score"]
    return record, (kept[0], rows[0], rows[-1]) if rows else (kept[0], None, None)


def content(folder: Path) -> tuple[bytes, bytes]:
    return (folder / MANIFEST).read_bytes(), (folder / QUARANTINE).read_bytes()


def failing(folder: Path) -> dict[str, str]:
    return {check.name: check.detail for check in verify_run(folder) if not check.ok}
