"""Ray, started here or reached elsewhere, with the resources that a run needs."""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from curate.errors import ConfigurationError, first_line
from curate.pipeline.job import Plan, ScoreJob

_BLOCK_BYTES = 32 * 2**20
_OBJECT_STORE_BYTES = 2 * 2**30
_SECONDS_TO_CONNECT = 10


@contextlib.contextmanager
def local_or_remote_ray(job: ScoreJob, the_plan: Plan) -> Iterator[None]:
    """A connection to the cluster named, or a Ray of our own on this machine."""
    # Read by Ray's own processes: no calls home, no native warnings among our lines.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if job.address is None:
        # Actors occupy a logical CPU each while they compute; the machine's own stay free for preparation.
        cores = os.cpu_count() or 1
        options |= {"num_cpus": cores + job.actors, "include_dashboard": False}
        options |= {"object_store_memory": _OBJECT_STORE_BYTES}
    else:
        _check_reachable(job.address)
    # Ray puts its own in place, which exits at once.
    on_sigterm = signal.getsignal(signal.SIGTERM)
    # Its driver prints what befalls actors, which is mended or comes as an exception, where our JSON goes.
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            with _native_lines_hidden():
                ray.init(address=job.address or "local", **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = f"the Ray cluster at {job.address}" if job.address else "Ray on this machine"
            raise ConfigurationError(f"{where} did not answer: {first_line(error)}") from error
        try:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_sigterm)
            _check_resources(job, the_plan)
            context = ray.data.DataContext.get_current()
            context.raise_original_map_exception = True
            context.enable_progress_bars = False
            context.print_on_execution_start = False
            context.target_max_block_size = _BLOCK_BYTES
            # It logs the traceback of what it raises.
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
            yield
        finally:
            ray.shutdown()


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
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # `auto` and the like, which Ray resolves by itself
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_CONNECT).close()
    except OSError as error:
        raise ConfigurationError(f"--address {address}: no Ray cluster answers there ({error})") from error


def _check_resources(job: ScoreJob, the_plan: Plan) -> None:
    have = ray.cluster_resources()
    need = {"CPU": job.actors + (job.prepare_workers or 1), "GPU": job.actors * the_plan.gpus_per_actor}
    for name, amount in need.items():
        if have.get(name, 0) < amount:
            raise ConfigurationError(
                f"the actors and workers need {amount:g} {name}s, and there are {have.get(name, 0):g}; "
                "lower --actors, --prepare-workers or --gpus-per-actor"
            )
