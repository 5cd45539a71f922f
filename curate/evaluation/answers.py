"""A model's answers to a bench's questions, batch by batch, each kept as soon as it is there."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from curate.errors import DataError, RunStopped, SampleError, TooLong
from curate.evaluation.benches.bench import Bench, Question
from curate.evaluation.benches.folder import AnswerRow, read_rows
from curate.evaluation.plan import Generation
from curate.fingerprint import text_sha256
from curate.manifest.journal import append, cut_torn_line, replace
from curate.models.family import InputBuilder, ModelInfo, WholeModel
from curate.models.inputs import ModelInputs
from curate.scoring.memory import is_out_of_memory

CUT = "cut_at"


def answered(
    bench: Bench, generation: Generation, path: Path, report: Callable[[int], None]
) -> dict[int | str, AnswerRow]:
    """The answers by question id; those in the file are not made again.

    A batch is always the same questions, and only whole batches are kept, so the answers do not depend on where a
    generation was cut off. A question that does not fit the model has an empty answer, with the reason as `error`
    among its `metadata`; an answer that came to no end has there, as `cut_at`, after how many tokens it was cut.

    Args:
        path: `answers.jsonl`, in the fields of LLaVA's `llava/eval/model_vqa.py`.
        report: of how many questions are answered.

    Raises:
        DataError: the file holds other questions.
        RunStopped: out of memory.
    """
    questions, size = bench.questions, generation.batch_size
    kept = _kept(path, questions, size)
    report(len(kept))
    if len(kept) < len(questions):
        info = generation.model
        builder = info.family.load_builder(info)
        model = info.family.load_whole(info, generation.dtype, generation.device)
        for start in range(len(kept), len(questions), size):
            try:
                rows = _answer(questions[start : start + size], bench, generation, builder, model)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise RunStopped(
                    "out of memory: begin anew with --overwrite and a lower --batch-size or --max-new-tokens"
                ) from error
            append(path, rows)
            kept += [AnswerRow.model_validate(row) for row in rows]
            report(len(kept))
    return {row.question_id: row for row in kept}


def _kept(path: Path, questions: Sequence[Question], size: int) -> list[AnswerRow]:
    cut_torn_line(path)
    rows = read_rows(path, AnswerRow) if path.exists() else []
    if [row.question_id for row in rows] != [question.question_id for question in questions[: len(rows)]]:
        raise DataError(f"{path} holds answers to other questions; --overwrite begins anew")
    if len(rows) == len(questions) or len(rows) % size == 0:
        return rows
    whole = rows[: len(rows) // size * size]
    replace(path, [row.model_dump() for row in whole])
    return whole


def _answer(
    batch: Sequence[Question], bench: Bench, generation: Generation, builder: InputBuilder, model: WholeModel
) -> list[dict[str, Any]]:
    inputs: dict[int | str, ModelInputs] = {}
    errors: dict[int | str, str] = {}
    context = generation.model.context
    for question in batch:
        try:
            built = builder.build_prompt(bench.image(question), question.text)
            if len(built.input_ids) == context:
                raise TooLong(f"{context:,} tokens, which leave no room for an answer in the model's context")
            inputs[question.question_id] = built
        except SampleError as error:
            errors[question.question_id] = f"{type(error).__name__}: {error}"
    said: dict[int | str, str] = {}
    metadata: dict[int | str, dict[str, Any]] = {number: {"error": error} for number, error in errors.items()}
    if inputs:
        # Each has the room that it would have alone, whatever stands beside it.
        rooms = [min(generation.max_new_tokens, context - len(built.input_ids)) for built in inputs.values()]
        answers = model.generate(list(inputs.values()), max(rooms))
        for number, room, ids in zip(inputs, rooms, answers, strict=True):
            said[number] = builder.decode(ids[:room])
            metadata[number] = {CUT: room} if len(ids) >= room else {}
    return [_row(question, generation.model, said, metadata[question.question_id]) for question in batch]


def _row(question: Question, model: ModelInfo, said: dict[int | str, str], metadata: dict[str, Any]) -> dict[str, Any]:
    text = said.get(question.question_id, "")
    return {
        "question_id": question.question_id,
        "prompt": question.text,
        "text": text,
        "answer_id": text_sha256(f"{model.sha256} {question.question_id} {text}")[:22],
        "model_id": model.name,
        "metadata": metadata,
    }
