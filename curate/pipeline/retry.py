"""Quarantined rows tried again, after what kept them out was mended."""

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate, pairwise

import pyarrow as pa
from upath import UPath

from curate.errors import ConfigurationError, DataError
from curate.manifest.inputs import RunInputs, read_inputs, write_inputs
from curate.manifest.ledger import Shard, commit, is_whole, read_ledger, read_shard
from curate.manifest.lock import locked
from curate.manifest.record import RunRecord
from curate.pipeline.job import ScoreJob
from curate.pipeline.plan import Plan, inputs, plan
from curate.pipeline.progress import Progress, Report
from curate.pipeline.ranges import Range
from curate.pipeline.score import execute
from curate.pipeline.session import Session, resumable
from curate.storage import location


def retry(job: ScoreJob, report: Report, announce: Callable[[Plan, int], None]) -> RunRecord:
    """Score the quarantined rows of a run again, and rank it anew.

    The data may have changed since, but only where rows are quarantined: every scored row must still have the
    content it was scored with.

    Args:
        announce: called once with the number of rows to try, before anything is loaded.

    Raises:
        ConfigurationError, DataError: before any work is done.
        RunStopped: the run cannot go on; what was committed so far is kept.
    """
    run = location(job.output)
    if read_inputs(run) is None:
        raise ConfigurationError(f"{run} is not a run folder")
    the_plan = plan(job)
    go_on = f"curate retry {run}"
    with locked(run), resumable(go_on):
        begun = read_inputs(run)
        assert begun is not None
        shards = read_ledger(run)
        if damaged := [shard.name for shard in shards.values() if not is_whole(run, shard)]:
            raise DataError(f"the shard {damaged[0]} of {run} is damaged; mend it first: curate score --resume {run}")
        _take_over_data(the_plan, run, begun, shards, report)
        rows = {shard: _quarantined_rows(run, shard) for shard in shards.values() if shard.quarantined}
        announce(the_plan, sum(map(len, rows.values())))
        # The run was stopped over these rows, or had room for them; either way all are to be tried.
        session = Session(the_plan, run, shards, report, float("inf"), go_on)
        bounds = list(pairwise(accumulate(map(len, rows.values()), initial=0)))
        shard_of = dict(zip((start for start, _ in bounds), rows, strict=True))

        def write(whole: Range, tried: pa.Table, weights: str | None) -> None:
            shard = shard_of[whole[0]]
            before = read_shard(run, shard)
            kept = before.filter(before["error"].is_null())
            merged = pa.concat_tables([kept, tried], promote_options="permissive")
            session.put(commit(run, shard.start, shard.stop, merged, weights, the_plan.dataset.stamp()))

        dataset = replace(the_plan.dataset, rows=[row for found in rows.values() for row in found])
        return execute(session, dataset, bounds, write)


def _quarantined_rows(run: UPath, shard: Shard) -> list[int]:
    rows = read_shard(run, shard)
    return sorted(rows.filter(rows["error"].is_valid())["source_row"].to_pylist())


def _take_over_data(the_plan: Plan, run: UPath, begun: RunInputs, shards: dict[int, Shard], report: Report) -> None:
    """Make the data as they are now the run's inputs, if they still hold every sample that was scored."""
    now = inputs(the_plan)
    mended = begun.model_copy(update={"decides": {**begun.decides, "data hash": now.decides["data hash"]}})
    if differences := mended.differences(now):
        raise ConfigurationError(f"{run} was begun with other inputs ({'; '.join(differences)})")
    same_files = all(shard.data_stamp == the_plan.data_stamp for shard in shards.values())
    if begun.decides == now.decides and same_files and not the_plan.dataset.images_apart:
        return
    for done, shard in enumerate(shards.values()):
        report(Progress("check", done, len(shards)))
        ids = dict(the_plan.dataset.sample_ids(range(shard.start, shard.stop)))
        rows = read_shard(run, shard)
        scored = rows.filter(rows["error"].is_null()) if shard.quarantined else rows
        for row in scored.select(["source_row", "sample_id"]).to_pylist():
            if ids.get(row["source_row"]) != row["sample_id"]:
                raise DataError(
                    f"row {row['source_row']:,} is no longer the sample that was scored: only quarantined rows may "
                    "change before a retry; put the others back, or score the data anew with --overwrite"
                )
    write_inputs(run, begun.model_copy(update={"decides": now.decides}))
