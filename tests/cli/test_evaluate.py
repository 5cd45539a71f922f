"""`curate evaluate` in this process: its options, configuration, what it prints, and what it refuses."""

import json
import re

import pytest
import yaml
from typer.testing import CliRunner

from curate.cli.main import app, configured
from curate.errors import ConfigurationError
from curate.evaluation.evaluate import EvaluationRecord
from curate.evaluation.job import EvaluateJob
from tests.evaluation.judge import KEY, judging

LIMIT = ("--limit", 6, "--max-new-tokens", 40)


def curate(*arguments: object, **environment: str):
    environment = {"COLUMNS": "110", "HF_HUB_OFFLINE": "1", **environment}
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], env=environment)


def printed_job(*arguments: object, **environment: str) -> EvaluateJob:
    result = curate(*arguments, "--print-job", **environment)
    assert result.exit_code == 0, result.output
    return EvaluateJob.model_validate(yaml.safe_load(result.stdout))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_options_make_the_job():
    job = printed_job()
    assert (job.bench, job.model and job.model.name, job.output) == ("demo", "demo", "runs/evaluation-demo-demo")
    judge = ("--judge-url", "http://j/v1", "--judge-model", "g", "--order", "both", "--judge-retries", 2)
    job = printed_job("--bench", "some/bench", "--model", "org/m", "--images", "i", *judge, CURATE_JUDGE_KEY=KEY)
    assert (job.output, job.images, job.judge.order, job.judge.retries) == ("runs/evaluation-bench-m", "i", "both", 2)
    assert KEY not in job.model_dump_json()
    assert printed_job("--answers", "a.jsonl").model is None
    names = ("org/llava-v1.6-mistral-7b-hf", "org/llava-v1.6-vicuna-7b-hf", "runs/tuned/model")
    outputs = [printed_job("--bench", "b", "--model", name, *judge, CURATE_JUDGE_KEY=KEY).output for name in names]
    called = ("llava-v1.6-mistral-7b-hf", "llava-v1.6-vicuna-7b-hf", "tuned-model")
    assert outputs == [f"runs/evaluation-b-{name}" for name in called]


def test_the_environment_and_configuration_files_name_options_and_the_verb_below(tmp_path):
    assert printed_job(CURATE_EVALUATE_MODEL="org/m").model.name == "org/m"  # type: ignore[union-attr]
    (tmp_path / "curate.toml").write_text('[evaluate]\nmodel = "org/n"\nlimit = 3\n[evaluate.summarize]\njson = true\n')
    job = printed_job()
    assert (job.model and job.model.name, job.limit) == ("org/n", 3)
    (tmp_path / "r.jsonl").write_text('{"question_id": 1, "category": "c", "tuple": [8, 6]}\n')
    assert json.loads(curate("summarize", "r.jsonl").stdout)["r.jsonl"]["pooled"]["relative"] == 75


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[evaluate]\nmodle = 'm'\n", r"\[evaluate\] has no option modle; there are: bench, "),
        ("[evaluate.summary]\njson = true\n", r"\[evaluate\] has no option summary"),
        ("[evaluate.summarize]\njsn = true\n", r"\[evaluate\.summarize\] has no option jsn"),
        ("[evaluate]\nsummarize = true\n", r"\[evaluate\.summarize\] is not a verb"),
        ("[sae]\nmodel = 'm'\n", r"\[sae\.model\] is not a verb"),
        ("evaluate = 1\n", r"\[evaluate\] is not a verb"),
    ],
)
def test_configuration_that_names_nothing_is_refused(tmp_path, text, message):
    import typer

    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        configured(typer.main.get_command(app), [file])


def test_the_demo_is_evaluated_where_nothing_is_named():
    result = curate(*LIMIT)
    assert result.exit_code == 0, result.output
    assert "demo on demo, judged by rules, reference-first" in result.stdout
    for row in ("colour", "describe", "pooled", "macro mean"):
        # One question of a kind has no interval.
        interval = r"[\d.]+ to [\d.]+" if row == "pooled" else "-"
        assert re.search(rf"^{row} .* [\d.]+ +{interval} *$", result.stdout, re.M), row
    assert "0 of 6 failed to be judged" in result.stdout
    assert "questions answered: 6/6" in result.stderr
    assert "answers judged: 6/6" in result.stderr
    again = curate(*LIMIT, "--json")
    record = EvaluationRecord.model_validate_json(again.stdout)
    assert record.score == record.summary.pooled.relative
    assert "questions answered" not in again.stderr
    assert curate("summarize", "runs/evaluation-demo-demo/reviews.jsonl").stdout.count("\n") >= 9


def test_a_job_file_is_run_as_the_command_it_was_written_by(tmp_path):
    (tmp_path / "job.yaml").write_text(curate("--limit", 2, "--print-job").stdout)
    result = CliRunner().invoke(app, ["run", "job.yaml"])
    assert result.exit_code == 0, result.output
    assert "demo on demo, judged by rules" in result.stdout
    assert (tmp_path / "runs" / "evaluation-demo-demo" / "evaluation.json").exists()


def test_a_dry_run_looks_and_does_nothing(tmp_path):
    result = curate(*LIMIT, "--order", "both", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "would judge answers of demo to 6 questions of demo by rules, in 12 reviews" in result.stdout
    result = curate(*LIMIT, "--judge-url", "http://j/v1", "--judge-model", "m", "--dry-run")
    assert result.exit_code == 1
    assert "CURATE_JUDGE_KEY" in result.stdout
    assert not list(tmp_path.iterdir())


def test_published_numbers_are_printed_as_the_script_does(tmp_path):
    rows = [("llava_bench_conv", [8, 6]), ("llava_bench_conv", [-1, -1]), ("llava_bench_detail", [8, 9])]
    lines = [json.dumps({"question_id": n, "category": c, "tuple": t}) for n, (c, t) in enumerate(rows)]
    (tmp_path / "r.jsonl").write_text("\n".join(lines))
    result = curate("summarize", "r.jsonl", "--published")
    assert result.stdout.splitlines()[1:] == [
        "all 93.3 50.0 46.7",
        "llava_bench_conv 71.4 35.0 25.0",
        "llava_bench_detail 112.5 80.0 90.0",
    ]
    titled = "r.jsonl, judged by a judge that the file does not name, reference-first"
    assert curate("summarize", "r.jsonl").stdout.startswith(titled)
    robust = json.loads(curate("summarize", "r.jsonl", "--json").stdout)["r.jsonl"]
    assert (robust["failures"], robust["pooled"]["relative"]) == (1, 93.75)
    assert (robust["judges"], robust["orders"]) == ([], ["reference-first"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bench", "llava-bench-coco"), "--model: name the model"),
        (("--bench", "b", "--model", "m"), "--judge-url: name who judges"),
        (("--judge-url", "http://j"), "--judge-url and --judge-model go together"),
        (("--judge-url", "http://j", "--judge-model", "m"), "set the judge's key in the environment"),
        (("--limit", 0), "--limit: "),
        (("--answers", "a", "--model", "m"), "there is one candidate"),
        (("--judge-url", f"http://{KEY}@j", "--judge-model", "m"), "credentials do not belong in a URL"),
    ],
)
def test_what_cannot_work_is_one_line(tmp_path, arguments, message):
    result = curate(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert KEY not in result.output
    assert not list(tmp_path.iterdir())


def test_review_files_that_are_none_are_one_line(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"question_id": 1}\n')
    for arguments, message in (("r.jsonl", r"r\.jsonl:1: tuple"), ("none.jsonl", "none.jsonl cannot be read")):
        result = curate("summarize", arguments)
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        assert re.search(message, result.stderr)


def test_failed_questions_are_asked_again_by_an_option():
    with judging(lambda prompt, times: "no" if times == 1 and "[Question]\nHow many" in prompt else "8 6") as judge:
        options = (*LIMIT, "--judge-url", judge.url, "--judge-model", "m", "--json")
        first = json.loads(curate(*options, CURATE_JUDGE_KEY=KEY).stdout)
        assert first["summary"]["failures"] == 1
        second = json.loads(curate(*options, "--retry-failed", OPENAI_API_KEY=KEY).stdout)
        assert second["summary"]["failures"] == 0
    assert sum(judge.asked.values()) == 7
