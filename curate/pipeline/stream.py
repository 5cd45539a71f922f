"""Ranges of rows through Ray Data: prepared on CPU workers, scored on actors, given back whole, each row once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from jaxtyping import Float
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError
from torch import Tensor

from curate.datasets import Dataset
from curate.errors import RunStopped, first_line
from curate.pipeline.cluster import actor_needs, nodes, prepare_needs, prepare_workers, ray_options
from curate.pipeline.job import Plan
from curate.pipeline.meter import Work
from curate.pipeline.watch import suspect_list
from curate.pipeline.workers import PrepareWorker, ScoreActor, check, from_bytes

Range = tuple[int, int]
_ATTEMPTS_WITHOUT_PROGRESS = 3
_MOST_BLOCKS = 4096


@dataclass(frozen=True)
class Arrived:
    """Rows that came out of the workers: scored and quarantined ones, their tokens, and the work on them.

    Negative where they are forgotten, for their range has to be streamed again; the work was done all the same.
    """

    rows: int
    tokens: int
    quarantined: int
    work: Work


def prepared(
    the_plan: Plan, dataset: Dataset, ranges: Sequence[Range], stage: str, suspects: ActorHandle
) -> ray.data.Dataset:
    """The stream of prepared batches: one row a batch, made by a pool of CPU workers."""
    items = [{"start": start, "stop": stop} for start, stop in ranges]
    workers = min(prepare_workers(the_plan, nodes()), len(items))
    return ray.data.from_items(items, override_num_blocks=min(len(items), _MOST_BLOCKS)).map_batches(
        PrepareWorker,
        fn_constructor_args=(the_plan, dataset, stage, suspects),
        compute=ray.data.ActorPoolStrategy(size=workers),
        batch_size=1,
        **ray_options(prepare_needs(the_plan)),
    )


def score_ranges(
    the_plan: Plan,
    dataset: Dataset,
    ranges: Sequence[Range],
    weights: Float[Tensor, " d_sae"] | None,
    commit: Callable[[Range, pa.Table], bool],
    arrived: Callable[[Arrived], None],
) -> None:
    """Score ranges of the data set's positions and hand over each that is whole, with one row for every position.

    Workers that die are replaced and their work is done again, so rows may come twice: the first counts. Ranges
    that are not whole in the end are streamed again.

    Args:
        weights: feature weights, where a metric needs them.
        commit: takes a range's rows; returns whether to go on.
        arrived: called as rows come in.

    Raises:
        RunStopped: several attempts in a row brought no range to its end.
    """
    left, idle_attempts = dict(ranges), 0

    def commit_and_forget(whole: Range, rows: pa.Table) -> bool:
        del left[whole[0]]
        return commit(whole, rows)

    while left:
        before, failure = len(left), None
        try:
            if not _stream(the_plan, dataset, left, weights, commit_and_forget, arrived):
                return
        except RayError as error:
            # An error of the code, not of the machine, would be met again by the next attempt.
            if isinstance(error, RayTaskError) and not isinstance(error.cause, RayError):
                raise
            failure = error
        idle_attempts = 0 if len(left) < before else idle_attempts + 1
        if left and idle_attempts == _ATTEMPTS_WITHOUT_PROGRESS:
            why = f" ({first_line(failure)})" if failure else ""
            raise RunStopped(f"{len(left):,} ranges of rows came back from no worker{why}") from failure


def _stream(
    the_plan: Plan,
    dataset: Dataset,
    left: dict[int, int],
    weights: Float[Tensor, " d_sae"] | None,
    commit: Callable[[Range, pa.Table], bool],
    arrived: Callable[[Arrived], None],
) -> bool:
    """One attempt at all that is left; returns whether nobody asked to stop."""
    suspects, resources = suspect_list(), the_plan.job.resources
    pool = ray.data.ActorPoolStrategy(
        min_size=resources.fewest, max_size=resources.actors, initial_size=resources.first
    )
    scored = prepared(the_plan, dataset, list(left.items()), "score", suspects).map_batches(
        ScoreActor,
        fn_constructor_args=(the_plan, weights, suspects),
        compute=pool,
        batch_size=None,
        **ray_options(actor_needs(the_plan)),
    )
    unfinished: dict[int, tuple[set[int], list[pa.Table]]] = {}
    blocks: Iterator[Any] = iter(scored.iter_batches(batch_size=None, batch_format="pyarrow"))
    try:
        for block in blocks:
            for row in block.to_pylist():
                check(row["kind"], row["payload"])
                start, rows = row["start"], from_bytes(row["payload"])
                if start not in left:
                    continue  # whole already: these rows come for a second time
                seen, tables = unfinished.setdefault(start, (set(), []))
                rows = rows.filter([source_row not in seen for source_row in rows["source_row"].to_pylist()])
                seen.update(rows["source_row"].to_pylist())
                tables.append(rows)
                arrived(_arrived(rows, Work(*row["work"])))
                if len(seen) == left[start] - start:
                    del unfinished[start]
                    if not commit((start, left[start]), pa.concat_tables(tables, promote_options="default")):
                        return False
        return True
    finally:
        for _, tables in unfinished.values():
            for rows in tables:
                arrived(_arrived(rows, Work(), times=-1))


def _arrived(rows: pa.Table, work: Work, times: int = 1) -> Arrived:
    counts = [rows[name] for name in ("n_text_tokens", "n_image_tokens") if name in rows.column_names]
    tokens = sum(int(count.drop_null().to_numpy().sum()) for count in counts)
    quarantined = rows.num_rows - rows["error"].null_count if "error" in rows.column_names else 0
    return Arrived(times * rows.num_rows, times * tokens, times * quarantined, work)
