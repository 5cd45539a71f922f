"""The command as a user meets it: a real process, its output, its exit code."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from curate import demo
from curate.cli.console import printable
from curate.cli.main import app
from curate.datasets.demo import demo_row
from tests import command
from tests.manifest.test_run_folder import make_run

CURATE = Path(sys.executable).parent / "curate"


def curate(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # Ray, started by tests in this process, leaves its settings in the environment.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CURATE_", "RAY_"))}
    home = {"HOME": str(cwd), "XDG_CONFIG_HOME": str(cwd / ".config"), "COLUMNS": "100", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [str(CURATE), *map(str, arguments)],
        cwd=cwd,
        env={**clean, **home, **environment},
        capture_output=True,
        text=True,
    )


def refused(result: "subprocess.CompletedProcess[str]", message: str, code: int = 2) -> None:
    """One line, the right one, and never a traceback."""
    assert result.returncode == code, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ")
    assert re.search(message, result.stderr), result.stderr
    assert result.stdout == ""


@pytest.fixture
def labelled_run(tmp_path):
    return make_run(tmp_path / "run")


def test_help_teaches_without_loading_torch(tmp_path):
    result = curate("--help", cwd=tmp_path)
    assert result.returncode == 0
    for verb in ("score", "show", "select", "verify", "datasets", "metrics", "demo"):
        assert verb in result.stdout
    code = (
        "import sys, curate.cli.main; print([m for m in ('torch', 'ray', 'pyarrow', 'pydantic') if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "verb",
    [
        *("score", "show", "select", "verify", "datasets", "metrics", "demo export", "demo report"),
        *("run", "doctor", "submit", "jobs", "status", "logs", "stop", "retry", "quarantine"),
    ],
)
def test_every_verb_explains_itself(verb):
    result = command.curate(*verb.split(), "--help")
    assert result.exit_code == 0
    assert "Usage: curate " + verb in result.stdout


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with an exported demo and a configured team's curate.toml."""
    folder = tmp_path_factory.mktemp("team")
    assert curate("demo", "export", "demo", "--samples", 60, cwd=folder).returncode == 0
    (folder / "curate.toml").write_text(
        '[score]\nsae = "demo/sae"\nmodel = "demo/model"\ndata-dir = "demo/data"\nweight_samples = 40\n'
    )
    return folder


@pytest.mark.slow
def test_a_configured_team_names_only_its_data_set(exported):
    result = curate("score", "--dataset", "align-anything", "--output", "a", cwd=exported)
    assert result.returncode == 0, result.stderr
    assert "60 scored + 0 quarantined = 60 read" in result.stdout
    assert "scores: 60/60" in result.stderr
    assert "toy" not in result.stderr
    record = json.loads((exported / "a" / "run.json").read_text())
    assert record["arguments"]["sae"] == str(exported / "demo" / "sae")
    assert record["arguments"]["parameters"]["weight_samples"] == 40
    assert curate("verify", "a", cwd=exported).returncode == 0
    shown = curate("show", "a", "--top", 3, "--json", cwd=exported)
    rows = json.loads(shown.stdout)
    assert [row["rank"] for row in rows] == [1, 2, 3]
    source = demo_row(0, rows[0]["source_row"])
    assert rows[0]["question"] == source["question"]
    one = json.loads(curate("show", "a", "--sample", rows[0]["sample_id"][:10], "--json", cwd=exported).stdout)
    assert one == rows[:1]
    report = json.loads(curate("demo", "report", "a", "--json", cwd=exported).stdout)
    assert {entry["score"] for entry in report} >= {"cosine", "n_tokens"}
    assert "±" in curate("demo", "report", "a", cwd=exported).stdout


def test_the_demo_alone_takes_its_own_model_even_in_a_configured_folder(exported):
    (exported / "other").mkdir()
    toml = '[score]\nsae = "/no/such/sae"\nmodel = "/no/such/model"\nlimit = 30\noutput = "run"\n'
    (exported / "other" / "curate.toml").write_text(toml)
    result = curate("score", "--print-job", cwd=exported / "other")
    assert result.returncode == 0, result.stderr
    job = yaml.safe_load(result.stdout)
    assert (job["model"]["name"], job["sae"], job["dataset"]["limit"]) == ("demo", "demo", 30)


def test_command_line_beats_environment_beats_project_beats_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    (tmp_path / ".config" / "curate").mkdir(parents=True)
    (tmp_path / ".config" / "curate" / "curate.toml").write_text('[score]\nsae = "user"\nmodel = "/no/user-model"\n')
    (tmp_path / "curate.toml").write_text('[score]\nsae = "project"\n')
    pq.write_table(
        pa.Table.from_pylist([{"question": "q", "image": b"x", "chosen": "a", "rejected": "b"}]), tmp_path / "d.parquet"
    )
    score = ("score", "--dataset", "d.parquet")
    monkeypatch.setenv("CURATE_SCORE_SAE", "environment")
    command.refused("--sae typed", *score, "--sae", "typed", codes=(2,))
    command.refused("--sae environment", *score, codes=(2,))
    monkeypatch.delenv("CURATE_SCORE_SAE")
    command.refused("--sae project", *score, codes=(2,))
    (tmp_path / "curate.toml").write_text("")
    command.refused("--sae user", *score, codes=(2,))


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[score", "curate.toml: "),
        ("[scores]\nsae = 'x'", r"\[scores\] is not a verb; there are: score, "),
        ("[score]\nsaes = 'x'", r"\[score\] has no option saes; there are: dataset, "),
        ("sae = 'x'", r"\[sae\] is not a verb"),
    ],
)
def test_a_wrong_configuration_file_is_refused(tmp_path, toml, message):
    (tmp_path / "curate.toml").write_text(toml)
    refused(curate("datasets", cwd=tmp_path), message)


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (("--dataset", "align-anything", "--model", "some/model"), "--sae: no SAE is named for some/model", 2),
        (
            ("--dataset", "align-anything", "--model", "demo"),
            "could not be fetched .* name a local copy with --data-dir",
            1,
        ),
        (("--dataset", "nothing", "--model", "demo"), "neither a known data set", 2),
        (("--metric", "cosine,wisdom"), "--metric: no metric wisdom; there are: cosine", 2),
        (("--metric", ""), "--metric: no metric", 2),
        (("--metric", "l0,l0"), "each once|each metric once", 2),
        (("--limit", "0"), "--limit: ", 2),
        (("--delta", "nan"), "--delta: 'nan' is neither a number from 0 nor auto", 2),
        (("--delta", "AUTO"), "--delta: 'AUTO' is neither a number from 0 nor auto", 2),
        (("--max-error-rate", "2"), "--max-error-rate: ", 2),
        (("--hook-layer", "1"), "--hook-layer 1: .* was trained on layer 2", 2),
        (("--sae", "nothing"), "--sae nothing: no such folder, and no other name of an SAE: a folder, a name of", 2),
        (("--sae", "x" * 300), "not a name of an SAE", 2),
        (("--model", "/nothing"), "no SAE is named for /nothing", 2),
        (("--model", "/nothing", "--sae", str(demo.SAE)), "--model /nothing: no such folder", 2),
        (("--device", "cuda"), "torch sees no GPU here", 2),
        (("--columns", "x"), "--columns: x is not of the form", 2),
        (("--output", "file"), "file is a file; name a folder", 2),
        (("--weights", "nothing"), "does not hold whole feature weights", 2),
        (("--address", "127.0.0.1:1"), "no Ray cluster answers there", 2),
    ],
)
def test_wrong_options_of_score_are_one_line_before_any_work(tmp_path, monkeypatch, capfd, arguments, message, code):
    """In this process, since each new one takes seconds to import torch."""
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit) as stopped:
        app(["score", *arguments])
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith(("scoring ", "note: "))]
    refused(subprocess.CompletedProcess((), stopped.value.code or 0, out, "\n".join(lines) + "\n"), message, code)
    # Only the address is tried after the folder was made; nothing is scored there.
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.slow
def test_real_data_with_the_toy_model_say_so(tmp_path, real_data):
    options = ("--dataset", "align-anything", "--data-dir", real_data / "align_anything", "--model", "demo")
    result = curate("score", *options, "--split", "val", "--output", "run", "--metric", "l0", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "15 scored + 0 quarantined" in result.stdout
    assert "the demo model knows only its toy world" in " ".join(result.stderr.split())


def test_an_object_store_without_credentials_is_one_line(tmp_path):
    nothing = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }
    result = curate("verify", "s3://bucket/run", cwd=tmp_path, **nothing)
    refused(result, "NoCredentials.* curate --debug … shows where", 1)


def test_debug_shows_the_traceback(tmp_path):
    result = curate("--debug", "verify", "nothing", cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_verify_tells_by_line_by_json_and_by_exit_code(labelled_run, tmp_path):
    result = curate("verify", labelled_run, cwd=tmp_path)
    assert result.returncode == 0
    assert all(line.startswith("ok") for line in result.stdout.splitlines())
    (labelled_run / "quarantine.parquet").unlink()
    result = curate("verify", labelled_run, cwd=tmp_path)
    assert result.returncode == 1
    assert "FAIL checksum quarantine.parquet: missing" in result.stdout
    assert any(not check["ok"] for check in json.loads(curate("verify", labelled_run, "--json", cwd=tmp_path).stdout))
    refused(curate("verify", tmp_path, cwd=tmp_path), "is not a run folder", 1)


def test_select_writes_and_says_where(labelled_run, tmp_path):
    result = curate("select", labelled_run, "--ratio", "0.5", "--by", "l0", cwd=tmp_path)
    assert result.returncode == 0
    assert "5 of 10 samples kept by l0-ratio-0.5" in result.stdout
    path = Path(result.stdout.splitlines()[1].removeprefix("selection: "))
    assert pq.read_table(path)["source_row"].to_pylist() == [0, 1, 2, 3, 4]
    chosen = json.loads(curate("select", labelled_run, "--top", 2, "--output", "out", "--json", cwd=tmp_path).stdout)
    assert chosen["selected"] == 2
    refused(curate("select", labelled_run, cwd=tmp_path), "exactly one of --ratio, --top and --min-score")
    refused(curate("select", labelled_run, "--ratio", "1.5", cwd=tmp_path), "--ratio: ")
    assert curate("select", labelled_run, "--ratio", "half", cwd=tmp_path).returncode == 2


def test_show_finds_scored_and_quarantined_samples_by_their_ids(labelled_run, tmp_path):
    result = curate("show", labelled_run, "--top", 1, "--bottom", 1, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "1 best" in result.stdout
    assert "1 worst" in result.stdout
    lost = curate("show", labelled_run, "--sample", "ffff", cwd=tmp_path)
    assert "EmptyText" in lost.stdout
    refused(curate("show", labelled_run, "--sample", "0000", cwd=tmp_path), "give more of it", 1)
    refused(curate("show", labelled_run, "--sample", "abc", cwd=tmp_path), "has no sample abc; ", 1)


def test_lists_are_readable_by_machines():
    names = [entry["name"] for entry in json.loads(command.curate("datasets", "--json").stdout)]
    assert names == ["demo", "align-anything", "rlaif-v", "spa-vl", "obelics", "the-pile"]
    metrics = json.loads(command.curate("metrics", "--json").stdout)
    assert [metric["name"] for metric in metrics] == [
        *("cosine", "cooccurrence", "l0", "random"),
        *("ifd", "margin", "length", "loglik"),
    ]
    for verb, entries in (("datasets", names), ("metrics", [metric["name"] for metric in metrics])):
        lines = command.curate(verb).stdout.splitlines()
        assert [line.split()[0] for line in lines[: len(entries)]] == entries


def test_untrusted_text_cannot_drive_the_terminal():
    hostile = "[red]a[/red]\x1b[2Jb\u202ec\x07d\ne"
    shown = printable(hostile)
    assert (
        shown.plain == "[red]a[/red]\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER}c\N{REPLACEMENT CHARACTER}d e"
    )
    assert shown.spans == []
    assert printable("abcdef", 4).plain == "abc…"
