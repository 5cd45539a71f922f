"""Every command in the documentation, run as printed, by a team that has configured its SAE."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from curate.cli.main import app
from tests.cluster.nodes import cluster

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BIN = Path(sys.executable).parent


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


def commands(page: Path) -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks(page, "bash") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(("make ", "source "))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_has_only_options_that_there_are(page):
    """Also those that are not run, as they need a model of a user's; `…` stands for what they name."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.S | re.M)
    text = "\n".join(block for language, block in fenced if language in ("", "bash")).replace("\\\n", " ")
    for line in text.splitlines():
        if not line.startswith("curate "):
            continue
        words = shlex.split(line.partition(" > ")[0].replace("…", "x"), comments=True)
        command: Any = typer.main.get_command(app)
        words = words[1:]
        while words and words[0] in getattr(command, "commands", {}):
            command, words = command.commands[words[0]], words[1:]
        try:
            command.make_context(command.name, words)
        except Exception as error:
            raise AssertionError(f"{line}: {error}") from error


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_runs_as_printed(page, tmp_path):
    """`make demo` and `make test` are CI's own way in; all else is run here."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CURATE_")}
    environment |= {"HOME": str(tmp_path), "PATH": f"{BIN}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)

    with contextlib.ExitStack() as stack:
        if "curate submit" in page.read_text():
            nodes = stack.enter_context(cluster(cpus=(3,)))
            environment |= {**nodes.environment, "RAY_API_SERVER_ADDRESS": nodes.dashboard}
        _run_all(page, tmp_path, environment, run)


def _run_all(page: Path, tmp_path: Path, environment: dict[str, str], run) -> None:
    assert run("curate demo export team --samples 40").returncode == 0
    # The configured team of the README: its SAE, and here also where its data and model are.
    environment["CURATE_SCORE_SAE"] = str(tmp_path / "team" / "sae")
    environment["CURATE_SCORE_MODEL"] = str(tmp_path / "team" / "model")
    for command in commands(page):
        assert command.startswith("curate "), command
        if command.startswith("curate view "):
            _view(command, tmp_path, environment)
            continue
        plain = "--dataset align-anything" in command and "--data-dir" not in command
        result = run(command + (" --data-dir team/data" if plain else ""))
        assert result.returncode == 0, (command, result.stderr)
    for code in blocks(page, "python"):
        result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


def _view(command: str, folder: Path, environment: dict[str, str]) -> None:
    """What serves until it is interrupted: it does, and answers."""
    words = shlex.split(command)
    viewer = subprocess.Popen(words, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    assert viewer.stderr is not None
    address = re.search(r"http://\S+", viewer.stderr.readline())
    assert address, command
    assert httpx.get(address.group(), follow_redirects=True, timeout=None).status_code == 200
    viewer.send_signal(signal.SIGINT)
    assert viewer.wait() == 0


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        assert set(re.findall(r"\bmake ([\w-]+)", "\n".join(blocks(page, "bash")))) <= targets, page


def test_the_quarantine_table_names_every_error():
    from curate import errors

    kinds = {kind.__name__ for kind in errors.SampleError.__subclasses__()}
    assert set(re.findall(r"^\| `(\w+)` \| \w", (ROOT / "docs" / "data.md").read_text(), re.M)) == kinds
