"""On a machine whose hub cache holds the paper's model, SAE and data, nothing needs to be configured to rank them."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.hub import FOLDERS, LLAVA, SAES, environment, snapshot, write_in_todays_format


def curate(hub: Path, folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "curate", *arguments]
    result = subprocess.run(command, cwd=folder, env=environment(hub, COLUMNS="200"), capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (folder / f"{arguments[0]}.stderr").write_text(result.stderr)
    return result.stdout


@pytest.fixture(scope="module")
def scored(hub, tmp_path_factory) -> Path:
    """A working folder with a run in `runs/scored`, of the published SAE by no name; `said` is what that printed."""
    folder = tmp_path_factory.mktemp("full-cache")
    options = ["--weight-samples", "40", "--output", "runs/scored"]
    said = curate(hub, folder, "score", "--dataset", "align-anything", *options)
    (folder / "said").write_text(said + (folder / "score.stderr").read_text())
    return folder


def test_scores_are_those_of_the_same_sae_in_todays_format(hub, scored, tmp_path):
    named = tmp_path / "sae"
    write_in_todays_format(snapshot(hub, f"models--{SAES}") / FOLDERS[LLAVA], named)
    options = ["--weight-samples", "40", "--sae", str(named), "--output", "runs/named"]
    curate(hub, scored, "score", "--dataset", "align-anything", *options)
    one, other = (pq.read_table(scored / "runs" / name / "manifest.parquet") for name in ("scored", "named"))
    assert one.num_rows > 50
    for column in ("sample_id", "rank", "score", "cosine", "cooccurrence", "l0"):
        assert one[column].equals(other[column]), column
    assert len(set(one["cosine"].to_pylist())) > 40


def test_the_run_says_which_model_and_sae_it_took(scored):
    record = json.loads((scored / "runs" / "scored" / "run.json").read_text())
    assert record["arguments"]["model"]["name"] == LLAVA
    assert record["hook_layer"] == 2
    assert record["status"] == "complete"
    assert record["counts"]["scored"] > 50
    assert record["arguments"]["sae"] == "sae-v-llava-next-7b"


def test_the_licence_of_the_sae_and_its_fit_are_printed_and_recorded(scored):
    record = json.loads((scored / "runs" / "scored" / "run.json").read_text())
    said = (scored / "said").read_text()
    licence = "the SAE PKU-Alignment/SAE-V is published under CC BY-NC 4.0"
    assert (record["sae"]["licence"], licence in record["notes"]) == ("CC BY-NC 4.0", True)
    assert said.count(f"note: {licence}") == 1
    assert "is folded already, as measured" in record["sae"]["reading"]
    fit = {modality: found["explained_variance"] for modality, found in record["sae"]["fit"].items()}
    assert min(fit.values()) > 0.5
    for modality, explained in fit.items():
        assert f"{explained:.3f} of the variance of {modality} tokens" in said


def test_select_show_and_explain_work_on_it(hub, scored):
    selected = json.loads(curate(hub, scored, "select", "runs/scored", "--ratio", "0.2", "--json"))
    assert selected["selected"] > 0
    rows = json.loads(curate(hub, scored, "show", "runs/scored", "--top", "3", "--bottom", "0", "--json"))
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert "cosine" in curate(hub, scored, "explain", "runs/scored", "#1")
