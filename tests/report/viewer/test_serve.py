"""`curate view` as a process: what it says, what it refuses before it serves, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from upath import UPath

from curate.errors import ConfigurationError
from curate.manifest.annotations import ANNOTATIONS
from curate.manifest.record import MANIFEST
from curate.report.viewer import serve
from tests.command import refused

CURATE = [str(Path(sys.executable).with_name("curate"))]


def started(*arguments: object, **environment: str) -> tuple[subprocess.Popen[str], str]:
    """A viewer that answers, and its address."""
    process = subprocess.Popen(
        [*CURATE, "view", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert " on http://" in line, line
    return process, line.split(" on ")[1].split(" ")[0]


def test_it_serves_until_it_is_interrupted(run):
    process, address = started(run, "--port", 0, "--reviewer", "bob")
    page = httpx.get(address, timeout=None)
    assert page.status_code == 200
    answer = httpx.post(
        f"{address}samples/1/annotation", data={"decision": "drop"}, headers={"HX-Request": "true"}, timeout=None
    )
    assert answer.status_code == 200
    assert '"by": "bob"' in (run / ANNOTATIONS).read_text()
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    assert "Traceback" not in process.stderr.read()  # type: ignore[union-attr]


def test_elsewhere_than_on_this_machine_s_own_address_it_wants_a_token(run):
    process, address = started(run, "--host", "0.0.0.0", "--port", 0, CURATE_VIEW_TOKEN="team-token")
    try:
        port = httpx.URL(address).port
        here = f"http://127.0.0.1:{port}/"
        assert address.endswith("?token=team-token")
        assert httpx.get(here, timeout=None).status_code == 401
        with httpx.Client(follow_redirects=True, timeout=None) as client:
            page = client.get(f"{here}?token=team-token")
        assert (page.status_code, page.url) == (200, httpx.URL(here))
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    assert "team-token" not in process.stderr.read()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--annotations", "/nowhere/said.jsonl"], "there is no folder /nowhere"),
        (["--labels", "/nowhere.json"], "--labels /nowhere.json cannot be read"),
        (["--host", "203.0.113.7"], "--host 203.0.113.7"),
        (["--device", "cpu"], "--device goes with --explain"),
    ],
)
def test_what_cannot_work_is_refused_before_it_serves(run, arguments, error):
    refused(error, "view", run, "--port", 0, *arguments)


def test_a_port_that_is_taken_is_named(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(f"--port {port}: Address already in use; another --port, or 0", "view", run, "--port", port)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    refused("run.json", "view", tmp_path)


def test_a_damaged_file_of_annotations_is_refused(run):
    (run / ANNOTATIONS).write_text('{"sample_id": 1}\n')
    refused(f"{ANNOTATIONS}, line 1", "view", run, "--port", 0)


@pytest.mark.parametrize("library", ["uvicorn", "fastapi", "duckdb", "python_multipart", "jinja2"])
def test_without_the_report_group_it_says_what_to_install(run, library):
    code = "import sys; sys.modules[sys.argv.pop(1)] = None; from curate.cli.main import main; main()"
    command = [sys.executable, "-c", code, library, "view", str(run), "--port", "0"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == f"error: {library} is not installed: pip install 'curate[report]'\n"


def test_a_manifest_that_is_not_the_run_s_is_refused(run):
    with (run / MANIFEST).open("ab") as file:
        file.write(b"more")
    refused("is not the file that run.json describes", "view", run, "--port", 0)
    (run / MANIFEST).unlink()
    refused("manifest.parquet cannot be read", "view", run, "--port", 0)


def test_a_token_arrives_as_it_is_printed():
    assert serve._address("gpu-7", 8400, "a+b/c=") == "http://gpu-7:8400/?token=a%2Bb%2Fc%3D"


def test_who_decides_has_a_name(run, monkeypatch):
    refused("--reviewer: String should have at most 100", "view", run, "--port", 0, "--reviewer", "x" * 101)
    monkeypatch.setattr("getpass.getuser", lambda: {}["uid 12345"])
    refused("say who decides with --reviewer", "view", run, "--port", 0)


def test_a_run_elsewhere_is_looked_at_by_a_copy_of_its_manifest(run):
    elsewhere = UPath("memory://runs/one")
    elsewhere.mkdir(parents=True)
    (elsewhere / MANIFEST).write_bytes((run / MANIFEST).read_bytes())
    with serve._on_this_machine(elsewhere) as copy:
        assert copy.read_bytes() == (run / MANIFEST).read_bytes()
    assert not copy.exists()
    with pytest.raises(ConfigurationError, match="--annotations"):
        serve._annotations(elsewhere, None)
