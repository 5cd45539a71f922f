"""Make the embedded default again: model, dictionary, and the report that a test holds against the files."""

import json
from pathlib import Path

from curate.demo.train_model import train_model
from curate.demo.train_sae import train_sae


def train(output: Path, steps: int, sae_tokens: int, seed: int) -> dict[str, object]:
    """Train model and SAE into `output/model` and `output/sae`; write and return `output/training.json`."""
    output.mkdir(parents=True, exist_ok=True)
    report: dict[str, object] = {"model": train_model(output / "model", steps, seed)}
    report["sae"] = train_sae(output / "model", output / "sae", sae_tokens, seed)
    (output / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    return report
