"""Evaluations: answered, judged by a judge with faults, cut off and gone on with."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from curate.errors import ConfigurationError, DataError, RunStopped, Terminated
from curate.evaluation import answers as answering
from curate.evaluation.benches import open_bench
from curate.evaluation.evaluate import EvaluationRecord, evaluate
from curate.evaluation.job import EvaluateJob
from curate.evaluation.plan import plan
from curate.evaluation.rules import SYSTEM
from tests.evaluation.judge import KEY, Judge, judging

CURATE = Path(sys.executable).with_name("curate")


def quiet(_: object) -> None:
    pass


def asked_in(prompt: str) -> str:
    return prompt.partition("[Question]\n")[2].partition("\n\n")[0]


@pytest.fixture(scope="module")
def answers_file(tmp_path_factory) -> Path:
    """Answers to the first questions of the demo bench, as another tool may have written them."""
    file = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    rows = [
        {"question_id": question.question_id, "text": f"Answer {question.question_id}.", "answer_id": f"a{number}"}
        for number, question in enumerate(open_bench("demo").questions[:24])
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("CURATE_JUDGE_KEY", KEY)


def judged(tmp_path, answers_file: Path, judge: Judge, limit: int = 6, **changes) -> EvaluationRecord:
    options = {name: changes.pop(name) for name in ("overwrite", "retry_failed") if name in changes}
    spec = {"url": judge.url, "model": "m", "concurrency": 2, "retries": 1, "timeout": 1, **changes}
    job = EvaluateJob.model_validate(
        {"bench": "demo", "limit": limit, "answers": str(answers_file), "output": str(tmp_path / "out"), "judge": spec}
    )
    return evaluate(plan(job), quiet, **options)


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_judge_is_asked_as_published(tmp_path, answers_file):
    with judging(lambda prompt, times: "8 6\nWhy.") as judge:
        record = judged(tmp_path, answers_file, judge)
    question = open_bench("demo").questions[0]
    body = next(body for body in judge.bodies if "[Assistant 2]\nAnswer 0." in body["messages"][1]["content"])
    assert body["messages"][0] == {"role": "system", "content": SYSTEM}
    first = body["messages"][1]["content"]
    assert first.startswith(f"[Context]\n{question.context}\n\n[Question]\n{question.text}\n\n[Assistant 1]\n")
    assert f"[Assistant 1]\n{question.reference}\n\n[End of Assistant 1]" in first
    assert (body["temperature"], body["max_tokens"], body["model"]) == (0.2, 1024, "m")
    assert record.score == pytest.approx(75)
    assert judge.keys == {f"Bearer {KEY}"}
    review = next(row for row in rows(tmp_path / "out" / "reviews.jsonl") if row["question_id"] == 0)
    assert (review["content"], review["tuple"], review["answer2_id"]) == ("8 6\nWhy.", [8, 6], "a0")


def test_both_orders_are_asked_and_turned_round(tmp_path, answers_file):
    """A judge that likes what it sees first gives the candidate and the reference the same in the mean."""
    with judging(lambda prompt, times: "9 5") as judge:
        record = judged(tmp_path, answers_file, judge, limit=3, order="both")
    assert len(judge.asked) == 6
    assert record.score == pytest.approx(100)
    assert record.summary.pooled.reference == pytest.approx(7)
    with judging(lambda prompt, times: "9 5") as judge:
        last = judged(tmp_path / "last", answers_file, judge, limit=3, order="candidate-first")
    assert last.score == pytest.approx(180)


FAULTS = {
    0: 500,
    1: ("fault", "cut"),
    2: ("fault", "garbage"),
    3: "I cannot judge this.",
    4: "",
    5: ("fault", "hang"),
    6: ("fault", "object"),
    7: ("fault", "nested"),
}


def numbered(prompt: str) -> int:
    match = re.search(r"Answer (\d+)\.", prompt)
    assert match is not None
    return int(match[1])


def test_what_fails_for_good_is_counted_left_out_and_asked_again_only_when_told(tmp_path, answers_file):
    mended = False

    def behave(prompt: str, times: int):
        number = numbered(prompt)
        # Half a surrogate pair at the end, as some servers cut a reply.
        return FAULTS[number] if number in FAULTS and not mended else f"8 {4 if number % 2 else 6}\n\ud83d"

    with judging(behave) as judge:
        record = judged(tmp_path, answers_file, judge, limit=12)
        counts = {numbered(prompt): times for prompt, times in judge.asked.items()}
        # One retry of what may pass; none of a reply, whatever it says.
        assert counts == {n: 2 if n in (0, 1, 5) else 1 for n in range(12)}
        assert (record.summary.n, record.summary.failures) == (4, 8)
        assert record.score == pytest.approx(100 * 5 / 8)
        failed = {
            row["question_id"]: row for row in rows(tmp_path / "out" / "reviews.jsonl") if row["tuple"] == [-1, -1]
        }
        assert set(failed) == set(FAULTS)
        assert failed[3]["content"] == "I cannot judge this."
        assert {n for n, row in failed.items() if row["error"]} == {0, 1, 2, 5, 6, 7}
        assert "no: Bearer …" in failed[0]["error"]
        assert not any(KEY in path.read_text() for path in (tmp_path / "out").iterdir())
        assert judged(tmp_path, answers_file, judge, limit=12) == record
        assert sum(judge.asked.values()) == sum(counts.values())
        mended = True
        record = judged(tmp_path, answers_file, judge, limit=12, retry_failed=True)
        assert (record.summary.n, record.summary.failures) == (12, 0)
        again = {numbered(prompt): times for prompt, times in judge.asked.items()}
        assert {n for n in again if again[n] > counts[n]} == set(FAULTS)
    # Every raw reply is kept, those that were asked for again, too.
    assert {row["question_id"] for row in rows(tmp_path / "out" / "failed-reviews.jsonl")} == set(FAULTS)
    assert Counter(row["question_id"] for row in rows(tmp_path / "out" / "reviews.jsonl")) == Counter(range(12))


def test_a_judge_that_is_down_while_failures_are_tried_again_loses_none_of_them(tmp_path, answers_file):
    behave = {"now": "I cannot say."}

    def reply(prompt: str, times: int):
        return "8 8" if numbered(prompt) >= 12 else behave["now"]

    with judging(reply) as judge:
        assert judged(tmp_path, answers_file, judge, limit=14).summary.failures == 12
        behave["now"] = 500  # type: ignore[assignment]
        with pytest.raises(RunStopped, match="failed 10 times in a row"):
            judged(tmp_path, answers_file, judge, limit=14, retries=0, retry_failed=True)
        assert not (tmp_path / "out" / "evaluation.json").exists()
        there = Counter(row["question_id"] for row in rows(tmp_path / "out" / "reviews.jsonl"))
        assert set(there) == set(range(14))
        asked = sum(judge.asked.values())
        record = judged(tmp_path, answers_file, judge, limit=14)
        assert (record.summary.n, record.summary.failures) == (2, 12)
        assert sum(judge.asked.values()) == asked
        behave["now"] = "8 4"
        record = judged(tmp_path, answers_file, judge, limit=14, retry_failed=True)
        assert (record.summary.n, record.summary.failures) == (14, 0)
    kept = Counter(row["question_id"] for row in rows(tmp_path / "out" / "failed-reviews.jsonl"))
    assert set(kept) == set(range(12))
    assert sum(kept.values()) == asked - 2


def test_what_passes_is_tried_again(tmp_path, answers_file):
    with judging(lambda prompt, times: (429, 500, "8 8")[min(times, 3) - 1]) as judge:
        record = judged(tmp_path, answers_file, judge, limit=3, retries=2)
    assert set(judge.asked.values()) == {3}
    assert (record.summary.failures, record.score) == (0, 100)


def test_a_judge_that_is_down_ends_the_evaluation(tmp_path, answers_file):
    with judging(lambda prompt, times: 500) as judge:
        with pytest.raises(RunStopped, match=r"failed 10 times in a row.*--retry-failed"):
            judged(tmp_path, answers_file, judge, limit=24, retries=1)
        assert sum(judge.asked.values()) <= 2 * (10 + 2 * 2)


@pytest.mark.parametrize(("status", "message"), [(401, "refuses the key"), (404, "no such model"), (302, "elsewhere")])
def test_a_judge_that_refuses_ends_the_evaluation_without_the_key(tmp_path, answers_file, status, message):
    with judging(lambda prompt, times: status) as judge:
        with pytest.raises(RunStopped, match=message) as stopped:
            judged(tmp_path, answers_file, judge, concurrency=1)
        # Nothing was sent on, and nothing was asked after the refusal but what was on its way.
        assert sum(judge.asked.values()) <= 2
    assert KEY not in str(stopped.value)
    assert stopped.value.__cause__ is None
    assert not rows(tmp_path / "out" / "reviews.jsonl") if (tmp_path / "out" / "reviews.jsonl").exists() else True


def test_no_scores_at_all_are_no_evaluation(tmp_path, answers_file):
    with judging(lambda prompt, times: "Neither.") as judge:
        with pytest.raises(RunStopped, match="no question has scores: 6 failed"):
            judged(tmp_path, answers_file, judge)
        assert not (tmp_path / "out" / "evaluation.json").exists()


def test_other_settings_in_the_same_folder_are_refused_by_name(tmp_path, answers_file):
    with judging(lambda prompt, times: "8 8") as judge:
        judged(tmp_path, answers_file, judge)
        with pytest.raises(ConfigurationError, match="another order reference-first ≠ both; choose another folder"):
            judged(tmp_path, answers_file, judge, order="both")
        assert judged(tmp_path, answers_file, judge, order="both", overwrite=True).judge.order == "both"
        (tmp_path / "out" / "mine.txt").write_text("x")
        with pytest.raises(ConfigurationError, match=r"holds mine\.txt"):
            judged(tmp_path, answers_file, judge, overwrite=True)
    assert (tmp_path / "out" / "mine.txt").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bench": "llava-bench-coco", "model": {"name": "demo"}}, "only the demo bench is judged by rules"),
        ({"judge": {"url": "http://a", "model": None}}, "go together"),
        ({"judge": {"url": "ftp://a", "model": "m"}}, "http://HOST"),
        ({"judge": {"url": f"http://{KEY}@a/v1", "model": "m"}}, "credentials do not belong"),
        ({"judge": {"url": f"http://a/v1?key={KEY}", "model": "m"}}, "credentials and options"),
        ({"model": {"name": "demo"}, "answers": "a"}, "one candidate"),
        ({"output": "s3://bucket/out"}, "is written on this machine"),
    ],
)
def test_what_cannot_work_is_no_job(changes, message):
    with pytest.raises(ValueError, match=message):
        EvaluateJob.model_validate({"output": "out", **changes})


def test_a_missing_key_and_missing_answers_stop_before_any_work(tmp_path, answers_file, monkeypatch):
    with judging(lambda prompt, times: "8 8") as judge:
        short = tmp_path / "short.jsonl"
        short.write_text(answers_file.read_text().partition("\n")[0] + "\n")
        with pytest.raises(DataError, match="5 of 6 questions are not answered, the first: 1"):
            judged(tmp_path, short, judge)
        monkeypatch.delenv("CURATE_JUDGE_KEY")
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(ConfigurationError, match="CURATE_JUDGE_KEY or OPENAI_API_KEY"):
            judged(tmp_path, answers_file, judge)
        monkeypatch.setenv("CURATE_JUDGE_KEY", "sk-ü-secret")
        with pytest.raises(ConfigurationError, match="CURATE_JUDGE_KEY holds what no HTTP header can") as refused:
            judged(tmp_path, answers_file, judge)
        assert "secret" not in str(refused.value)
        monkeypatch.setitem(sys.modules, "openai", None)
        with pytest.raises(ConfigurationError, match=r"pip install 'curate\[judge\]'"):
            judged(tmp_path, answers_file, judge)
        assert not judge.asked
    assert not (tmp_path / "out").exists()


def command(tmp_path: Path, answers_file: Path, url: str, *more: str) -> tuple[list[str], dict[str, str]]:
    options = ["--limit", "20", "--answers", str(answers_file), "--output", str(tmp_path / "out")]
    options += ["--judge-url", url, "--judge-model", "m", "--judge-concurrency", "2", "--judge-retries", "0", *more]
    environment = {**os.environ, "CURATE_JUDGE_KEY": KEY, "OPENAI_LOG": "debug"}
    return [str(CURATE), "--debug", "evaluate", *options], environment


@pytest.mark.slow
def test_a_killed_evaluation_asks_nothing_twice_and_keeps_no_key(tmp_path, answers_file):
    """Killed in the middle of judging: only what was on its way then is asked again. A fault says the key, too."""
    enough = threading.Event()

    def behave(prompt: str, times: int):
        if len(judge.asked) >= 8:
            enough.set()
            judge.stop.wait(0.3)
        if numbered(prompt) == 3:
            return 400
        return f"8 6\n{KEY}" if numbered(prompt) == 4 else "8 6"

    outputs = []
    with judging(behave) as judge:
        arguments, environment = command(tmp_path, answers_file, judge.url)
        process = subprocess.Popen(
            arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert enough.wait(600)
        process.send_signal(signal.SIGKILL)
        outputs += process.communicate()
        assert process.returncode == -signal.SIGKILL
        reviews = tmp_path / "out" / "reviews.jsonl"
        there = {row["question_id"] for row in rows(reviews)}
        assert 0 < len(there) < 20
        # As if it had been killed while it wrote.
        with reviews.open("a") as file:
            file.write('{"question_id": 19, "tup')
        before = Counter({numbered(prompt): times for prompt, times in judge.asked.items()})
        result = subprocess.run(arguments, env=environment, capture_output=True, text=True)
        outputs += [result.stdout, result.stderr]
        assert result.returncode == 0, result.stderr
        asked = Counter({numbered(prompt): times for prompt, times in judge.asked.items()})
    assert set(asked) == set(range(20))
    twice = {number for number, times in asked.items() if times > 1}
    assert twice == set(before) - there
    assert len(twice) <= 2
    assert max(asked.values()) <= 2
    assert sorted(row["question_id"] for row in rows(reviews)) == list(range(20))
    record = EvaluationRecord.model_validate_json((tmp_path / "out" / "evaluation.json").read_text())
    assert (record.summary.n, record.summary.failures) == (19, 1)
    assert record.score == pytest.approx(75)
    kept = [path.read_text() for path in (tmp_path / "out").iterdir()]
    assert len(kept) >= 3
    assert not any(KEY in text for text in [*outputs, *kept])
    assert any("no: Bearer …" in (row["error"] or "") for row in rows(reviews))


def test_ctrl_c_says_how_to_go_on_and_keeps_what_is_there(tmp_path, answers_file, monkeypatch):
    with judging(lambda prompt, times: "8 8") as judge:

        def stopping(at) -> None:
            if at.done == 3:
                raise Terminated

        spec = {"url": judge.url, "model": "m", "concurrency": 1, "retries": 0}
        job = EvaluateJob.model_validate(
            {"limit": 12, "answers": str(answers_file), "output": str(tmp_path / "out"), "judge": spec}
        )
        with pytest.raises(Terminated, match="the same command, without --overwrite, goes on"):
            evaluate(plan(job), stopping)
        evaluate(plan(job), quiet)
    assert set(judge.asked.values()) == {1}


DEMO = {"limit": 10, "batch_size": 4}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A whole evaluation of the demo model by rules."""
    output = tmp_path_factory.mktemp("whole") / "out"
    evaluate(plan(EvaluateJob.model_validate({**DEMO, "output": str(output)})), quiet)
    return output


def test_the_demo_is_answered_and_judged_by_rules(whole):
    record = EvaluationRecord.model_validate_json((whole / "evaluation.json").read_text())
    assert (record.judge.name, record.questions, record.unanswered, record.candidate) == ("rules", 10, 0, "demo")
    assert record.score > 80
    answered = rows(whole / "answers.jsonl")
    assert list(answered[0]) == ["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]
    bench = open_bench("demo", limit=10)
    assert bench.share_right is not None
    expected = [
        10 * bench.share_right(question, row["text"]) for question, row in zip(bench.questions, answered, strict=True)
    ]
    assert [row["tuple"] for row in rows(whole / "reviews.jsonl")] == [[10, score] for score in expected]
    assert record.score == pytest.approx(10 * sum(expected) / len(expected))


def test_an_answer_has_the_room_that_it_would_have_alone_and_says_where_it_was_cut(whole, monkeypatch):
    lengths = {"long": 19, "middle": 12, "short": 2}
    spoken = {"long": 9, "middle": 8, "short": 4}

    class Model:
        def generate(self, batch, max_new_tokens):
            assert max_new_tokens == 10
            return [torch.arange(spoken[name]) for name in lengths]

    class Builder:
        def build_prompt(self, image, question):
            return SimpleNamespace(input_ids=torch.arange(lengths[question]))

        def decode(self, ids):
            return str(len(ids))

    questions = [SimpleNamespace(question_id=number, text=name) for number, name in enumerate(lengths)]
    info = SimpleNamespace(context=20, sha256="s", name="m")
    made: Any = SimpleNamespace(model=info, max_new_tokens=10)
    stubs: Any = (questions, SimpleNamespace(image=lambda question: None), made, Builder(), Model())
    answers = answering._answer(*stubs)
    assert [row["text"] for row in answers] == ["1", "8", "4"]
    assert [row["metadata"] for row in answers] == [{"cut_at": 1}, {"cut_at": 8}, {}]


def test_answers_that_were_cut_are_counted(tmp_path):
    job = {**DEMO, "output": str(tmp_path / "out"), "max_new_tokens": 1}
    record = evaluate(plan(EvaluateJob.model_validate(job)), quiet)
    assert record.cut == sum("cut_at" in row["metadata"] for row in rows(tmp_path / "out" / "answers.jsonl")) == 10


@pytest.mark.parametrize("kept", [0.5, 0.85])
def test_answers_are_the_same_wherever_they_were_cut_off(tmp_path, whole, kept):
    output = tmp_path / "out"
    output.mkdir()
    inputs = json.loads((whole / "inputs.json").read_text())
    (output / "inputs.json").write_text(json.dumps(inputs))
    data = (whole / "answers.jsonl").read_bytes()
    (output / "answers.jsonl").write_bytes(data[: int(kept * len(data))])
    evaluate(plan(EvaluateJob.model_validate({**DEMO, "output": str(output)})), quiet)
    assert (output / "answers.jsonl").read_bytes() == data
    assert (output / "reviews.jsonl").read_bytes() == (whole / "reviews.jsonl").read_bytes()


def test_what_is_done_loads_no_model(whole, monkeypatch):
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(answering, "_answer", never)
    (whole / "evaluation.json").unlink()
    evaluate(plan(EvaluateJob.model_validate({**DEMO, "output": str(whole)})), quiet)


def test_a_question_that_does_not_fit_is_left_out_with_its_reason(tmp_path, real_data):
    """The toy model has room for a part of the photographs alone; its judge sees only what was answered."""
    job = EvaluateJob.model_validate(
        {
            "bench": str(real_data / "llava_bench_photos"),
            "images": str(real_data / "photos"),
            "limit": 12,
            "model": {"name": "demo"},
            "max_new_tokens": 3,
            "output": str(tmp_path / "out"),
        }
        | {"judge": {"url": "http://127.0.0.1:9/v1", "model": "m"}}
    )
    the_plan = plan(job)
    info = the_plan.candidate.model  # type: ignore[union-attr]
    lengths = []
    builder = info.family.load_builder(info)
    for question in the_plan.bench.questions:
        lengths.append(len(builder.build_prompt(the_plan.bench.image(question), question.text).input_ids))
    small = sorted(lengths)[6]
    from dataclasses import replace

    candidate = replace(the_plan.candidate, model=replace(info, context=small))  # type: ignore[type-var]
    with judging(lambda prompt, times: "8 8") as judge:
        changed = job.model_copy(update={"judge": job.judge.model_copy(update={"url": judge.url})})
        record = evaluate(replace(the_plan, job=changed, candidate=candidate), quiet)
        assert sum(judge.asked.values()) == record.summary.n
    fits = sum(length < small for length in lengths)
    assert (record.questions, record.unanswered, record.summary.n) == (12, 12 - fits, fits)
    reasons = [row["metadata"].get("error", "") for row in rows(tmp_path / "out" / "answers.jsonl")]
    assert sum(reason.startswith("TooLong: ") for reason in reasons) == 12 - fits


def test_a_pipeline_goes_on_to_the_evaluation(tmp_path):
    from curate.jobs.pipeline import PipelineJob

    stage = {"kind": "evaluate", "model": {"name": "${tuned}/model"}, "output": "e"}
    tuned = {"kind": "score", "output": "t"}  # anything that has an output
    job = PipelineJob.model_validate({"stages": {"judged": stage, "tuned": tuned}})
    assert job.order() == ["tuned", "judged"]
    assert job.absolute().resolved("judged").model.name == f"{Path.cwd()}/t/model"  # type: ignore[union-attr]
