"""The viewer as a server."""

import getpass
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from pydantic import ValidationError
from upath import UPath

from curate.errors import ConfigurationError, DataError
from curate.fingerprint import file_sha256
from curate.interpret.labels import read_labels
from curate.manifest.annotations import ANNOTATIONS, Annotation
from curate.manifest.record import MANIFEST, RunRecord, read_record
from curate.report.pages import needs_report
from curate.report.samples import open_samples
from curate.storage import local_path

TOKEN_VARIABLE = "CURATE_VIEW_TOKEN"


@dataclass(frozen=True)
class ViewOptions:
    """How a run is looked at.

    Attributes:
        reviewer: who decides; by default the user.
        annotations: the file of pins, notes and decisions; by default in the run's folder.
        labels: a file of what features are called.
        explain: whether the run's model may be loaded, to explain scores; device: where.
        jobs: the address of a cluster's dashboard; None as `curate jobs` has it.
    """

    host: str = "127.0.0.1"
    port: int = 8400
    reviewer: str | None = None
    annotations: Path | None = None
    labels: Path | None = None
    explain: bool = False
    device: str = "auto"
    jobs: str | None = None


def serve(run: UPath, options: ViewOptions, ready: Callable[[str], None]) -> None:
    """Answer until Ctrl-C.

    Args:
        ready: is told the address, once the server answers there.

    Raises:
        ConfigurationError: the port is taken, the run cannot be annotated, or a library is not installed.
        DataError: there is no readable run.
    """
    try:
        import duckdb  # noqa: F401 - which the table imports where it is made
        import python_multipart  # noqa: F401 - which FastAPI asks for where a form is read
        import uvicorn

        from curate.report.viewer.app import build
        from curate.report.viewer.contents import Contents
        from curate.report.viewer.guard import is_loopback
        from curate.report.viewer.said import Said
        from curate.report.viewer.table import Table
        from curate.report.viewer.viewed import Viewed, stamp
    except ImportError as error:
        raise needs_report(error) from error
    record = read_record(run)
    labels = read_labels(options.labels) if options.labels else {}
    said = Said(_annotations(run, options.annotations), _reviewer(options.reviewer))
    explainer = None
    if options.explain:
        from curate.report.viewer.explanations import Explainer

        explainer = Explainer(run, options.device, labels)
    with _on_this_machine(run) as manifest, _bound(options) as bound:
        _check(manifest, record, run)
        viewed = Viewed(
            run=run,
            record=record,
            manifest=manifest,
            stamp=stamp(manifest),
            table=Table(manifest, record.metrics, record.counts.scored),
            contents=Contents(open_samples(record)),
            said=said,
            labels=labels,
            explainer=explainer,
            jobs=options.jobs,
        )
        viewed.annotations()  # or a damaged file of them would be found at the first page
        token = None
        if not is_loopback(options.host):
            token = os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(24)
        # Addresses may carry the token, so none are logged.
        config = uvicorn.Config(build(viewed, token), log_level="warning", access_log=False, server_header=False)
        server = uvicorn.Server(config)
        ready(_address(options.host, bound.getsockname()[1], token))
        server.run(sockets=[bound])


def _reviewer(name: str | None) -> str:
    try:
        found = name or getpass.getuser()
        Annotation(sample_id="0" * 32, by=found, at="")
    except (KeyError, OSError) as error:  # a container's user may have no name
        raise ConfigurationError("say who decides with --reviewer: your login has no name") from error
    except ValidationError as error:
        raise ConfigurationError(f"--reviewer: {error.errors()[0]['msg']}") from error
    return found


def _check(manifest: Path, record: RunRecord, run: UPath) -> None:
    """Nothing is shown that `run.json` does not describe."""
    try:
        same = file_sha256(manifest) == record.run_hash
    except OSError as error:
        raise DataError(f"{run / MANIFEST} cannot be read: {error.strerror}") from error
    if not same:
        raise DataError(f"{run / MANIFEST} is not the file that run.json describes; see curate verify")


def _annotations(run: UPath, file: Path | None) -> Path:
    folder = local_path(run)
    if file is None and folder is None:
        raise ConfigurationError(
            f"{run} is not on this machine: name a file for pins, notes and decisions, --annotations"
        )
    file = file or Path(str(folder)) / ANNOTATIONS
    if not file.parent.is_dir():
        raise ConfigurationError(f"--annotations {file}: there is no folder {file.parent}")
    return file


@contextmanager
def _on_this_machine(run: UPath) -> Iterator[Path]:
    """The manifest as a file, a copy of it if the run is elsewhere."""
    folder = local_path(run)
    if folder is not None:
        yield folder / MANIFEST
        return
    with tempfile.TemporaryDirectory(prefix="curate-view-") as copies:
        copy = Path(copies) / MANIFEST
        (run / MANIFEST).fs.get_file((run / MANIFEST).path, str(copy))
        yield copy


@contextmanager
def _bound(options: ViewOptions) -> Iterator[socket.socket]:
    """The socket, so that a taken port is found before anything else is done."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((options.host, options.port))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise ConfigurationError(
                f"--host {options.host} --port {options.port}: {why}; another --port, or 0 for a free one"
            ) from error
        bound.listen()
        yield bound


def _address(host: str, port: int, token: str | None) -> str:
    named = socket.gethostname() if host in ("", "0.0.0.0", "::") else host
    shown = f"[{named}]" if ":" in named else named
    return f"http://{shown}:{port}/" + (f"?{urlencode({'token': token})}" if token else "")
