"""How far a run is: bars on a terminal, a line every few seconds elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from curate.cli.console import ERR

if TYPE_CHECKING:
    from curate.pipeline.session import Progress as Step

_SECONDS_BETWEEN_LINES = 5.0
TITLES = {
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


class Rates:
    """Samples and tokens per second since the stage's first report, and the time left at that pace."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[float, int, int]] = {}
        self._last: dict[str, int] = {}

    def of(self, step: "Step") -> str:
        now = time.monotonic()
        if step.done < self._last.get(step.stage, 0):
            del self._first[step.stage]  # another run's stage of this name begins
        self._last[step.stage] = step.done
        start, done, tokens = self._first.setdefault(step.stage, (now, step.done, step.tokens))
        if step.done == done:
            return "starting workers" if done == 0 and step.stage not in ("check", *UNITS) else ""
        rate = (step.done - done) / max(now - start, 1e-9)
        parts = [f"{rate:,.1f} {UNITS.get(step.stage, 'samples')}/s"]
        if step.tokens > tokens:
            parts.append(f"{(step.tokens - tokens) / max(now - start, 1e-9):,.0f} tokens/s")
        if step.quarantined:
            parts.append(f"{step.quarantined:,} quarantined")
        if step.done < step.total:
            parts.append(f"{timedelta(seconds=round((step.total - step.done) / rate))} left")
        return ", ".join(parts)


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
            if step.stage == "cluster":
                if step.lacks != lacks:
                    lacks = step.lacks
                    ERR.print(f"{TITLES[step.stage]}: it needs {lacks}")
                return
            whole = step.done == step.total and step.stage != "check"
            if whole or now - last["time"] >= _SECONDS_BETWEEN_LINES:
                last["time"] = now
                rate = rates.of(step)
                ERR.print(f"{TITLES[step.stage]}: {step.done:,}/{step.total:,}" + (f" ({rate})" if rate else ""))

        yield line
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TextColumn("{task.fields[rate]}"), console=ERR) as bars:
        tasks = {}

        def bar(step: "Step") -> None:
            if step.stage not in tasks:
                tasks[step.stage] = bars.add_task(TITLES[step.stage], total=step.total or None, rate="")
            if step.stage == "cluster":
                bars.update(tasks[step.stage], rate=f"it needs {step.lacks}")
                return
            if "cluster" in tasks:
                bars.remove_task(tasks.pop("cluster"))
            bars.update(tasks[step.stage], completed=step.done, total=step.total or None, rate=rates.of(step))

        yield bar
