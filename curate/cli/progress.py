"""How far a run is: bars on a terminal, a line every few seconds elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from curate.cli.console import ERR

if TYPE_CHECKING:
    from curate.pipeline.progress import Progress as Step

_SECONDS_BETWEEN_LINES = 5.0
TITLES = {
    "start": "starting",
    "load": "loading the model",
    "cluster": "waiting for the cluster",
    "check": "shards checked",
    "reading": "SAE's activation scale",
    "fit": "SAE's fit",
    "weights": "feature weights",
    "score": "scores",
    "samples": "samples read",
    "train": "training steps",
    "evaluate": "rows judged",
    "answers": "questions answered",
    "sweep": "trainings and evaluations",
    "reviews": "answers judged",
    "images": "images read",
    "classifiers": "classifiers fitted",
    "patches": "images masked",
    "steer": "answers",
}
UNITS = {
    "samples": "samples",
    "train": "steps",
    "evaluate": "rows",
    "answers": "questions",
    "reviews": "reviews",
    "sweep": "tasks",
    "images": "images",
    "classifiers": "classifiers",
    "patches": "images",
    "steer": "answers",
}


_WITH_WORKERS = ("fit", "weights", "score")


class Rates:
    """Samples and tokens per second of a stage's work, and the time left at that pace."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[float, int, int]] = {}
        self._last: dict[str, int] = {}

    def of(self, step: "Step") -> str:
        # Stages with workers say how long these worked, without their start.
        now = step.seconds if step.stage in _WITH_WORKERS else time.monotonic()
        if step.done < self._last.get(step.stage, 0):
            del self._first[step.stage]  # rows were lost with their worker, or another run's stage starts
        self._last[step.stage] = step.done
        start, done, tokens = self._first.setdefault(step.stage, (now, step.done, step.tokens))
        seconds = now - start
        if step.done == done or seconds <= 0 or step.stage == "load":
            return ""  # nothing is done yet, or it took no work
        rate = (step.done - done) / seconds
        parts = [f"{rate:,.1f} {UNITS.get(step.stage, 'samples')}/s"]
        if step.tokens > tokens:
            parts.append(f"{(step.tokens - tokens) / seconds:,.0f} tokens/s")
        if step.quarantined:
            parts.append(f"{step.quarantined:,} quarantined")
        if step.done < step.total:
            parts.append(f"{timedelta(seconds=round((step.total - step.done) / rate))} left")
        return ", ".join(parts)


def _how_far(step: "Step") -> str:
    if step.stage == "load":
        return f"{step.done / 1e9:.1f} of {step.total / 1e9:.1f} GB" if step.total else ""
    return f"{step.done:,}/{step.total:,}"


@contextmanager
def progress() -> Iterator[Callable[["Step"], None]]:
    """A function to report steps to."""
    rates = Rates()
    if not ERR.is_terminal:
        last = {"time": time.monotonic()}
        lacks = ""

        def line(step: "Step") -> None:
            nonlocal lacks
            now = time.monotonic()
            if step.stage == "start":
                return
            if step.stage == "cluster":
                if step.lacks != lacks:
                    lacks = step.lacks
                    ERR.print(f"{TITLES[step.stage]}: it needs {lacks}")
                return
            rate = rates.of(step)
            whole = step.done == step.total and step.stage not in ("check", "load")
            if whole or now - last["time"] >= _SECONDS_BETWEEN_LINES:
                last["time"] = now
                ERR.print(f"{TITLES[step.stage]}: {_how_far(step)}" + (f" ({rate})" if rate else ""))

        yield line
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[far]}"))
    with Progress(*columns, TextColumn("{task.fields[rate]}"), console=ERR) as bars:
        tasks = {}

        def bar(step: "Step") -> None:
            for passing in ("start", "load", "cluster"):
                if passing in tasks and passing != step.stage:
                    bars.remove_task(tasks.pop(passing))
            if step.stage not in tasks:
                tasks[step.stage] = bars.add_task(TITLES[step.stage], total=None, rate="", far="")
            if step.stage == "cluster":
                bars.update(tasks[step.stage], rate=f"it needs {step.lacks}")
            elif step.stage != "start":
                far, rate = _how_far(step), rates.of(step)
                bars.update(tasks[step.stage], completed=step.done, total=step.total or None, far=far, rate=rate)

        yield bar
