"""What a doctor finds by trying a run on this machine, without Ray."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from multiprocessing.connection import wait

import torch

from curate.pipeline.child import Child, ProcessDied
from curate.pipeline.finding import Finding, counted
from curate.pipeline.local import preparers
from curate.pipeline.local_workers import Prober
from curate.pipeline.plan import Plan
from curate.pipeline.probe import Probe
from curate.pipeline.trial import Limits, Outcome, ProbeKilled, watched
from curate.pipeline.watch import SuspectList


def machine(plan: Plan) -> Iterator[Finding]:
    """What this machine runs with."""
    gpu = f", {torch.cuda.get_device_name()}" if plan.device == "cuda" else ""
    have = f"this machine, with {counted(os.cpu_count() or 1, 'core')}{gpu}"
    beside = preparers(plan)
    prepare = "one prepares" if beside == 1 else f"{beside} prepare"
    yield Finding("machine", "ok", f"{have}, runs it without Ray: one process scores, {prepare}")


def try_here(plan: Plan, positions: Sequence[int], limits: Limits) -> Outcome:
    """Probe in a process of its own, so that its peak of memory is the work's; for `limits.seconds` at most."""
    with closing(Child(Prober, "trial", SuspectList())) as child:
        child.ask("probe", plan, positions, 1)

        def next_state(seconds: float) -> Probe | None:
            if not wait([child.connection], seconds):
                return None
            try:
                answer = child.answer()
            except ProcessDied as death:
                raise ProbeKilled(str(death)) from death
            if answer.last:
                raise StopIteration
            return answer.value

        return watched(next_state, limits)
