"""The jobs of the SAE-V paper run whole on a small cache of the hub, with two ratios and one seed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from curate.jobs.files import read_job
from tests.evaluation.judge import KEY, judging
from tests.hub import environment

JOBS = Path(__file__).parent.parent.parent / "jobs" / "saev"
FILES = sorted(JOBS.glob("*.yaml"))
LLAVA = JOBS / "llava-next-align-anything.yaml"
# One process in place of eight takes half as many samples a step: without real data there are 60 in all.
ONE_PROCESS = {"workers": 1, "strategy": "ddp", "parallel": 2}


def small(file: Path, folder: Path, judge_url: str, metrics: list[str] | None = None, **changes: Any) -> Path:
    """A job with two ratios, one seed, one epoch, one process for each training, and a judge on this machine."""
    job = yaml.safe_load(file.read_text())
    if metrics is not None:
        job["metrics"] = job["score"]["parameters"]["metrics"] = metrics
    job |= {"output": str(folder / "sweep"), "ratios": [0.5, 1], "seeds": 1, **ONE_PROCESS, **changes}
    del job["score"]["output"], job["evaluation"]["output"]
    job["training"] |= {"batch_size": job["training"]["batch_size"] * 4, "epochs": 1}
    job["evaluation"]["judge"]["url"] = judge_url
    job["evaluation"]["max_new_tokens"] = 16
    written = folder / file.name
    written.write_text(yaml.safe_dump(job))
    return written


def curate(hub: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "curate", *arguments]
    result = subprocess.run(
        command, env=environment(hub, CURATE_JUDGE_KEY=KEY, COLUMNS="200"), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_there_is_one_job_for_each_experiment():
    named = {}
    for file in FILES:
        job: Any = read_job(file)
        named[file.stem] = (job.model.name, job.score.dataset.name, job.score.sae)
        assert job.score.parameters.metrics == ("cosine", "cooccurrence", "l0", "ifd", "random")
        assert [float(ratio) for ratio in job.ratios] == [tenths / 10 for tenths in range(1, 11)]
        assert job.methods == ("sft", "dpo")
        assert job.training.batch_size * job.training.gradient_accumulation_steps * job.workers == 32
    llava, chameleon = "llava-hf/llava-v1.6-mistral-7b-hf", "facebook/chameleon-7b"
    saes = ["sae-v-llava-next-7b", "sae-v-chameleon-7b"]
    assert named == {
        "llava-next-align-anything": (llava, "align-anything", saes[0]),
        "chameleon-align-anything": (chameleon, "align-anything", saes[1]),
        "chameleon-rlaif-v": (chameleon, "rlaif-v", saes[1]),
    }


def test_the_smallest_form_runs_and_sets_the_papers_figures_beside_its_own(hub, tmp_path):
    """One metric and SFT alone: two trainings."""
    with judging(lambda prompt, times: "8 6\nas said") as judge:
        file = small(LLAVA, tmp_path, judge.url, metrics=["cooccurrence"], methods=["sft"])
        printed = curate(hub, "run", str(file))
    record = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert record["trainings"] == 2
    assert {mean["mean"] for mean in record["means"]} == {75.0}
    best, cosine = record["published"]
    published = (best["metric"], best["ratio"], best["score"], best["percent_of_all_data"])
    assert published == ("cooccurrence", 0.5, 108.17, 115)
    assert (best["here"], best["here_percent_of_all_data"]) == (75.0, 100.0)
    assert (cosine["metric"], cosine["score"], cosine["here"]) == ("cosine", 104.2, None)
    assert "arXiv 2502.17514" in printed
    row = next(line.split() for line in printed.splitlines() if "108.17" in line)
    assert row == ["sft", "cooccurrence", "0.5", "108.17", "115%", "75.00", "100%"]


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_job_is_foreseen_and_runs_whole(hub, tmp_path, file):
    with judging(lambda prompt, times: "8 6\nas said") as judge:
        written = small(file, tmp_path, judge.url)
        foreseen = {each["check"]: each for each in json.loads(curate(hub, "doctor", str(written), "--json"))}
        assert {each["state"] for each in foreseen.values()} <= {"ok", "warn"}
        curate(hub, "run", str(written))
        asked = sum(judge.asked.values())
    record = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert record["base"] is not None
    assert len(record["cells"]) == 2 * 6
    assert all(cell["tuned"] and not cell["error"] for cell in record["cells"])
    assert {cell["metric"] for cell in record["cells"]} == {"cosine", "cooccurrence", "l0", "ifd", "random", "full"}
    # Selections that keep the same samples share a training.
    assert asked == 3 * (record["trainings"] + 1) <= foreseen["judge"]["numbers"]["judge_calls"] == 3 * 13
    assert not list((tmp_path / "sweep").glob("cells/*/training/model"))
    assert foreseen["disk"]["numbers"]["peak_bytes"] > 0
    assert record["published"]
