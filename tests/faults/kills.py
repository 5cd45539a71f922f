"""Kill a scoring run at random moments until it is whole: its driver, its workers, and it while it writes."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

CURATE = Path(sys.executable).parent / "curate"
SECONDS_TO_WAIT = 240
MOST_STARTS_WITHOUT_A_KILL = 4


@dataclass
class Killer:
    """Runs one command again and again, and kills what it names.

    Attributes:
        command: a `curate score` command whose --output is `run`.
        longest: seconds from its start until the driver is killed, at most.
        kills: what was killed, and what the folder held then.
    """

    command: list[str]
    run: Path
    rng: random.Random
    longest: float
    kills: list[str] = field(default_factory=list)

    def go(self, plan: list[str]) -> None:
        """Kill as planned (`driver`, `actor`, `writer`), then let the run end."""
        process = self._start()
        for what in plan:
            while not self._kill(process, what):
                if process.poll() is not None:
                    self._check_end(process)
                    process = self._start()
        for _ in range(MOST_STARTS_WITHOUT_A_KILL):
            if process.wait(SECONDS_TO_WAIT) == 0:
                return
            self._check_end(process)
            process = self._start()
        raise AssertionError(f"the run does not end: {self.kills}")

    def _kill(self, process: subprocess.Popen, what: str) -> bool:
        """Kill at a moment chosen at random; return whether the run was still there to be killed."""
        if what == "actor":
            victim = self._wait_for_actor(process)
        else:
            (self._wait_for_half_a_file if what == "writer" else self._wait_at_random)(process)
            victim = process if process.poll() is None else None
        if victim is None:
            return False
        try:
            victim.send_signal(signal.SIGSTOP)
            found = self._found()
            victim.kill()
        except psutil.NoSuchProcess:
            return False
        self.kills.append(f"{what} with {found}")
        if victim is process:
            process.wait()
        return True

    def _found(self) -> str:
        shards = len(list(self.run.glob("shards/*.json")))
        ranked = ", ranked" if (self.run / "manifest.parquet").exists() else ""
        return f"{shards} shards{ranked}" + (", half a file" if list(self.run.rglob(".*.tmp")) else "")

    def _start(self) -> subprocess.Popen:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        return subprocess.Popen(self.command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def _check_end(self, process: subprocess.Popen) -> None:
        """A run whose actors died too often says how to go on. One that was faster than the killer gets new work."""
        code = process.wait()
        if code == 0:
            (self.run / "run.json").unlink()
            records = sorted((self.run / "shards").glob("*.json"))
            for record in self.rng.sample(records, len(records) // 2):
                record.unlink()
        elif code != -signal.SIGKILL:
            assert process.stderr is not None
            assert b"go on with: curate score --resume" in process.stderr.read(), self.kills

    def _wait_at_random(self, process: subprocess.Popen) -> None:
        """Some seconds from the start of imports to well into the work."""
        until = time.monotonic() + self.rng.uniform(2, self.longest)
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

    def _wait_for_actor(self, process: subprocess.Popen) -> psutil.Process | None:
        until = time.monotonic() + SECONDS_TO_WAIT
        time.sleep(self.rng.uniform(0.2, 4))
        while time.monotonic() < until and process.poll() is None:
            if actors := actors_of(process.pid):
                return self.rng.choice(actors)
            time.sleep(0.1)
        return None


def actors_of(driver: int) -> list[psutil.Process]:
    """Processes below a driver that hold one of our workers: Ray's, and those forked from multiprocessing's server."""
    found = []
    for process in _children(driver):
        try:
            title, parent = _title(process), process.parent()
            forked = parent is not None and parent.pid != driver and _is_server(_title(parent))
        except psutil.Error:
            continue
        of_ray = title.startswith("ray::") and any(name in title for name in ("MapWorker", "FirstPassActor"))
        if of_ray or (forked and _is_server(title)):
            found.append(process)
    return found


def servers(driver: int) -> list[psutil.Process]:
    """The servers below a driver that fork its processes."""
    found = []
    for process in _children(driver):
        with contextlib.suppress(psutil.Error):
            if _is_server(_title(process)):
                found.append(process)
    return found


def _title(process: psutil.Process) -> str:
    return " ".join(process.cmdline())


def _is_server(title: str) -> bool:
    """Of the server that forks processes; those that it forks have the same title."""
    return "from multiprocessing.forkserver import main" in title


def planted(folder: Path, code: str) -> dict[str, str]:
    """An environment in which every process of a run starts with this code."""
    (folder / "sitecustomize.py").write_text(code)
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def wait_until(holds: Callable[[], bool], process: subprocess.Popen | None = None) -> None:
    """Wait until something holds, or the process ends; a busy machine has as long as it takes, a broken one not."""
    until = time.monotonic() + SECONDS_TO_WAIT
    while not holds() and (process is None or process.poll() is None):
        assert time.monotonic() < until, "it does not come about"
        time.sleep(0.02)


def ended(process: psutil.Process) -> bool:
    """Whether a process is gone, if only its parent has not looked after it yet."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
