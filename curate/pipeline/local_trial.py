"""What a doctor finds by trying a run on this machine, without Ray."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from multiprocessing.connection import wait

from curate.pipeline.child import Child, ProcessDied
from curate.pipeline.finding import Finding, counted
from curate.pipeline.local_workers import Prober
from curate.pipeline.plan import Plan
from curate.pipeline.probe import Probe
from curate.pipeline.trial import Limits, Outcome, ProbeKilled, watched
from curate.pipeline.watch import SuspectList


def machine(plan: Plan, workers: int) -> Iterator[Finding]:
    """What this machine runs with, if so many workers prepare."""
    gpu = ", with a GPU" if plan.device == "cuda" else ""
    have = f"this machine, with {counted(os.cpu_count() or 1, 'core')}{gpu}"
    prepare = "one prepares" if workers == 1 else f"{workers} prepare"
    yield Finding("machine", "ok", f"{have}, runs it without Ray: one process scores, {prepare}")


def try_here(plan: Plan, positions: Sequence[int], limits: Limits) -> Outcome:
    """Probe in a process of its own, so that its peak of memory is the work's; for `limits.seconds` at most."""
    limits.tell("starting a process")
    with closing(Child(Prober, "trial", SuspectList())) as child:
        child.ask("probe", plan, positions, 1)

        def next_state(seconds: float) -> Probe | None:
            if not wait([child.connection], seconds):
                return None
            try:
                answer = child.answer()
            except ProcessDied as death:
                raise ProbeKilled(str(death)) from death
            if answer is not None and answer.last:
                raise StopIteration
            return None if answer is None else answer.value

        return watched(next_state, limits)
