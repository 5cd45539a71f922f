"""The house rules that code can check: who imports whom, what stays light, schemas that are current."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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
# What a job is asked in, and refused with, imports none of these.
HEAVY = [
    *("torch", "transformers", "ray", "datasets", "pandas", "scipy", "sklearn", "matplotlib", "sae_lens", "accelerate"),
    *("peft", "huggingface_hub"),
]
LOCK, TEST_LOCK = "requirements.lock", "requirements-test.lock"
RUNNING = ("aws", "judge", "report", "s3")  # the extras that the lock has
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
import curate.manifest.compare, curate.manifest.annotations, curate.manifest.listing, curate.pipeline.plan
import curate.training.plan, curate.interpret.probe.plan, curate.evaluation.plan, curate.harvest.plan
print("sae_lens" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "False"


def test_the_jobs_of_all_verbs_import_nothing_heavy():
    code = f"""
import sys
import curate.cli.main, curate.jobs.files, curate.metrics, curate.sae.known
print(*sorted(set({HEAVY}) & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


def test_to_describe_a_model_imports_no_model_code():
    code = """
import sys
from curate import demo
from curate.models.families import inspect_model
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
        # What a child is sent comes from its parent, and the other way round; no file is read.
        assert "import pickle" not in text or path == PACKAGE / "pipeline" / "child.py", path
        loads = re.findall(r"torch\.load\([^)]*\)", text)
        assert text.count("torch.load") == len(loads), f"{path}: so that each call is seen"
        if path != READS_PICKLES:
            assert not loads, path
        assert all("weights_only=True" in load for load in loads), path


def pins(lock: str) -> set[str]:
    """Names of the packages that a lock pins."""
    return {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", (ROOT / lock).read_text(), re.M)}


def needed(requirements: list[str], extra: str = "") -> set[str]:
    """Names of what these requirements install, through all that those require."""
    found: set[tuple[str, str]] = set()
    steps = [(requirements, extra)]
    while steps:
        texts, extra = steps.pop()
        for requirement in map(Requirement, texts):
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            name = canonicalize_name(requirement.name)
            for each in {(name, wanted) for wanted in ("", *requirement.extras)} - found:
                found.add(each)
                steps.append((requires(name) or [], each[1]))
    return {name for name, _ in found}


def test_all_that_curate_imports_is_in_the_lock():
    modules = {module.split(".")[0] for path in PACKAGE.rglob("*.py") for module in imports(path)}
    outside = modules - {"curate", *sys.stdlib_module_names}
    packages = packages_distributions()
    assert {module for module in outside if not {*map(canonicalize_name, packages[module])} & pins(LOCK)} == set()


def test_the_locks_pin_all_that_is_needed_once():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    running = [*project["dependencies"], *(each for name in RUNNING for each in extras[name])]
    assert needed(running) <= pins(LOCK)
    testing = [each for each in extras["dev"] if not each.startswith("curate[")]
    assert needed(testing) <= pins(LOCK) | pins(TEST_LOCK)
    assert not pins(LOCK) & pins(TEST_LOCK)
    assert not pins(TEST_LOCK) & needed(running)


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_those_of_the_models(name):
    assert (ROOT / "schemas" / name).read_text() == render(name), "run make generated"


def test_the_page_of_bad_data_is_that_of_the_kinds():
    text = page.PAGE.read_text()
    assert text == page.with_tables(text), "run make generated"
