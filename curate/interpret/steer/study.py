"""`curate steer`: what the model says with hidden states edited along features' directions, and along random ones."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache, partial
from itertools import accumulate, product
from pathlib import Path
from typing import Any, TypeVar

from curate import __version__
from curate.errors import DataError, NonFinite, RunStopped, SampleError
from curate.evaluation.benches.folder import read_rows
from curate.interpret.intervals import wilson
from curate.interpret.scales import with_scales
from curate.interpret.steer.concept import named, naming_tokens
from curate.interpret.steer.effects import effects, finding
from curate.interpret.steer.job import ANSWERS, OURS, RECORD, UNEDITED, WHAT
from curate.interpret.steer.plan import SteerPlan
from curate.interpret.steer.record import Answer, SteerRecord, Unedited, Unit
from curate.interpret.steer.speaker import Speaker, enough_memory, fired, load_speaker, measured
from curate.interpret.study import LeftOut, Report, study_folder
from curate.manifest.atomic import write_text
from curate.manifest.journal import append, cut_torn_line, replace
from curate.models.inputs import ModelInputs
from curate.storage import location

Row = TypeVar("Row", Unedited, Answer)
# Answers are made in parts that are kept whole or not at all: of each, its number of rows, and what makes them.
Part = tuple[int, Callable[[], list[Row]]]


def steer(plan: SteerPlan, report: Report, overwrite: bool = False) -> SteerRecord:
    """Answer about every image without an edit, then with each strength along each direction; compare the answers.

    The prompts' activations, of which the unit of strength is the mean, are read as the unedited answers are made.
    Batches are always of the same images, so that a strength of 0 changes no bit of an answer, and a study that was
    cut off ends as one that was not.

    Raises:
        ConfigurationError: the folder holds another study, or a feature is active on no prompt.
        DataError: no image could be asked about, or the folder's files are damaged.
        RunStopped: out of memory, or the model was pushed too far.
        KeyboardInterrupt: the same command goes on.
    """
    job, pair, decides = plan.job, plan.pair, plan.decides()
    with study_folder(job, decides, OURS, overwrite, WHAT) as folder, enough_memory():
        plan = plan._replace(subject=with_scales(plan.subject, plan.images))
        load = cache(lambda: load_speaker(plan.subject, job.edit))
        batches = [plan.places[at : at + job.batch_size] for at in range(0, len(plan.places), job.batch_size)]
        n, n_edits = len(plan.places), len(job.edit.steps) * (1 + job.random_directions)
        parts = [(len(batch), lambda batch=batch: _unedited(plan, load(), batch)) for batch in batches]
        rows = _made(folder / UNEDITED, Unedited, parts, lambda done: report(done, n * (1 + n_edits)))
        asked = [row for row in rows if row.error is None]
        if not asked:
            raise DataError(f"no image could be asked about; the first, {rows[0].image}: {rows[0].reason}")
        units = measured(job.edit, [row.fired for row in asked])
        by_place = dict(zip(plan.places, rows, strict=True))
        edits = list(_edits(plan, load, batches, by_place, units))
        total = n + len(asked) * n_edits
        answers = _made(folder / ANSWERS, Answer, edits, lambda done: report(n + done, total))
        words = job.words
        found = effects(asked, answers, words)
        record = SteerRecord(
            version=__version__,
            job=job.model_dump(mode="json"),
            model_sha256=pair.model.sha256,
            sae_sha256=pair.sae.sha256,
            images_sha256=decides["images"],
            hook_layer=pair.hook_layer,
            device=decides["device"],
            dtype=decides["dtype"],
            concept=list(words),
            images=len(asked),
            left_out=[
                LeftOut(id=row.image, error=row.error, reason=row.reason) for row in rows if row.error is not None
            ],
            units=units,
            named=wilson(sum(bool(named(row.text, words)) for row in asked), len(asked)),
            notes=list(plan.subject.notes),
            effects=found,
            findings=[finding(job, effect) for effect in found],
        )
        write_text(location(str(folder / RECORD)), record.model_dump_json(indent=2) + "\n")
        return record


def _made(path: Path, kind: type[Row], parts: Sequence[Part[Row]], report: Callable[[int], None]) -> list[Row]:
    """The rows of all parts in their order; parts that are in the file as a whole are not made again."""
    cut_torn_line(path)
    rows = read_rows(path, kind) if path.exists() else []
    ends = list(accumulate(size for size, _ in parts))
    n_kept = bisect_right(ends, len(rows))
    whole = ends[n_kept - 1] if n_kept else 0
    if len(rows) > whole:
        rows = rows[:whole]
        replace(path, (row.model_dump() for row in rows))
    report(len(rows))
    for _, make in parts[n_kept:]:
        made = make()
        append(path, [row.model_dump() for row in made])
        rows += made
        report(len(rows))
    return rows


def _unedited(plan: SteerPlan, speaker: Speaker, batch: Sequence[int]) -> list[Unedited]:
    """Ask about some images; those that cannot be asked about have their error in their place."""
    job, images = plan.job, plan.images
    prompts: dict[int, ModelInputs] = {}
    found: dict[int, dict[str, Any]] = {}
    for place in batch:
        try:
            prompts[place] = speaker.prompt(images.decode(place), job.question)
        except SampleError as error:
            found[place] = _error(error)
    inputs = list(prompts.values())
    observed = speaker.observed(inputs, job.max_new_tokens) if inputs else []
    likelihoods = speaker.likelihoods(inputs, [said.ids.tolist() for said, _ in observed], None) if inputs else []
    for place, (said, z), likelihood in zip(prompts, observed, likelihoods, strict=True):
        if bool(z.isfinite().all()) and all(map(math.isfinite, likelihood)):
            found[place] = {
                "text": said.text,
                "cut": said.cut,
                "tokens": said.ids.tolist(),
                "naming": naming_tokens(said.ids, speaker.builder.decode, job.words),
                "log_probabilities": likelihood,
                "fired": fired(z),
            }
        else:
            found[place] = _error(NonFinite("hidden states, activations or log-probabilities are NaN or infinite"))
    return [
        Unedited(image=images.ids[place], label=images.classes[images.labels[place]], **found[place]) for place in batch
    ]


def _error(error: SampleError) -> dict[str, str]:
    return {"error": type(error).__name__, "reason": str(error)}


def _edits(
    plan: SteerPlan,
    load: Callable[[], Speaker],
    batches: Sequence[Sequence[int]],
    rows: Mapping[int, Unedited],
    units: Sequence[Unit],
) -> Iterator[Part[Answer]]:
    """Each batch with each strength along each direction; rows are the unedited ones, by the image's place."""
    job, images = plan.job, plan.images
    edit = cache(lambda strength, direction: load().edit([each.unit for each in units], strength, direction, job.seed))
    # Those of the last batch alone: images take megabytes.
    prompts = lru_cache(maxsize=1)(
        lambda places: [load().prompt(images.decode(place), job.question) for place in places]
    )

    def answers(places: tuple[int, ...], strength: float, direction: int) -> list[Answer]:
        speaker, inputs, asked = load(), prompts(places), [rows[place] for place in places]
        said = speaker.answers(inputs, job.max_new_tokens, edit(strength, direction))
        likelihoods = speaker.likelihoods(inputs, [row.tokens for row in asked], edit(strength, direction))
        if not all(math.isfinite(each) for likelihood in likelihoods for each in likelihood):
            raise RunStopped(
                f"strength {strength:g} pushes hidden states so far that log-probabilities are NaN or infinite; begin "
                "anew with --overwrite and without it"
            )
        return [
            Answer(
                image=row.image,
                strength=strength,
                direction=direction,
                text=each.text,
                cut=each.cut,
                log_probabilities=likelihood,
            )
            for row, each, likelihood in zip(asked, said, likelihoods, strict=True)
        ]

    for batch in batches:
        places = tuple(place for place in batch if rows[place].error is None)
        for strength, direction in product(job.edit.steps, range(1 + job.random_directions)):
            if places:
                yield len(places), partial(answers, places, strength, direction)
