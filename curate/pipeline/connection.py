"""Ray, started on this machine or reached elsewhere. Functions import it: the import takes a second."""

import contextlib
import functools
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curate.errors import ConfigurationError, first_line
from curate.pipeline.child import SETTINGS, inherited

_OBJECT_STORE_BYTES = 2 * 2**30
_SECONDS_TO_CONNECT = 10


@contextlib.contextmanager
def connected(address: str | None, actor_cpus: int = 0) -> Iterator[None]:
    """A connection to the cluster at the address, or a Ray of our own on this machine.

    Args:
        actor_cpus: logical CPUs for actors that our own Ray shall have beside the machine's, which stay free for
            preparation.

    Raises:
        ConfigurationError: nobody answers.
    """
    import ray

    # Read by Ray's own processes: no calls home, no native warnings among our lines.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        options |= {"num_cpus": (os.cpu_count() or 1) + actor_cpus, "include_dashboard": False}
        options |= {"object_store_memory": _OBJECT_STORE_BYTES}
    else:
        _check_reachable(address)
    # Ray puts its own in place, which exits at once.
    on_sigterm = signal.getsignal(signal.SIGTERM)
    # Its driver prints what befalls actors, which is mended or comes as an exception, where our JSON goes.
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            with _native_lines_hidden(), inherited({} if address else SETTINGS):
                ray.init(address=address or "local", **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = f"the Ray cluster at {address}" if address else "Ray on this machine"
            raise ConfigurationError(f"{where} did not answer: {first_line(error)}") from error
        try:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_sigterm)
            yield
        finally:
            ray.shutdown()


@functools.cache
def cluster_has_gpus(address: str) -> bool:
    """Whether any node of the cluster has a GPU now.

    Raises:
        ConfigurationError: nobody answers.
    """
    import ray

    with contextlib.nullcontext() if ray.is_initialized() else connected(address):
        return ray.cluster_resources().get("GPU", 0) > 0


@contextlib.contextmanager
def _native_lines_hidden() -> Iterator[None]:
    """Ray's native part prints that it was told not to print; errors of starting come as exceptions."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _check_reachable(address: str) -> None:
    """Ray itself would wait for minutes on an address where nobody answers."""
    if address.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"--address {address}: that is a dashboard, as `curate submit` takes; to compute on its cluster from here, "
            "give HOST:6379"
        )
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # `auto` and the like, which Ray resolves by itself
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_CONNECT).close()
    except OSError as error:
        raise ConfigurationError(f"--address {address}: no Ray cluster answers there ({error})") from error
