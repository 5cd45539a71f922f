"""Benches in folders as LLaVA-Bench was published: one JSON object a line for questions, contexts and answers."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from upath import UPath

from curate.datasets.decode import IMAGE_PLACEHOLDER
from curate.datasets.images import image_bytes
from curate.errors import ConfigurationError, DataError, MissingImage, first_line
from curate.evaluation.benches.bench import Bench, Question
from curate.evaluation.rules import RULES, Rule
from curate.fingerprint import files_sha256
from curate.hub import fetch
from curate.storage import location

RULE_FILE, IMAGES_FOLDER = "rule.json", "images"


class _Row(BaseModel):
    """Other people's tools write more fields than are read here."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class QuestionRow(_Row):
    """A line of the questions' file."""

    question_id: int | str
    image: str
    text: str
    category: str


class AnswerRow(_Row):
    """A line of an answer file, published or ours."""

    question_id: int | str
    prompt: str | None = None
    text: str
    answer_id: str | None = None
    model_id: str | None = None
    metadata: dict[str, Any] = {}


@dataclass(frozen=True)
class FolderLayout:
    """How a bench lies in a folder.

    Attributes:
        repo: of the hub; None where there is none to fetch.
        questions, context: names of files; references: those that the reference answers may have.
        category_prefix: what stands before a question's category in rules and reviews.
        context_row: a line of the context's file, which has an `image` and says what is in it by `text`.
        image_names: those that an image's file may have, with `{}` for the name in the questions.
    """

    name: str
    repo: str | None
    questions: str
    context: str
    references: tuple[str, ...]
    category_prefix: str
    context_row: type["ContextRow"]
    image_names: tuple[str, ...] = ("{}",)


class ContextRow(_Row, ABC):
    """A line of a context's file."""

    image: str

    @property
    @abstractmethod
    def text(self) -> str:
        """What is in the image, in words."""


RowType = TypeVar("RowType", bound=BaseModel)


def read_rows(path: Path | UPath, kind: type[RowType]) -> list[RowType]:
    """The lines of a JSONL file.

    Raises:
        DataError: it cannot be read; or a line, which the message names, is not what it should be.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            # Python's own parser, since published files have halves of surrogate pairs, which pydantic's refuses.
            rows.append(kind.model_validate(json.loads(line)))
        except (ValueError, RecursionError) as error:
            if not isinstance(error, ValidationError):
                raise DataError(f"{path}:{number}: no JSON: {first_line(error)}") from error
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise DataError(f"{path}:{number}: {f'{field}: ' if field else ''}{first['msg']}") from error
    return rows


def open_published(layout: FolderLayout, data_dir: str | None, images: str | None) -> Bench:
    """A bench by name, from a local copy or the hub.

    Args:
        images: where they lie apart.

    Raises:
        ConfigurationError: there is no such copy, or it is not whole.
        DataError: a file is damaged, or the hub cannot be reached.
    """
    if data_dir is not None:
        return open_folder(layout, location(data_dir), images)
    if layout.repo is None:
        raise ConfigurationError(f"--data-dir: name a folder with {layout.questions}: {layout.name} is on no hub")
    files = (layout.questions, layout.context, *layout.references, f"{IMAGES_FOLDER}/*")
    folder = fetch(layout.repo, "dataset", files, "name a local copy with --data-dir")
    return open_folder(layout, location(str(folder)), images, in_cache=images is None)


def open_folder(layout: FolderLayout, folder: UPath, images: str | None, in_cache: bool = False) -> Bench:
    """A bench that lies in a folder; its images are looked at only when they are asked for.

    Args:
        in_cache: whether the folder is a snapshot in the hub's cache, whose files are links beside it.

    Raises:
        ConfigurationError: a file is missing, or there is no rule for a category.
        DataError: a file is damaged, or a question is without context or reference.
    """
    if not (folder / layout.questions).is_file():
        raise ConfigurationError(f"{folder} has no {layout.questions}: it is no {layout.name}")
    references = next((folder / name for name in layout.references if (folder / name).is_file()), None)
    if references is None:
        raise ConfigurationError(f"{folder} has no {' or '.join(layout.references)}: the reference answers are missing")
    files = [folder / layout.questions, folder / layout.context, references]
    rules = RULES
    if (folder / RULE_FILE).is_file():
        files.append(folder / RULE_FILE)
        rules = _read_rules(folder / RULE_FILE)
    questions = tuple(_matched(layout, *files[:3]))
    if unruled := sorted({question.category for question in questions} - set(rules)):
        raise ConfigurationError(f"{folder}: there is no rule for the category {unruled[0]}; say one in {RULE_FILE}")
    if in_cache:
        root, place = folder.parent.parent, f"{folder.parent.name}/{folder.name}/{IMAGES_FOLDER}"
    else:
        root, place = location(images) if images is not None else folder / IMAGES_FOLDER, ""
    return Bench(
        name=layout.name,
        questions=questions,
        sha256=files_sha256(folder, files),
        rules=rules,
        image_bytes=partial(_image_bytes, layout.image_names, root, place),
    )


def _matched(layout: FolderLayout, questions: UPath, context: UPath, references: UPath) -> Iterator[Question]:
    """Each question with the context of its image and the reference answer of its id."""
    rows = read_rows(questions, QuestionRow)
    if not rows:
        raise DataError(f"{questions} has no question")
    contexts = {row.image: row.text for row in read_rows(context, layout.context_row)}
    answers = by_question(references, read_rows(references, AnswerRow))
    by_question(questions, rows)
    for row in rows:
        answer = answers.get(row.question_id)
        if row.image not in contexts:
            raise DataError(f"{context} has no context of {row.image}, which question {row.question_id} is about")
        if answer is None:
            raise DataError(f"{references} has no answer to question {row.question_id}")
        yield Question(
            question_id=row.question_id,
            category=f"{layout.category_prefix}{row.category}",
            text=row.text.replace(IMAGE_PLACEHOLDER, "").strip(),
            image=row.image,
            context=contexts[row.image],
            reference=answer.text,
            reference_id=answer.answer_id or str(answer.question_id),
        )


IdentifiedRow = TypeVar("IdentifiedRow", QuestionRow, AnswerRow)


def by_question(path: Path | UPath, rows: list[IdentifiedRow]) -> dict[int | str, IdentifiedRow]:
    """The rows by the ids of their questions.

    Raises:
        DataError: two have the same.
    """
    found: dict[int | str, IdentifiedRow] = {}
    for row in rows:
        if row.question_id in found:
            raise DataError(f"{path} has the question {row.question_id} twice")
        found[row.question_id] = row
    return found


def _read_rules(path: UPath) -> dict[str, Rule]:
    try:
        return TypeAdapter(dict[str, Rule]).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(f"{path} holds no rules for a judge: {first_line(error)}") from error


def _image_bytes(names: tuple[str, ...], root: UPath, place: str, name: str) -> bytes:
    for pattern in names[:-1]:
        try:
            return image_bytes(pattern.format(name), root, (place,))
        except MissingImage:
            continue
    return image_bytes(names[-1].format(name), root, (place,))
