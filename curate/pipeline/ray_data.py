"""Both passes through Ray Data: prepared on CPU workers, run on actors, given back whole, each row once."""

import functools
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import ray
from jaxtyping import Float
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.metrics import Counter
from torch import Tensor

from curate.datasets import Dataset
from curate.errors import RunStopped, first_line
from curate.pipeline.cluster import (
    actor_needs,
    device_name,
    local_or_remote_ray,
    nodes,
    prepare_needs,
    prepare_workers,
    ray_options,
)
from curate.pipeline.executor import Computed, WorkersDied
from curate.pipeline.first_pass import sae_record, weight_actors
from curate.pipeline.first_pass_worker import FirstPassWorker
from curate.pipeline.meter import COUNTERS, Work
from curate.pipeline.plan import Plan
from curate.pipeline.progress import Progress, Report
from curate.pipeline.ranges import Arrived, Assembly, Range
from curate.pipeline.watch import SuspectList, Watch
from curate.pipeline.workers import PrepareWorker, ScoreActor, check, from_bytes
from curate.sae.dictionary import known_scale
from curate.sae.reading import Reading
from curate.scoring.fit import READING_SAMPLES

_ATTEMPTS_WITHOUT_PROGRESS = 3
_MOST_BLOCKS = 4096


@contextmanager
def ray_data(plan: Plan, report: Report) -> Iterator["RayDataExecutor"]:
    """The executor of a cluster, or of a Ray of our own on this machine.

    Raises:
        ConfigurationError: nobody answers, the cluster stays too small, or a node does not see the run's files.
    """
    with local_or_remote_ray(plan, report):
        yield RayDataExecutor(plan, report)


class RayDataExecutor:
    """As of `Executor`."""

    def __init__(self, plan: Plan, report: Report) -> None:
        self.device, self._report = device_name(plan), report

    def first_pass(self, plan: Plan, dataset: Dataset, weigh: bool, watched: bool) -> Computed | None:
        """As of `Executor`."""
        suspects = suspect_list() if watched else None
        # A second thread answers for the progress while the first computes.
        remote = FirstPassActor.options(**ray_options(actor_needs(plan)), max_concurrency=2).remote
        count = weight_actors(plan, len(dataset))
        actors: list[Any] = [remote(plan, dataset, weigh, index, suspects) for index in range(count)]
        try:
            return _first_pass(plan, dataset, weigh, actors, self._report)
        except RayActorError as error:
            raise WorkersDied(_in_dead_hands(actors, suspects)) from error
        finally:
            for actor in actors:
                ray.kill(actor)

    def score(
        self,
        plan: Plan,
        dataset: Dataset,
        ranges: Sequence[Range],
        weights: Float[Tensor, " d_sae"] | None,
        commit: Callable[[Range, pa.Table], bool],
        arrived: Callable[[Arrived], None],
    ) -> None:
        """As of `Executor`; ranges that are not whole in the end are streamed again."""
        assembly, idle_attempts = Assembly(ranges, commit, arrived), 0
        while assembly.left:
            before, failure = len(assembly.left), None
            try:
                if not _stream(plan, dataset, assembly, weights):
                    return
            except RayError as error:
                # An error of the code, not of the machine, would be met again by the next attempt.
                if isinstance(error, RayTaskError) and not isinstance(error.cause, RayError):
                    raise
                failure = error
            finally:
                assembly.forget()
            idle_attempts = 0 if len(assembly.left) < before else idle_attempts + 1
            if assembly.left and idle_attempts == _ATTEMPTS_WITHOUT_PROGRESS:
                why = f" ({first_line(failure)})" if failure else ""
                left = len(assembly.left)
                raise RunStopped(f"{left:,} ranges of rows came back from no worker{why}") from failure


def prepared(
    plan: Plan, dataset: Dataset, ranges: Sequence[Range], stage: str, suspects: ActorHandle
) -> ray.data.Dataset:
    """The stream of prepared batches: one row a batch, made by a pool of actors, which take no device's time."""
    items = [{"start": start, "stop": stop} for start, stop in ranges]
    workers = min(prepare_workers(plan, nodes()), len(items))
    return ray.data.from_items(items, override_num_blocks=min(len(items), _MOST_BLOCKS)).map_batches(
        PrepareWorker,
        fn_constructor_args=(plan, dataset, stage, RayWatch(suspects), prometheus),
        compute=ray.data.ActorPoolStrategy(size=workers),
        batch_size=1,
        **ray_options(prepare_needs(plan)),
    )


def _stream(plan: Plan, dataset: Dataset, assembly: Assembly, weights: Float[Tensor, " d_sae"] | None) -> bool:
    """One attempt at all that is left; returns whether nobody asked to stop."""
    suspects, resources = suspect_list(), plan.job.resources
    pool = ray.data.ActorPoolStrategy(
        min_size=resources.fewest, max_size=resources.actors, initial_size=resources.first
    )
    scored = prepared(plan, dataset, list(assembly.left.items()), "score", suspects).map_batches(
        ScoreActor,
        fn_constructor_args=(plan, weights, RayWatch(suspects), prometheus),
        compute=pool,
        batch_size=None,
        **ray_options(actor_needs(plan)),
    )
    blocks: Iterator[Any] = iter(scored.iter_batches(batch_size=None, batch_format="pyarrow"))
    for block in blocks:
        for row in block.to_pylist():
            check(row["kind"], row["payload"])
            if not assembly.take(row["start"], from_bytes(row["payload"]), Work(*row["work"])):
                return False
    return True


@ray.remote
class FirstPassActor(FirstPassWorker):
    """Takes a split of the prepared data."""

    def __init__(
        self, plan: Plan, dataset: Dataset, weigh: bool, index: int = 0, suspects: ActorHandle | None = None
    ) -> None:
        watch = None if suspects is None else RemoteSuspects(suspects)
        super().__init__(plan, dataset, weigh, index, watch, prometheus)
        self.readable = 0
        self.started: float | None = None

    def read(self) -> Reading:
        """As `read_sae`; `reading_progress` tells how far it is."""
        steps = self.read_sae()
        while True:
            try:
                self.readable = next(steps)
            except StopIteration as end:
                return end.value

    def reading_progress(self) -> tuple[int, float]:
        """Samples that are ready for the reading, and 0 for the seconds."""
        return self.readable, 0.0

    def consume(self, batches: Any, scale: float) -> None:
        """Run all batches of a split, with the SAE read with an activation scale."""
        self.open_sae(scale)
        self.started = time.monotonic()
        for block in batches.iter_batches(batch_size=None, batch_format="numpy"):
            self.take(block)

    def timed_progress(self) -> tuple[int, float]:
        """Samples done so far, bad ones included, and the seconds since the model was ready."""
        seconds = 0.0 if self.started is None else time.monotonic() - self.started
        return self.progress(), seconds


def _first_pass(plan: Plan, dataset: Dataset, weigh: bool, actors: list, report: Report) -> Computed | None:
    first, *others = actors
    reading: Reading | None = None
    if plan.sae.scale is None:
        total = min(READING_SAMPLES, len(dataset))
        read = first.read.remote()
        _wait([read], [first.reading_progress], lambda done, _: report(Progress("reading", done, total)))
        reading = ray.get(read)
        report(Progress("reading", total, total))
    scale = known_scale(plan.sae) if reading is None else reading.scale
    step = plan.job.shard_rows
    ranges = [(start, min(start + step, len(dataset))) for start in range(0, len(dataset), step)]
    splits = prepared(plan, dataset, ranges, "weights", suspect_list()).streaming_split(len(actors))
    progress = functools.partial(Progress, "weights" if weigh else "fit", total=len(dataset))
    pending = [actor.consume.remote(split, scale) for actor, split in zip(actors, splits, strict=True)]
    reports = [actor.timed_progress for actor in actors]
    _wait(pending, reports, lambda done, seconds: report(progress(done=done, seconds=seconds)))
    taken = ray.get([actor.taken.remote() for actor in actors])
    if sorted(row for rows, *_ in taken for row in rows) != list(dataset.rows):
        return None
    fits = ray.get([actor.fitted.remote() for actor in actors])
    sae = sae_record(plan.sae, scale, fits, None if reading is None else reading.note)
    ran = sum(count for _, count, _ in taken)
    work = sum((work for *_, work in taken), Work())
    seconds = max(work.seconds for *_, work in taken)
    if not weigh:
        return Computed(sae, None, {}, 0, ran, work, seconds)
    for other in others:
        ray.get(first.merge.remote(other.kept.remote()))
    weights, places, n_samples = ray.get(first.weights.remote())
    return Computed(sae, weights, places, n_samples, ran, work, seconds)


def _wait(pending: list, progress: list, tell: Callable[[int, float], None]) -> None:
    """Wait for what actors compute, and tell how much is done, in how many seconds.

    Args:
        progress: methods of the actors that say it.
    """
    known = [(0, 0.0)] * len(progress)
    while pending:
        finished, pending = ray.wait(pending, num_returns=len(pending), timeout=0.5)
        ray.get(finished)
        asked = [method.remote() for method in progress]
        # Actors that have no place yet, or load, do not answer; of those that are busy, the last answer counts.
        for answer in ray.wait(asked, num_returns=len(asked), timeout=1)[0]:
            known[asked.index(answer)] = ray.get(answer)
        tell(sum(count for count, _ in known), max(seconds for _, seconds in known))


def _in_dead_hands(actors: list, suspects: ActorHandle | None) -> list[int]:
    """The samples that dead actors had in hand."""
    rows = []
    for index, actor in enumerate(actors):
        try:
            ray.get(actor.progress.remote())
        except RayActorError:
            rows.append(ray.get(suspects.in_hand.remote(index)) if suspects else None)
    return [row for row in rows if row is not None]


def suspect_list() -> ActorHandle:
    """A new, empty `SuspectList`, as an actor that lives as long as somebody holds it."""
    return ray.remote(SuspectList).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()  # type: ignore[return-value]  # Ray's stubs


class RemoteSuspects:
    """A `SuspectList` that is an actor. Each call waits until it is known there."""

    def __init__(self, suspects: ActorHandle) -> None:
        self._suspects = suspects

    def take_up(self, key: Hashable) -> tuple[int, list[int]]:
        """As of `SuspectList`."""
        known: Any = self._suspects.take_up.remote(key)
        return ray.get(known)

    def hold(self, key: Hashable, row: int) -> None:
        """As of `SuspectList`."""
        ray.get(self._suspects.hold.remote(key, row))

    def put_down(self, key: Hashable) -> None:
        """As of `SuspectList`."""
        ray.get(self._suspects.put_down.remote(key))


class RayWatch(Watch):
    """The watch of an actor, which knows only there whether it replaces a dead one.

    Others neither ask nor tell: to tell of every sample costs time.
    """

    def __init__(self, suspects: ActorHandle) -> None:
        super().__init__()
        self._handle = suspects

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        context = ray.get_runtime_context()
        if context.get_actor_id() is not None and context.was_current_actor_reconstructed:
            # A worker's replacements inherit its id.
            self._suspects, self._worker = RemoteSuspects(self._handle), context.get_actor_id()


@functools.cache
def _counter(name: str) -> Counter:
    return Counter(f"curate_{name}", COUNTERS[name], tag_keys=("stage",))


def prometheus(name: str, stage: str, amount: float) -> None:
    """Export work of this process through Ray."""
    _counter(name).inc(amount, {"stage": stage})
