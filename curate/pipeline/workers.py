"""What runs inside Ray's processes: CPU workers that prepare, actors that hold the model."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import ray
import torch

from curate.datasets import Dataset
from curate.errors import ConfigurationError, CurateError
from curate.manifest.rows import QuarantineRow, ScoredRow, quarantine_table, scored_table
from curate.manifest.weights import read_weights
from curate.metrics.weights import FeatureWeights, TopTokens
from curate.models.family import CutModel
from curate.pipeline.job import Plan, worker_threads
from curate.pipeline.transport import pack, unpack
from curate.sae.dictionary import Dictionary, load_dictionary
from curate.scoring.prepare import Prepared, prepare, token_batches
from curate.scoring.scorer import Scorer
from curate.scoring.weights_pass import WeightsPass

BATCH, ROWS, FAILURE = "batch", "rows", "failure"
Columns = dict[str, Any]


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
        return {"start": [-1], "kind": [FAILURE], "payload": [self.message.encode()]}


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
        ConfigurationError: it does.
    """
    if kind == FAILURE:
        raise ConfigurationError(payload.decode())


class PrepareWorker:
    """Ranges of positions in, packed batches and quarantined rows out. Batches never cross ranges.

    A pool of actors, since Ray Data would run plain tasks inside the scoring actors, on the device's time.
    """

    def __init__(self, plan: Plan, dataset: Dataset) -> None:
        torch.set_num_threads(1)
        self.plan, self.dataset = plan, dataset
        self.builder = attempt(lambda: plan.model.family.load_builder(plan.model))

    def __call__(self, ranges: Columns) -> Iterator[Columns]:
        builder, parameters = self.builder, self.plan.job.parameters
        if isinstance(builder, Failure):
            yield builder.row()
            return
        for start, stop in zip(ranges["start"].tolist(), ranges["stop"].tolist(), strict=True):
            bad: list[QuarantineRow] = []
            samples = prepare(self.dataset.samples(range(start, stop)), builder, parameters.text)
            for batch in token_batches(_good(samples, bad), parameters.batch_size):
                yield {"start": [start], "kind": [BATCH], "payload": [pack(batch)]}
            if bad:
                yield {"start": [start], "kind": [ROWS], "payload": [to_bytes(quarantine_table(bad))]}


def _good(samples: Iterator[Prepared | QuarantineRow], bad: list[QuarantineRow]) -> Iterator[Prepared]:
    for sample in samples:
        if isinstance(sample, Prepared):
            yield sample
        else:
            bad.append(sample)


def load(plan: Plan) -> tuple[CutModel, Dictionary]:
    """The cut model and its dictionary, on this process's device."""
    torch.set_num_threads(worker_threads(plan.job))
    logging.getLogger("transformers").setLevel(logging.ERROR)
    layer = plan.job.parameters.hook_layer
    model = plan.model.family.load_model(plan.model, layer, plan.dtype, plan.device)
    return model, load_dictionary(plan.sae, plan.device)


class ScoreActor:
    """Holds the model; packed batches in, scored rows out."""

    def __init__(self, plan: Plan, weights_folder: str | None) -> None:
        self.metrics = plan.job.parameters.metrics
        self.scorer = attempt(lambda: self._load(plan, weights_folder))

    @staticmethod
    def _load(plan: Plan, weights_folder: str | None) -> Scorer:
        weights = None
        if weights_folder is not None:
            weights = read_weights(Path(weights_folder))[0].to(plan.device)
        return Scorer(*load(plan), plan.job.parameters, weights)

    def __call__(self, block: Columns) -> Columns:
        scorer, kinds, payloads = self.scorer, [], []
        if isinstance(scorer, Failure):
            return scorer.row()
        for kind, payload in zip(block["kind"], block["payload"], strict=True):
            kinds.append(ROWS if kind == BATCH else kind)
            payloads.append(self._score(scorer, payload) if kind == BATCH else payload)
        return {"start": block["start"], "kind": kinds, "payload": payloads}

    def _score(self, scorer: Scorer, payload: bytes) -> bytes:
        rows = scorer.score(unpack(payload))
        scored = [row for row in rows if isinstance(row, ScoredRow)]
        bad = [row for row in rows if isinstance(row, QuarantineRow)]
        tables = [scored_table(scored, self.metrics), quarantine_table(bad)]
        return to_bytes(pa.concat_tables([table for table in tables if table.num_rows], promote_options="default"))


@ray.remote
class WeightsActor:
    """Holds the model; takes its share of the weight samples, then gives or merges what it kept."""

    def __init__(self, plan: Plan, rows: Sequence[int]) -> None:
        self.n_done = 0
        self.share = attempt(lambda: WeightsPass(*load(plan), plan.job.parameters.top_k, rows, plan.model.context))

    def consume(self, batches: Any) -> None:
        """Run all packed batches of one split of the prepared data."""
        share = self._share()
        for block in batches.iter_batches(batch_size=None, batch_format="numpy"):
            for kind, payload in zip(block["kind"], block["payload"], strict=True):
                check(kind, payload)
                if kind == BATCH:
                    batch = unpack(payload)
                    share.add(batch)
                    self.n_done += len(batch)
                else:
                    self.n_done += from_bytes(payload).num_rows

    def _share(self) -> WeightsPass:
        if isinstance(self.share, Failure):
            raise ConfigurationError(self.share.message)
        return self.share

    def progress(self) -> int:
        """Samples done so far, bad ones included."""
        return self.n_done

    def kept(self) -> tuple[TopTokens | None, TopTokens | None, int]:
        """What this actor kept, for another to merge; through the CPU, which holds more than a device."""
        share = self._share()
        for top in (share.text, share.image):
            if top is not None:
                top.to("cpu")
        return share.text, share.image, share.n_samples

    def merge(self, kept: tuple[TopTokens | None, TopTokens | None, int]) -> None:
        """Take in what another actor kept."""
        text, image, n_samples = kept
        if text is not None and image is not None:
            self._share().merge(text, image, n_samples)

    def weights(self, plan: Plan) -> tuple[FeatureWeights, int]:
        """The feature weights, on the CPU, and the number of samples behind them."""
        share = self._share()
        weights = share.weights(plan.job.parameters.weight_rule)
        return FeatureWeights(weights.weight.cpu(), weights.has_weight.cpu()), share.n_samples
