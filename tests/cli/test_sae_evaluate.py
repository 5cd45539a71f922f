"""`curate sae evaluate` in this process: its literal forms, what it prints, and what it refuses."""

import re

import pytest
import yaml
from typer.testing import CliRunner

from curate.cli.main import app
from curate.cli.sae_evaluate import _repeated
from curate.harvest.evaluate import Evaluation
from curate.harvest.evaluate_job import SAEEvaluateJob
from tests.harvest.test_evaluate import write_sae

LIMIT = ("--limit", 2)


def curate(*arguments: object, columns: int = 110):
    environment = {"COLUMNS": str(columns), "HF_HUB_OFFLINE": "1"}
    return CliRunner().invoke(app, ["sae", "evaluate", *map(str, arguments)], env=environment)


def printed_job(*arguments: object) -> SAEEvaluateJob:
    result = curate(*arguments, "--print-job")
    assert result.exit_code == 0, result.output
    return SAEEvaluateJob.model_validate(yaml.safe_load(result.stdout))


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        ("A --on M N --limit 3", "A --on M --on N --limit 3"),
        ("--on M N O", "--on M --on N --on O"),
        ("--on=M N --json", "--on=M --on N --json"),
        ("A B --on M --on N", "A B --on M --on N"),
        ("A --limit 3 B --on M", "A --limit 3 B --on M"),
        ("", ""),
    ],
)
def test_several_models_may_follow_one_option(given, parsed):
    assert list(_repeated(given.split())) == parsed.split()


def test_the_literal_forms_mean_what_they_say(tmp_path):
    one = printed_job("SAE", "--on", "M", "--dataset", "D")
    assert (one.saes, [model.name for model in one.models], one.dataset.name) == (("SAE",), ["M"], "D")
    assert (one.compare, one.dataset.limit) == (False, 200)
    several = printed_job("--compare", "A", "B", "--on", "M", "N", "--dataset", "D", "--dtype", "float32")
    assert (several.saes, [model.name for model in several.models]) == (("A", "B"), ["M", "N"])
    assert several.compare
    assert {model.dtype for model in several.models} == {"float32"}
    # Without --compare an option takes one value, and what follows is an SAE.
    assert printed_job("--on", "M", "A").saes == ("A",)
    assert printed_job() == SAEEvaluateJob()
    data = printed_job("--columns", "text=content", "--dataset", "d.parquet", "--sample", 9, "--seed", 4).dataset
    assert (data.columns, data.sample, data.limit, data.seed) == ({"text": "content"}, 9, None, 4)


def test_the_demo_is_judged_where_nothing_is_named():
    result = curate(*LIMIT)
    assert result.exit_code == 0, result.output
    assert "demo on demo, layer 2" in result.stdout
    for row in ("tokens", "L0", "MSE", "explained variance", "cosine", "dead features", "loss recovered"):
        assert re.search(rf"^{row} +\S+ +\S+ +\S+ *$", result.stdout, re.M), row
    assert "are active on both modalities" in result.stdout
    assert "judging on 2 rows of demo" in result.stderr
    assert "2/2" in result.stderr
    assert "note" not in result.stderr


def test_json_is_the_evaluation_alone():
    result = curate(*LIMIT, "--no-loss", "--json")
    evaluation = Evaluation.model_validate_json(result.stdout)
    assert evaluation.judgements[0].losses is None
    assert evaluation.rows == 2


def test_a_comparison_is_a_row_for_each_and_a_picture(tmp_path):
    seeds = [write_sae(tmp_path / f"s{n}", 96, seed=n, training={"seed": n}, model_name="demo") for n in range(2)]
    plot = tmp_path / "picture.svg"
    result = curate("--compare", "demo", *seeds, "--on", "demo", *LIMIT, "--no-loss", "--plot", plot, columns=80)
    assert result.exit_code == 0, result.output
    assert "± standard error over seeds" in result.stdout
    (demo_row,) = re.findall(r"^demo +demo +.*$", result.stdout, re.M)
    ((seeds_row, errors),) = re.findall(r"^(s \(2 seeds\) +demo +.*)\n(.*)$", result.stdout, re.M)
    assert len(demo_row.split()) == 2 + 4
    assert len(seeds_row.split()) == 4 + 4
    assert errors.count("±") == len(errors.split()) == 4
    assert "loss" not in result.stdout
    assert plot.read_text().startswith("<svg")
    assert f"picture: {plot}" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-such-sae",), "--on: name the model"),
        (("no-such-sae", "--on", "demo"), "RELEASE:SAE_ID"),
        (("demo", "--on", "no/such/model"), "no such folder"),
        (("--plot", "p.pdf"), r"\.svg or a \.png"),
        (("--limit", 0), "--limit: "),
        (("--columns", "text"), "--columns: text is not of the form"),
        (("--dataset", "nowhere"), "neither a known data set"),
    ],
)
def test_what_cannot_work_is_one_line(arguments, message):
    result = curate(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert re.search(message, result.stderr), result.stderr
    assert result.stdout == ""


def test_an_interruption_is_one_word(monkeypatch):
    from curate.harvest import evaluate

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "_splice", interrupted)
    result = curate(*LIMIT)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "interrupted"
