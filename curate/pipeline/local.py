"""Both passes on this machine, without Ray: one process holds the model, others prepare, and this one writes."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain
from math import ceil, prod
from multiprocessing.connection import wait
from typing import Any

import psutil
import pyarrow as pa
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from curate.datasets import Dataset
from curate.pipeline.child import Child, ProcessDied
from curate.pipeline.executor import Computed, WorkersDied
from curate.pipeline.first_pass import sae_record
from curate.pipeline.local_workers import ModelWorker
from curate.pipeline.meter import Work
from curate.pipeline.plan import Plan
from curate.pipeline.progress import Progress, Report
from curate.pipeline.ranges import Arrived, Assembly, Range
from curate.pipeline.watch import SuspectList
from curate.pipeline.workers import Columns, PrepareWorker, check, from_bytes
from curate.sae.dictionary import known_scale
from curate.scoring.fit import READING_SAMPLES

_SECONDS_BETWEEN_LOOKS = 0.5
# What was prepared for the first pass is kept for the scores, as far as it fits.
_KEPT_BYTES = 512 * 2**20
_LITTLE_TO_LOAD = 10**8


@contextmanager
def local(plan: Plan, report: Report) -> Iterator["LocalExecutor"]:
    """The executor of this machine; its processes end with the context."""
    with closing(LocalExecutor(plan, report)) as executor:
        yield executor


class LocalExecutor:
    """As of `Executor`."""

    def __init__(self, plan: Plan, report: Report) -> None:
        self._plan, self._report, self._suspects = plan, report, SuspectList()
        self._model = Child(partial(ModelWorker, plan), "model", self._suspects)
        self._to_load, self._loaded_before = _bytes_to_load(plan), self._memory()
        self._kept: dict[int, list[Columns]] = {}
        self._kept_bytes = 0

    def close(self) -> None:
        """End the model's process."""
        self._model.close()

    @property
    def device(self) -> str:
        """As of `Executor`."""
        device = self._plan.device
        return f"cuda ({self._model.call('gpu')})" if device == "cuda" else device

    def first_pass(self, plan: Plan, dataset: Dataset, weigh: bool, watched: bool) -> Computed | None:
        """As of `Executor`."""
        try:
            return self._first_pass(plan, dataset, weigh)
        except ProcessDied as death:
            row = self._suspects.in_hand(0)
            self._suspects.put_down(0)
            self._model.replace()
            raise WorkersDied([] if row is None else [row]) from death

    def _first_pass(self, plan: Plan, dataset: Dataset, weigh: bool) -> Computed | None:
        model, step, total = self._model, plan.job.shard_rows, len(dataset)
        ranges = [(start, min(start + step, total)) for start in range(0, total, step)]
        keep = dataset is plan.dataset and plan.job.parameters.prepared_alike
        self._kept, self._kept_bytes = {}, 0
        model.ask("start_first_pass", dataset, weigh)
        with closing(_Preparers(plan, dataset, ranges, "weights", SuspectList())) as preparers:
            to_read = min(READING_SAMPLES, total)
            reading = self._ready(lambda done: Progress("reading", done, to_read))
            if reading is not None:
                self._report(Progress("reading", to_read, to_read))
            progress, before = partial(Progress, "weights" if weigh else "fit", total=total), 0
            self._report(progress())
            for block in preparers:
                done, work = model.call("take", block)
                self._report(progress(done=done, seconds=work.seconds))
                if keep and done > before:  # or it came before, from a process that died
                    self._keep(block)
                before = done
        rows, ran, work = model.call("first.taken")
        if sorted(rows) != list(dataset.rows):
            return None
        scale, note = (known_scale(plan.sae), None) if reading is None else (reading.scale, reading.note)
        sae = sae_record(plan.sae, scale, [model.call("first.fitted")], note)
        weights, places, n_samples = model.call("first.weights") if weigh else (None, {}, 0)
        return Computed(sae, weights, places, n_samples, ran, work, work.seconds)

    def _keep(self, block: Columns) -> None:
        """Keep a block for the scores; once one does not fit, its range and all later ones are prepared again."""
        self._kept_bytes += len(block["payload"][0])
        if self._kept_bytes <= _KEPT_BYTES:
            self._kept.setdefault(block["start"][0], []).append(block)
        else:
            self._kept.pop(block["start"][0], None)

    def score(
        self,
        plan: Plan,
        dataset: Dataset,
        ranges: Sequence[Range],
        weights: Float[Tensor, " d_sae"] | None,
        commit: Callable[[Range, pa.Table], bool],
        arrived: Callable[[Arrived], None],
    ) -> None:
        """As of `Executor`; a process that dies is replaced, and what it had in hand is done again."""
        assembly = Assembly(ranges, commit, arrived)
        kept, self._kept = self._kept if dataset is plan.dataset else {}, {}
        ready = ({**block, "made": [time.time()]} for start, _ in ranges for block in kept.get(start, []))
        left = [whole for whole in ranges if whole[0] not in kept]
        start = partial(self._start_scores, plan, weights)
        with closing(_Preparers(plan, dataset, left, "score", SuspectList())) as preparers:
            start()
            for block in chain(ready, preparers):
                scored = self._scored(block, start)
                names = ("start", "kind", "payload", "work")
                for of_range, kind, payload, work in zip(*(scored[name] for name in names), strict=True):
                    check(kind, payload)
                    if not assembly.take(of_range, from_bytes(payload), Work(*work)):
                        return

    def _start_scores(self, plan: Plan, weights: Float[Tensor, " d_sae"] | None) -> None:
        """Wait until the model is ready for scores; a process that dies before is replaced."""
        while True:
            self._model.ask("start_scores", plan, weights)
            try:
                return self._ready()
            except ProcessDied:
                self._model.replace()

    def _scored(self, block: Columns, start: Callable[[], None]) -> Columns:
        """A block's rows; a process that dies over it is replaced, and started for scores."""
        while True:
            try:
                return self._model.call("scorer", block)
            except ProcessDied:
                self._model.replace()
                start()

    def _ready(self, tell: Callable[[int], Progress] | None = None) -> Any:
        """Wait for the answer to what was asked, and tell how much of the model is loaded."""
        while True:
            while not wait([self._model.connection], _SECONDS_BETWEEN_LOOKS):
                loaded = max(0, self._memory() - self._loaded_before)
                self._report(Progress("load", min(loaded, self._to_load), self._to_load))
            answer = self._model.answer()
            if answer is None:
                continue
            if answer.last:
                return answer.value
            assert tell is not None, "an answer in parts"
            self._report(tell(answer.value))

    def _memory(self) -> int:
        """Bytes that the model's process has; 0 where it is gone."""
        try:
            return psutil.Process(self._model.pid).memory_info().rss
        except psutil.Error:
            return 0


class _Preparers:
    """Processes that prepare ranges: a range's blocks come in order, each process waits until its block is taken."""

    def __init__(
        self, plan: Plan, dataset: Dataset, ranges: Sequence[Range], stage: str, suspects: SuspectList
    ) -> None:
        self._left, self._asked = deque(ranges), dict[Child, Range]()
        make = partial(PrepareWorker, plan, dataset, stage)
        count = min(preparers(plan, len(dataset)), len(ranges))
        self._children = [Child(make, ("prepare", index), suspects) for index in range(count)]
        for child in self._children:
            self._ask(child)

    def _ask(self, child: Child) -> None:
        """Give a process that has nothing to do the next range."""
        if self._left:
            self._asked[child] = self._left.popleft()
            child.ask("rows", *self._asked[child])

    def __iter__(self) -> Iterator[Columns]:
        while self._asked:
            ready = wait([child.connection for child in self._asked])
            for child in [child for child in self._asked if child.connection in ready]:
                try:
                    answer = child.answer()
                except ProcessDied:
                    child.replace()
                    child.ask("rows", *self._asked[child])
                    continue
                if answer is None:
                    continue
                if not answer.last:
                    yield answer.value
                    continue
                child.blameless = 0
                del self._asked[child]
                self._ask(child)

    def close(self) -> None:
        """End the processes."""
        for child in self._children:
            child.close()


def preparers(plan: Plan, rows: int) -> int:
    """How many processes prepare so many rows: unasked one for each core that the model leaves; at most one a range."""
    busy = plan.cpus_per_actor if plan.device == "cpu" else 1
    count = plan.job.resources.prepare_workers or max(1, (os.cpu_count() or 1) - busy)
    return min(count, max(1, ceil(rows / plan.job.shard_rows)))


def _bytes_to_load(plan: Plan) -> int:
    """About how much memory the model takes, up to its hook layer; 0 where it is little, or on a GPU."""
    elements = 0
    for file in plan.model.path.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            elements += sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    below = 1.0 if plan.job.parameters.likelihood_of else (plan.hook_layer + 1) / plan.model.n_layers
    size = int(elements * plan.dtype.itemsize * below)
    return 0 if plan.device == "cuda" or size < _LITTLE_TO_LOAD else size
