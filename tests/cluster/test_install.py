"""A job on a cluster whose nodes have nothing: the package and its lock come along."""

import json
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.cli.test_cli import curate
from tests.cluster.nodes import RAY, wait_until
from tests.pipeline.small import failing

ROOT = Path(__file__).parent.parent.parent
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 2}


def free_ports(count: int) -> list[int]:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


@pytest.mark.slow
def test_a_submitted_job_brings_what_it_needs(tmp_path, monkeypatch):
    """`pip` needs the network here, which nodes in namespaces of their own have not."""
    for name, value in TOKEN.items():
        monkeypatch.setenv(name, value)
    gcs, dashboard, agent = free_ports(3)
    short = tempfile.mkdtemp(prefix="cr", dir="/tmp")  # paths of sockets may have 107 characters
    sizes = ["--num-cpus=4", "--object-store-memory=200000000", "--disable-usage-stats", f"--temp-dir={short}"]
    ports = [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    command = [str(RAY), "start", "--head", "--block", "--node-ip-address=127.0.0.1", *ports, *sizes]
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    head = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        place = ("--address", f"http://127.0.0.1:{dashboard}")
        wait_until(lambda: curate("jobs", *place, cwd=tmp_path, **TOKEN).returncode == 0)
        result = curate("submit", "jobs/score.yaml", *place, "--json", cwd=tmp_path, **TOKEN)
        assert result.returncode == 0, result.stderr
        job = json.loads(result.stdout)[0]["id"]
        followed = curate("logs", "-f", job, *place, cwd=tmp_path, **TOKEN)
        assert followed.returncode == 0, followed.stdout + followed.stderr
        assert "200 scored + 0 quarantined = 200 read" in followed.stdout
        assert failing(tmp_path / "runs" / "demo-job") == {}
    finally:
        head.terminate()
        head.wait()
        shutil.rmtree(short, ignore_errors=True)
