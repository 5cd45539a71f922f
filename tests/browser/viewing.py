"""`curate view` as a user starts and ends it."""

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tests.cli.test_cli import CURATE

NOWHERE = "http://127.0.0.1:1"
_SECONDS_TO_START = 60


class Viewer(NamedTuple):
    """A server that answers at an address, which ends with a slash."""

    address: str
    process: subprocess.Popen

    def end(self) -> None:
        """As Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(30) == 0


@contextmanager
def viewer(run: object, *options: object, **environment: str) -> Iterator[Viewer]:
    """Look at a run, on a free port; the server says where it answers, and, until it is ended, nothing more."""
    # Ray, started by tests in this process, leaves its settings in the environment.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CURATE_", "RAY_"))}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [str(CURATE), "view", str(run), "--port", "0", *map(str, options)],
            # Somebody else may have a cluster on this machine.
            env={**clean, "HF_HUB_OFFLINE": "1", "RAY_API_SERVER_ADDRESS": NOWHERE, **environment},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        try:
            server = Viewer(_address(process, said), process)
            yield server
            if process.poll() is None:
                server.end()
            assert _text(said).count("\n") == 2, _text(said)  # the second is after the terminal's ^C
        finally:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen, said) -> str:
    until = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r" on (http://\S+) \(Ctrl-C ends it\)\n", _text(said)):
            return found[1]
        time.sleep(0.05)
    raise AssertionError(f"curate view did not start: {_text(said)}")


def _text(said) -> str:
    return os.pread(said.fileno(), 1 << 20, 0).decode()
