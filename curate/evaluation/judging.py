"""Reviews of a model's answers, each kept as soon as it is there."""

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from curate.errors import RunStopped
from curate.evaluation.benches.bench import Bench, Question
from curate.evaluation.benches.folder import AnswerRow, read_rows
from curate.evaluation.judge import JudgeSpec, Reply, asking
from curate.evaluation.reviews import FAILED, Order, Review, read_pair
from curate.evaluation.rules import prompt
from curate.manifest.journal import append, cut_torn_line, replace

# So many requests that failed for good, one after another, and the judge is taken to be out of order.
_FAILURES_IN_A_ROW = 10
RULES_JUDGE = "rules"

Task = tuple[Question, Order]


def reviewed(
    bench: Bench,
    answers: Mapping[int | str, AnswerRow],
    judge: JudgeSpec,
    path: Path,
    failed_path: Path,
    retry_failed: bool,
    report: Callable[[int, int], None],
) -> list[Review]:
    """A review of each answer in each order; those in the file are not asked for again.

    A thread has its reply on the disk before it asks for the next. So, if the process is killed, at most
    `concurrency` questions, whose replies were on their way, are asked a second time.

    Args:
        path: `reviews.jsonl`, in the fields of LLaVA's `eval_gpt_review_bench.py`.
        failed_path: where failed reviews go once another stands in their place.
        report: of how many of how many reviews there are.

    Raises:
        RunStopped: the judge refuses, or fails time after time.
    """
    cut_torn_line(path)
    kept = _last_ones(read_rows(path, Review)) if path.exists() else {}
    there = {key for key, review in kept.items() if not (retry_failed and review.failed)}
    asked = [question for question in bench.questions if "error" not in answers[question.question_id].metadata]
    tasks: list[Task] = [(question, order) for question in asked for order in judge.orders]
    to_do = [task for task in tasks if (task[0].question_id, task[1]) not in there]
    report(len(tasks) - len(to_do), len(tasks))
    if judge.url is None:
        assert bench.share_right is not None  # only the demo bench is judged by rules
        rows = [_by_rules(task, answers[task[0].question_id], bench.share_right) for task in to_do]
        append(path, rows)
        report(len(tasks), len(tasks))
    elif to_do:
        _ask_all(bench, answers, judge, path, to_do, lambda done: report(len(tasks) - len(to_do) + done, len(tasks)))
    return _without_those_asked_again(path, failed_path)


def _last_ones(reviews: Iterable[Review]) -> dict[tuple[int | str, Order], Review]:
    """The newest review of each question in each order."""
    return {(review.question_id, review.order): review for review in reviews}


def _without_those_asked_again(path: Path, failed_path: Path) -> list[Review]:
    """The reviews that count; failed ones stay among them until others are there, and only then go to their file."""
    reviews = read_rows(path, Review) if path.exists() else []
    last = list(_last_ones(reviews).values())
    if len(last) < len(reviews):
        cut_torn_line(failed_path)
        moved = read_rows(failed_path, Review) if failed_path.exists() else []
        older = [review for review in reviews if review not in last and review not in moved]
        append(failed_path, (review.model_dump(by_alias=True) for review in older))
        replace(path, (review.model_dump(by_alias=True) for review in last))
    return last


def _ask_all(
    bench: Bench,
    answers: Mapping[int | str, AnswerRow],
    judge: JudgeSpec,
    path: Path,
    tasks: list[Task],
    report: Callable[[int], None],
) -> None:
    writing = threading.Lock()

    def review(task: Task) -> Reply:
        question, order = task
        answer = answers[question.question_id]
        shown = question.reference, answer.text
        first, second = shown if order == "reference-first" else shown[::-1]
        reply = ask(prompt(bench.rules[question.category], question.context, question.text, first, second))
        pair = read_pair(reply.content, order)
        with writing:
            append(path, [_row(task, answer, str(judge.model), pair) | reply._asdict()])
        return reply

    failures = 0
    with asking(judge) as ask, ThreadPoolExecutor(judge.concurrency) as pool:
        futures = [pool.submit(review, task) for task in tasks]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                error = future.result().error
                failures = 0 if error is None else failures + 1
                if failures == _FAILURES_IN_A_ROW:
                    raise RunStopped(
                        f"the judge at {judge.url} failed {failures} times in a row, at last with: {error}; once it "
                        "answers, go on with --retry-failed"
                    )
                report(done)
        finally:
            # Replies on their way are waited for, and kept; no more is asked.
            pool.shutdown(cancel_futures=True)


def _by_rules(task: Task, answer: AnswerRow, share_right: Callable[[Question, str], float]) -> dict[str, Any]:
    """The right answer has 10, the candidate as much of it as it is right."""
    return _row(task, answer, RULES_JUDGE, (10.0, 10 * share_right(task[0], answer.text)))


def _row(task: Task, answer: AnswerRow, judge: str, pair: tuple[float, float] = FAILED) -> dict[str, Any]:
    question, order = task
    return {
        "question_id": question.question_id,
        "answer1_id": question.reference_id,
        "answer2_id": answer.answer_id or str(answer.question_id),
        "category": question.category,
        "order": order,
        "review_model": judge,
        "tuple": pair,
    }
