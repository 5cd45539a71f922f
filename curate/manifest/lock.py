"""One writer at a time for each run folder."""

import contextlib
import fcntl
import json
import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from upath import UPath

from curate.errors import ConfigurationError, RunStopped
from curate.storage import local_path

LOCK = ".lock"
_SECONDS_BETWEEN_BEATS = 5.0
_MISSED_BEATS = 4


@contextlib.contextmanager
def locked(run: UPath) -> Iterator[None]:
    """Hold a run folder, which is made if need be, for writing.

    On this machine the kernel holds the lock and drops it when the process ends, however it ends. An object store
    has no locks: the holder writes a beat every few seconds, and whoever finds a beat that no longer changes takes
    over. No two clocks are compared. A holder that was only asleep finds its successor's beat and is interrupted.

    Raises:
        ConfigurationError: another process holds it, or the folder cannot be written.
        RunStopped: another process took it over.
    """
    local = local_path(run)
    with _lease(run) if local is None else _kernel_lock(local):
        yield


@contextlib.contextmanager
def _kernel_lock(run: Path) -> Iterator[None]:
    try:
        run.mkdir(parents=True, exist_ok=True)
        handle = os.open(run / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigurationError(f"--output {run} cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _held(run, os.read(handle, 200).decode(errors="replace").strip()) from error
        except OSError as error:
            raise ConfigurationError(f"--output {run}: its file system has no locks ({error.strerror})") from error
        with contextlib.suppress(OSError):  # a name for messages; on a full disk the lock holds without it
            os.ftruncate(handle, 0)
            os.pwrite(handle, _holder().encode(), 0)
        yield
    finally:
        os.close(handle)


class _TakenOver(KeyboardInterrupt):
    """Another process holds the run now."""


@contextlib.contextmanager
def _main_thread_interruptible() -> Iterator[Callable[[], None]]:
    """A function that raises `_TakenOver` in the main thread, whatever that waits for, if the caller runs in it."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def take_over(*_: object) -> None:
        raise _TakenOver

    # Not SIGINT, which a shell's background jobs ignore.
    before, thread = signal.signal(signal.SIGUSR1, take_over), threading.get_ident()
    try:
        yield lambda: signal.pthread_kill(thread, signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


@contextlib.contextmanager
def _lease(run: UPath) -> Iterator[None]:
    lock, ours, stop = run / LOCK, uuid.uuid4().hex, threading.Event()

    def beat(count: int) -> None:
        lock.write_text(json.dumps({"lease": ours, "beat": count, "holder": _holder()}))

    def keep_beating(interrupt: Callable[[], None]) -> None:
        count = 0
        while not stop.wait(_SECONDS_BETWEEN_BEATS):
            count += 1
            # A beat that the network lost is made good by the next.
            with contextlib.suppress(Exception):
                if not held():
                    interrupt()
                    return
                beat(count)

    def held() -> bool:
        return ours in (_read(lock) or "")

    _wait_for_silence(run, lock, stop)
    try:
        beat(0)
    except OSError as error:
        raise ConfigurationError(f"--output {run} cannot be written: {error}") from error
    # Of two that begin at the same moment, the one whose beat was written over gives way.
    stop.wait(_SECONDS_BETWEEN_BEATS / 5)
    if not held():
        raise _held(run, "another process")
    with _main_thread_interruptible() as interrupt:
        thread = threading.Thread(target=keep_beating, args=(interrupt,), daemon=True)
        thread.start()
        try:
            yield
        except _TakenOver:
            raise RunStopped(f"{run} was taken over by another process, which goes on with it; this one ends") from None
        finally:
            stop.set()
            thread.join()
            # A lock that cannot be removed stands still, and is taken over.
            with contextlib.suppress(Exception):
                if held():
                    lock.unlink(missing_ok=True)


def _wait_for_silence(run: UPath, lock: UPath, pause: threading.Event) -> None:
    """Return once there is no lock, or one whose beat stands still."""
    first = _read(lock)
    if first is None:
        return
    for _ in range(_MISSED_BEATS):
        pause.wait(_SECONDS_BETWEEN_BEATS)
        now = _read(lock)
        if now is None:
            return
        if now != first:
            raise _held(run, str(json.loads(now).get("holder", "another process")))


def _read(lock: UPath) -> str | None:
    try:
        lock.fs.invalidate_cache()
        # In one request: a file that is opened and then written over cannot be read on.
        data: Any = lock.fs.cat_file(lock.path)
        return data.decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{lock} cannot be read: {error}") from error


def _held(run: UPath | Path, holder: str) -> ConfigurationError:
    return ConfigurationError(
        f"{run} is being written by {holder or 'another process'}; wait for it to end, or choose another --output"
    )


def _holder() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
