"""What runs inside an executor's processes: CPU workers that prepare, workers that hold the model."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from curate.datasets import Dataset
from curate.errors import CurateError, DataError, RunStopped, WorkerLost
from curate.manifest.rows import QuarantineRow, ScoredRow, quarantine_table, scored_table
from curate.models.family import CutModel, InputBuilder
from curate.pipeline.files_here import dictionary_here, model_here
from curate.pipeline.meter import Export, Meter, Work, nowhere
from curate.pipeline.plan import Plan
from curate.pipeline.transport import batch_from_bytes, batch_to_bytes
from curate.pipeline.watch import SEEN_DEATHS_BEFORE_ONE_BY_ONE, STRIKES, Watch, deadline
from curate.sae.load import load_dictionary
from curate.scoring.memory import FittingScorer
from curate.scoring.parameters import Text
from curate.scoring.prepare import Prepared, prepare, quarantined, token_batches
from curate.scoring.scorer import Scorer

BATCH, ROWS, FAILURE = "batch", "rows", "failure"
Columns = dict[str, Any]
NO_WORK = astuple(Work())


def to_bytes(table: pa.Table) -> bytes:
    """A table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def from_bytes(data: bytes) -> pa.Table:
    """The table that `to_bytes` was given."""
    return pa.ipc.open_stream(data).read_all()


@dataclass(frozen=True)
class Failure:
    """An error that the user can mend. It travels as a row, for Ray would bury what an actor raises."""

    message: str

    def row(self) -> Columns:
        return row(-1, FAILURE, self.message.encode())


def row(start: int, kind: str, payload: bytes) -> Columns:
    """What travels between workers: a piece of the range that starts at `start`, and when it was made."""
    return {"start": [start], "kind": [kind], "payload": [payload], "made": [time.time()], "work": [NO_WORK]}


T = TypeVar("T")


def attempt(make: Callable[[], T]) -> T | Failure:
    """What `make` returns, or the user's error as a value."""
    try:
        return make()
    except CurateError as error:
        return Failure(str(error))


def check(kind: str, payload: bytes) -> None:
    """Raise the error that a row carries, if it does.

    Raises:
        RunStopped: it does.
    """
    if kind == FAILURE:
        raise RunStopped(payload.decode())


class PrepareWorker:
    """Ranges of positions in, batches and quarantined rows out. Batches never cross ranges."""

    def __init__(
        self, plan: Plan, dataset: Dataset, stage: str, watch: Watch = Watch(), export: Export = nowhere
    ) -> None:
        torch.set_num_threads(1)
        self.plan, self.dataset, self.watch, self.meter = plan, dataset, watch, Meter(stage, export)
        parameters = plan.job.parameters
        self.text: Text = parameters.text if stage == "score" else parameters.weights_text
        # Feature weights need no likelihood.
        self.likelihood_of = parameters.likelihood_of if stage == "score" else ()
        self.builder = attempt(lambda: self._load(plan))

    def _load(self, plan: Plan) -> InputBuilder:
        with self.watch.loading("lower --prepare-workers"):
            return plan.model.family.load_builder(model_here(plan.model, plan.job.model.name))

    def __call__(self, ranges: Columns) -> Iterator[Columns]:
        """Several ranges, as Ray Data gives them."""
        for start, stop in zip(ranges["start"].tolist(), ranges["stop"].tolist(), strict=True):
            yield from self.rows(start, stop)

    def rows(self, start: int, stop: int) -> Iterator[Columns]:
        """The batches of a range, then its quarantined rows."""
        builder, budget = self.builder, self.plan.job.parameters.tokens_per_pass(self.plan.device)
        if isinstance(builder, Failure):
            yield builder.row()
            return
        bad: list[QuarantineRow] = []
        samples = self._samples(builder, start, stop)
        for batch in token_batches(_good(samples, bad), budget):
            self.meter.count("prepared_batches")
            yield row(start, BATCH, batch_to_bytes(batch))
        if bad:
            self.meter.count("quarantined", len(bad))
            yield row(start, ROWS, to_bytes(quarantine_table(bad)))

    def _samples(self, builder: InputBuilder, start: int, stop: int) -> Iterator[Prepared | QuarantineRow]:
        """The range's samples, without those that this worker's predecessors died of."""
        key = ("prepare", start)
        _, lost = self.watch.take_up(key)
        yield from (quarantined(row, _lost(self.plan)) for row in lost)
        positions = [position for position in range(start, stop) if self.dataset.rows[position] not in lost]
        samples = prepare(self.dataset.samples(positions), builder, self.text, self.likelihood_of)
        for position in positions:
            self.watch.hold(key, self.dataset.rows[position])
            with deadline(self.plan.job.sample_timeout):
                sample = next(samples, None)
            if sample is None:
                raise DataError(f"the data have fewer rows than when the run began: row {position:,} is gone")
            # Here the worker may wait for long, and die, without any fault of the sample's.
            self.watch.put_down(key)
            yield sample


def _lost(plan: Plan, stage: str = "decode") -> WorkerLost:
    error = WorkerLost(
        f"its worker ended {STRIKES} times with this sample in hand: it crashed, or took longer than "
        f"--sample-timeout {plan.job.sample_timeout:g} seconds"
    )
    error.stage = stage
    return error


def _good(samples: Iterator[Prepared | QuarantineRow], bad: list[QuarantineRow]) -> Iterator[Prepared]:
    for sample in samples:
        if isinstance(sample, Prepared):
            yield sample
        else:
            bad.append(sample)


def more_memory(plan: Plan) -> str:
    """How a worker that loads the model gets more memory."""
    return "lower --actors" if plan.job.resources.actors > 1 else "take a machine with more"


def load_cut(plan: Plan) -> CutModel:
    """The model up to its hook layer, on this process's device."""
    _settle(plan)
    info = model_here(plan.model, plan.job.model.name)
    return plan.model.family.load_model(info, plan.hook_layer, plan.dtype, plan.device)


def load_scorer(plan: Plan, weights: Float[Tensor, " d_sae"] | None, cut: CutModel | None = None) -> Scorer:
    """The scorer of a plan, with the whole model where a metric needs likelihood, on this process's device.

    Args:
        cut: the cut model, if it is loaded already.
    """
    here = None if weights is None else weights.to(plan.device)
    if not plan.job.parameters.likelihood_of:
        dictionary = load_dictionary(dictionary_here(plan), plan.device)
        return Scorer(cut or load_cut(plan), dictionary, plan.job.parameters, here)
    _settle(plan)
    info = model_here(plan.model, plan.job.model.name)
    whole = plan.model.family.load_whole(info, plan.dtype, plan.device)
    read = partial(whole.read, hook_layer=plan.hook_layer)
    return Scorer(None, load_dictionary(dictionary_here(plan), plan.device), plan.job.parameters, here, read)


def _settle(plan: Plan) -> None:
    torch.set_num_threads(plan.cpus_per_actor)
    logging.getLogger("transformers").setLevel(logging.ERROR)


class ScoreActor:
    """Holds the model; batches in, scored rows out.

    Args:
        cut: the cut model, if this process has it already.
    """

    def __init__(
        self,
        plan: Plan,
        weights: Float[Tensor, " d_sae"] | None,
        watch: Watch = Watch(),
        export: Export = nowhere,
        cut: CutModel | None = None,
    ) -> None:
        self.plan, self.columns, self.watch = plan, plan.job.parameters.columns, watch
        self.scorer = attempt(lambda: self._load(plan, weights, cut))
        self.meter = Meter("score", export)

    def _load(self, plan: Plan, weights: Float[Tensor, " d_sae"] | None, cut: CutModel | None) -> FittingScorer:
        with self.watch.loading(more_memory(plan)):
            return FittingScorer(load_scorer(plan, weights, cut))

    def __call__(self, block: Columns) -> Columns:
        scorer, kinds, payloads, works = self.scorer, [], [], []
        if isinstance(scorer, Failure):
            return scorer.row()
        for kind, payload, made in zip(block["kind"], block["payload"], block["made"], strict=True):
            work = Work()
            if kind == BATCH:
                kind, (payload, work) = ROWS, self._score(scorer, payload, made)
            kinds.append(kind)
            payloads.append(payload)
            works.append(astuple(work))
        return {"start": block["start"], "kind": kinds, "payload": payloads, "made": block["made"], "work": works}

    def _score(self, scorer: FittingScorer, payload: bytes, prepared_at: float) -> tuple[bytes, Work]:
        batch = batch_from_bytes(payload)
        with self.meter.batch(batch, prepared_at, together=True) as done:
            rows = self._rows(scorer, batch)
        scored = [row for row in rows if isinstance(row, ScoredRow)]
        bad = [row for row in rows if isinstance(row, QuarantineRow)]
        self.meter.count("quarantined", len(bad))
        tables = [scored_table(scored, self.columns), quarantine_table(bad)]
        whole = pa.concat_tables([table for table in tables if table.num_rows], promote_options="default")
        return to_bytes(whole), done[0]

    def _rows(self, scorer: FittingScorer, batch: list[Prepared]) -> list[ScoredRow | QuarantineRow]:
        """The batch's rows. After several deaths over it, its samples go one by one to find the one to blame."""
        key, seconds = ("score", batch[0].source_row), self.plan.job.sample_timeout
        deaths, lost = self.watch.take_up(key)
        if deaths < SEEN_DEATHS_BEFORE_ONE_BY_ONE and not lost:
            with deadline(seconds * len(batch)):
                rows = scorer.score(batch)
            self.watch.put_down(key)
            return rows
        rows = []
        for sample in batch:
            if sample.source_row in lost:
                rows.append(quarantined(sample.source_row, _lost(self.plan, "score"), sample.sample_id))
                continue
            self.watch.hold(key, sample.source_row)
            with deadline(seconds):
                rows += scorer.score([sample])
        self.watch.put_down(key)
        return rows
