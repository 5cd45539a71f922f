"""Kill a scoring run at random moments until it is whole: its driver, its actors, and it while it writes."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

CURATE = Path(sys.executable).parent / "curate"
SECONDS_TO_WAIT = 240


@dataclass
class Killer:
    """Runs one command again and again, and kills what it names.

    Attributes:
        command: a `curate score` command whose --output is `run`.
        kills: what was killed, and what the folder held then.
    """

    command: list[str]
    run: Path
    rng: random.Random
    kills: list[str] = field(default_factory=list)

    def go(self, plan: list[str]) -> None:
        """Kill as planned (`driver`, `actor`, `writer`), then let the run end."""
        process = self._start()
        for what in plan:
            if process.poll() is not None:
                self._check_end(process)
                process = self._start()
            if what == "actor":
                self._kill_actor(process)
                continue
            if what == "writer":
                self._wait_for_half_a_file(process)
            else:
                self._wait_at_random(process)
            self._note(what)
            process.send_signal(signal.SIGKILL)
            process.wait()
            process = self._start()
        self._end(process)

    def _start(self) -> subprocess.Popen:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        return subprocess.Popen(self.command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def _end(self, process: subprocess.Popen) -> None:
        _, errors = process.communicate(timeout=SECONDS_TO_WAIT)
        assert process.returncode == 0, (self.kills, errors.decode()[-2000:])

    def _check_end(self, process: subprocess.Popen) -> None:
        """A run whose actors died too often says how to go on. One that was faster than the killer gets new work."""
        if process.wait() != 0:
            assert process.stderr is not None
            assert b"go on with: curate score --resume" in process.stderr.read(), self.kills
            return
        (self.run / "run.json").unlink()
        self.rng.choice(sorted((self.run / "shards").glob("*.json"))).unlink()

    def _note(self, what: str) -> None:
        shards = len(list(self.run.glob("shards/*.json")))
        ranked = ", ranked" if (self.run / "manifest.parquet").exists() else ""
        self.kills.append(f"{what} with {shards} shards{ranked}")

    def _wait_at_random(self, process: subprocess.Popen) -> None:
        """Some seconds from the start of imports to well into the work."""
        until = time.monotonic() + self.rng.uniform(2, 25)
        while time.monotonic() < until and process.poll() is None:
            time.sleep(0.02)

    def _wait_for_half_a_file(self, process: subprocess.Popen) -> None:
        until = time.monotonic() + SECONDS_TO_WAIT
        skip = self.rng.randint(0, 2)
        seen: set[str] = set()
        while time.monotonic() < until and process.poll() is None:
            for folder in (self.run, self.run / "shards", self.run / "weights"):
                if folder.is_dir():
                    seen |= {path.name for path in folder.glob(".*.tmp")}
            if len(seen) > skip:
                return

    def _kill_actor(self, process: subprocess.Popen) -> None:
        until = time.monotonic() + SECONDS_TO_WAIT
        time.sleep(self.rng.uniform(0.2, 4))
        while time.monotonic() < until and process.poll() is None:
            if actors := actors_of(process.pid):
                self._note("actor")
                self.rng.choice(actors).kill()
                return
            time.sleep(0.1)


def actors_of(driver: int) -> list[psutil.Process]:
    """Ray's worker processes below a driver that hold one of our actors."""
    found = []
    for process in _children(driver):
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if title.startswith("ray::") and any(name in title for name in ("MapWorker", "WeightsActor")):
            found.append(process)
    return found


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
