"""An object in a process of its own: called from here, and replaced when its process dies.

All such processes are forked from one server, which imports once what they need, while this process opens its data.
A `ProcessPoolExecutor` would not do: it gives no answers in parts, and its locks live in /dev/shm, which may be tiny.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Hashable, Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]  # not in the stubs
from operator import attrgetter
from types import GeneratorType, ModuleType
from typing import Any, NamedTuple

from curate.errors import RunStopped, first_line
from curate.pipeline.watch import SuspectList, Watch

# Otherwise glibc gives the memory of large tensors back to the kernel, and takes it again page by page at each layer;
# and threads that wait for each other spin, which beside a busy process takes ten times as long as the work.
SETTINGS = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30), "OMP_WAIT_POLICY": "PASSIVE"}

# Deaths in a row that no sample in hand explains.
_MOST_BLAMELESS = 3

_context = multiprocessing.get_context("forkserver")


class ProcessDied(Exception):
    """The process ended before it had answered."""


class Answer(NamedTuple):
    """A part of an answer: what the method yielded or, with `last`, returned."""

    value: Any
    last: bool


def start_server() -> None:
    """Start the server of processes, if there is none; returns at once, while the server imports."""
    _context.set_forkserver_preload(["curate.pipeline.preload"])
    # Started first, for it lets signals through again. The server keeps Ctrl-C blocked: it would print where it was.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with inherited(SETTINGS):
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Child:
    """An object in a process of its own.

    Args:
        make: makes the object there, at the first call.
        name: what the process and those that replace it are known by.
        suspects: told of what these processes have in hand.

    Attributes:
        blameless: how many of them, one after the other, died with nothing in hand; set to 0 as work is done.
    """

    def __init__(self, make: Callable[[Watch], Any], name: Hashable, suspects: SuspectList) -> None:
        self._make, self._name, self._suspects = make, name, suspects
        self.blameless = 0
        self._start()

    def _start(self) -> None:
        start_server()
        self._connection, theirs = _context.Pipe()
        arguments = (theirs, self._make, self._name, dict(os.environ))
        self._process = _context.Process(target=_serve, args=arguments, daemon=True)
        with _without_main():
            self._process.start()
        theirs.close()
        self._in_hand: set[Hashable] = set()

    @property
    def pid(self) -> int:
        """Id of the process that is there now."""
        assert self._process.pid is not None, "a process that was not started"
        return self._process.pid

    @property
    def connection(self) -> Connection:
        """What answers come through, for `multiprocessing.connection.wait`; `replace` makes a new one."""
        return self._connection

    def ask(self, method: str, *arguments: Any) -> None:
        """Call a method of the object, or of its attribute as `attribute.method`; `answer` returns what comes of it.

        One call at a time.
        """
        with contextlib.suppress(OSError):  # it died, which `answer` tells
            _send(self._connection, (method, arguments))

    def answer(self) -> Answer | None:
        """Wait for the process's next message: a part of the answer, or None where it told what it has in hand.

        Raises:
            ProcessDied: the process ended.
            Exception: of the method, or of making the object.
        """
        try:
            kind, value = _receive(self._connection)
        except (EOFError, OSError) as error:
            self._process.join()
            raise ProcessDied(f"a process ended with exit code {self._process.exitcode}") from error
        if kind == "watch":
            self._tell(*value)
            return None
        if kind == "error":
            raise value
        return Answer(value, kind == "returned")

    def _tell(self, method: str, arguments: tuple, awaited: bool) -> None:
        """Hand the process's message to the list of suspects."""
        (self._in_hand.discard if method == "put_down" else self._in_hand.add)(arguments[0])
        known = getattr(self._suspects, method)(*arguments)
        if awaited:
            self.ask("", known)

    def call(self, method: str, *arguments: Any) -> Any:
        """What a method of the object returns; errors as of `answer`."""
        self.ask(method, *arguments)
        while (answer := self.answer()) is None or not answer.last:
            pass
        self.blameless = 0
        return answer.value

    def replace(self) -> None:
        """Start another process in place of this one.

        Raises:
            RunStopped: several in a row ended with nothing in hand, as another would.
        """
        self.blameless = 0 if self._in_hand else self.blameless + 1
        if self.blameless == _MOST_BLAMELESS:
            raise RunStopped(
                f"processes ended {self.blameless} times, with exit code {self._process.exitcode} and no sample to "
                "blame, as when memory does not suffice: take a machine with more"
            )
        self.close()
        self._start()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()


@contextlib.contextmanager
def inherited(settings: dict[str, str]) -> Iterator[None]:
    """What processes that are started now find in their environment, unless it says otherwise already."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep multiprocessing from running the user's script once more in each process."""
    own = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = own


def _send(connection: Connection, value: Any) -> None:
    """Send by plain pickle; torch would have multiprocessing send tensors through /dev/shm, which may be tiny."""
    connection.send_bytes(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))


def _receive(connection: Connection) -> Any:
    return pickle.loads(connection.recv_bytes())


class _Teller:
    """The list of suspects, kept at the other end of a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def take_up(self, key: Hashable) -> tuple[int, list[int]]:
        _send(self._connection, ("watch", ("take_up", (key,), True)))
        (known,) = _receive(self._connection)[1]
        return known

    def hold(self, key: Hashable, row: int) -> None:
        _send(self._connection, ("watch", ("hold", (key, row), False)))

    def put_down(self, key: Hashable) -> None:
        _send(self._connection, ("watch", ("put_down", (key,), False)))


def _serve(connection: Connection, make: Callable[[Watch], Any], name: Hashable, environment: dict[str, str]) -> None:
    """Answer calls until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    os.environ.clear()
    os.environ.update(environment)
    for descriptor in (1, 2):  # what libraries print would stand among the parent's lines
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    watch, served = Watch(_Teller(connection), name), None
    with contextlib.suppress(EOFError, OSError):
        while True:
            message = connection.recv_bytes()
            try:
                method, arguments = pickle.loads(message)
                if served is None:
                    served = make(watch)
                result = attrgetter(method)(served)(*arguments)
                if isinstance(result, GeneratorType):
                    result = _yielded(connection, result)
                _send(connection, ("returned", result))
            # Whatever it is, the other end is to know.
            except Exception as error:
                _send(connection, ("error", _portable(error)))


def _yielded(connection: Connection, generator: Any) -> Any:
    """Send what a generator yields; returns what it returns."""
    while True:
        try:
            _send(connection, ("yielded", next(generator)))
        except StopIteration as end:
            return end.value


def _portable(error: Exception) -> Any:
    """An error as it can be sent, with its traceback as its cause."""
    try:
        sent = ExceptionWithTraceback(error, error.__traceback__)
        pickle.loads(pickle.dumps(sent))  # some fail only there
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {first_line(error)}")
    return sent


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a process that was not started by this module"
    parent.join()
    os._exit(1)
