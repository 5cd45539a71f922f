"""A cluster of real Ray nodes on this machine, each in a network namespace of its own where the machine allows."""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

RAY = Path(sys.executable).parent / "ray"
MARK = "CURATE_TEST_NODE"
GCS, DASHBOARD, METRICS = 6379, 8265, 8090
_SECONDS_TO_WAIT = 600


@dataclass(frozen=True)
class Node:
    """One node: everything that its `ray start` left running.

    Attributes:
        enter: what a command begins with to run on it.
    """

    name: str
    ip: str
    enter: tuple[str, ...]

    def processes(self) -> list[psutil.Process]:
        """Raylet, agents and workers, told apart from other nodes' by a mark in their environment."""
        marked = [process for process in psutil.process_iter() if _mark(process) == self.name]
        # Some write their title over their environment.
        return list({*marked, *(child for process in marked for child in _children(process))})

    def kill(self) -> None:
        """End it as a power cut would."""
        for _ in range(2):  # a raylet may be starting a worker
            for process in self.processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


@dataclass(frozen=True)
class Cluster:
    """Running nodes, the head first.

    Attributes:
        environment: what clients need.
    """

    nodes: list[Node]
    environment: dict[str, str]

    @property
    def address(self) -> str:
        """For `ray.init` and `curate score --address`."""
        return f"{self.nodes[0].ip}:{GCS}"

    @property
    def dashboard(self) -> str:
        """For the Jobs API."""
        return f"http://{self.nodes[0].ip}:{DASHBOARD}"

    @property
    def metrics(self) -> str:
        """What the head node exports for Prometheus."""
        return f"http://{self.nodes[0].ip}:{METRICS}/metrics"


@contextlib.contextmanager
def cluster(cpus: Sequence[float], resources: Sequence[str] = (), store_bytes: int = 200 * 2**20) -> Iterator[Cluster]:
    """Nodes with so many CPUs each; `resources`, as JSON, are the custom ones of each."""
    name = f"c{os.getpid()}"
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    temporary = Path(tempfile.mkdtemp(prefix="cr", dir="/tmp"))
    with _networks(name, len(cpus)) as networks:
        nodes = [Node(f"{name}n{index}", ip, tuple(enter)) for index, (ip, enter) in enumerate(networks)]
        try:
            for index, node in enumerate(nodes):
                head = ["--head", f"--port={GCS}", "--dashboard-host=0.0.0.0", f"--dashboard-port={DASHBOARD}"]
                place = (
                    [*head, f"--metrics-export-port={METRICS}"] if index == 0 else [f"--address={nodes[0].ip}:{GCS}"]
                )
                custom = [f"--resources={resources[index]}"] if resources else []
                sizes = [f"--num-cpus={cpus[index]}", f"--object-store-memory={store_bytes}", *custom]
                _start(
                    [
                        *node.enter,
                        str(RAY),
                        "start",
                        *place,
                        f"--node-ip-address={node.ip}",
                        # As machines have: nodes that share one remove each other's working folders of jobs.
                        f"--temp-dir={temporary / str(index)}",
                        *sizes,
                        "--disable-usage-stats",
                    ],
                    {**environment, MARK: node.name},
                )
            yield Cluster(nodes, environment)
        finally:
            for node in nodes:
                node.kill()
            shutil.rmtree(temporary, ignore_errors=True)


def _start(command: list[str], environment: Mapping[str, str]) -> None:
    result = subprocess.run(
        command,
        # As in an image, `python` is the one that curate is installed for.
        env={**os.environ, **environment, "PATH": f"{RAY.parent}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS_TO_WAIT,
    )
    assert result.returncode == 0, result.stdout[-2000:]


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def _mark(process: psutil.Process) -> str | None:
    with contextlib.suppress(psutil.Error, OSError):
        return process.environ().get(MARK)
    return None


@contextlib.contextmanager
def _networks(name: str, count: int) -> Iterator[list[tuple[str, list[str]]]]:
    """An address for each node, and the command prefix that puts a process there.

    Where namespaces cannot be made, all nodes are at 127.0.0.1.
    """
    subnet = f"10.231.{os.getpid() % 250}"
    spaces = [f"{name}n{index}" for index in range(count)]
    try:
        _ip("link", "add", name, "type", "bridge")
    except (OSError, subprocess.CalledProcessError):
        yield [("127.0.0.1", [])] * count
        return
    try:
        _ip("address", "add", f"{subnet}.254/24", "dev", name)
        _ip("link", "set", name, "up")
        for index, space in enumerate(spaces):
            _ip("netns", "add", space)
            _ip("link", "add", f"v{space}", "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", f"v{space}", "master", name, "up")
            _ip("-n", space, "address", "add", f"{subnet}.{index + 1}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", space, "link", "set", device, "up")
        yield [(f"{subnet}.{index + 1}", ["ip", "netns", "exec", space]) for index, space in enumerate(spaces)]
    finally:
        for space in spaces:
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("link", "delete", f"v{space}")
                _ip("netns", "delete", space)
        _ip("link", "delete", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def wait_until(holds: Callable[[], object]) -> None:
    """Until `holds()` is true; fails after a time that only what hangs takes."""
    until = time.monotonic() + _SECONDS_TO_WAIT
    while not holds():
        assert time.monotonic() < until, f"not within {_SECONDS_TO_WAIT} s"
        time.sleep(0.2)
