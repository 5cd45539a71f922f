"""The house rules that code can check: who imports whom, what stays light, schemas that are current."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile import page
from tests.schemas import SCHEMAS, render

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "curate"
# In a process of its own, for `curate sae import` alone.
READS_PICKLES = PACKAGE / "sae" / "unpickle.py"
# From the top down; a room imports only from lower floors, or from itself.
FLOORS = [
    {"cli"},
    {"report"},
    {"jobs"},
    {"experiments", "interpret"},
    {"training", "evaluation"},
    {"pipeline"},
    {"harvest"},
    {"scoring"},
    {"demo"},
    {"datasets", "models", "sae", "metrics", "manifest"},
    {"hub", "fingerprint", "sample", "storage", "palette"},
    {"errors"},
]
# The recipe in demo/ trains with what scoring uses; its constants are what pipeline and cli name.
EXCEPTIONS = {("demo", "scoring")}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "curate":
            found.update(f"curate.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def floor(room: str) -> int:
    return next(index for index, rooms in enumerate(FLOORS) if room in rooms)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downward_only(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return
    for module in imports(path):
        parts = module.split(".")
        if (
            parts[0] != "curate"
            or len(parts) < 2
            or parts[1] == "__version__"
            or parts[1] == room
            or (room, parts[1]) in EXCEPTIONS
        ):
            continue
        below = floor(parts[1]) > floor(room)
        # Within the core floor, only hashing of files that a room owns crosses; rooms know nothing of each other.
        assert below, f"{room} imports {module}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "metrics").glob("*.py")), ids=lambda path: path.name)
def test_metrics_know_tensors_only(path):
    outside = {module.split(".")[0] for module in imports(path)} - {"curate"}
    assert outside <= {*sys.stdlib_module_names, "torch", "jaxtyping", "pydantic"}


def test_the_core_imports_without_ray_and_without_sae_lens():
    code = """
import sys
sys.modules["ray"] = None
import curate.datasets, curate.models, curate.sae.dictionary, curate.metrics.weights, curate.manifest.select
import curate.manifest.verify, curate.manifest.weights, curate.scoring.scorer, curate.scoring.weights_pass
import curate.interpret.explain, curate.interpret.features, curate.interpret.patches.study, curate.interpret.probe.study
import curate.interpret.steer.study, curate.report.explanation, curate.report.features, curate.report.patches
import curate.report.probe, curate.report.steer, curate.report.html.gather, curate.report.html.page
import curate.manifest.compare, curate.manifest.annotations, curate.manifest.listing
print("sae_lens" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "False"


def test_to_describe_a_model_imports_no_model_code():
    code = """
import sys
from curate import demo
from curate.models import inspect_model
inspect_model(str(demo.MODEL))
print("transformers.modeling_utils" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "False"


def test_nothing_loads_pickles_or_remote_code():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert "trust_remote_code" not in text, path
        assert "import pickle" not in text, path
        loads = re.findall(r"torch\.load\([^)]*\)", text)
        assert text.count("torch.load") == len(loads), f"{path}: so that each call is seen"
        if path != READS_PICKLES:
            assert not loads, path
        assert all("weights_only=True" in load for load in loads), path


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_those_of_the_models(name):
    assert (ROOT / "schemas" / name).read_text() == render(name), "run make generated"


def test_the_page_of_bad_data_is_that_of_the_kinds():
    text = page.PAGE.read_text()
    assert text == page.with_tables(text), "run make generated"
