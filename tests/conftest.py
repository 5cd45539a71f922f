import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import settings
from upath import UPath

from curate import demo
from curate.datasets import DatasetSpec, open_dataset
from curate.models.families import inspect_model
from curate.sae.load import inspect_dictionary, load_dictionary
from curate.scoring.prepare import Prepared, prepare

SAMPLES = 200  # of the run that tests share

# Several processes test at once: threads that wait for each other would take the time of those that work.
torch.set_num_threads(1)
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # of the processes that tests start

# Hashes of models that tests write are no business of the user's cache.
_CACHE = tempfile.TemporaryDirectory(prefix="curate-cache-")
os.environ["CURATE_CACHE"] = _CACHE.name

# Which pytest-xdist sets, and consoles keep: tests say how wide theirs are.
os.environ.pop("COLUMNS", None)

# Other people's machines are busy: an example that takes long is no fault.
settings.register_profile("default", deadline=None)
settings.register_profile("thorough", deadline=None, max_examples=50 * settings.get_profile("default").max_examples)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real photographs in the public data sets' layouts."""
    path = os.environ.get("CURATE_REAL_DATA")
    if not path:
        pytest.skip("CURATE_REAL_DATA names no folder with real data")
    return Path(path)


@pytest.fixture(scope="session")
def demo_info():
    return inspect_model(str(demo.MODEL))


@pytest.fixture(scope="session")
def demo_builder(demo_info):
    return demo_info.family.load_builder(demo_info)


@pytest.fixture(scope="session")
def demo_cut(demo_info):
    return demo_info.family.load_model(demo_info, demo.HOOK_LAYER, torch.float32, "cpu")


@pytest.fixture(scope="session")
def demo_dictionary():
    return load_dictionary(inspect_dictionary(str(demo.SAE)))


@pytest.fixture(scope="session")
def demo_prepared(demo_builder) -> list[Prepared]:
    """The first 200 demo samples, as the model takes them."""
    return prepared(DatasetSpec(limit=200), demo_builder)


@pytest.fixture(scope="session")
def real_prepared(real_data, demo_builder) -> list[Prepared]:
    """The real photographs' 87 samples, as the demo model takes them."""
    spec = DatasetSpec(name="align-anything", data_dir=real_data / "align_anything", split="all")
    return prepared(spec, demo_builder)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, worker_id) -> Callable[[str, Callable[[Path], object]], Path]:
    """A new folder, filled by the first of the processes that test, and looked at by all of them."""

    def made(name: str, fill: Callable[[Path], object]) -> Path:
        own = tmp_path_factory.getbasetemp()
        folder = (own if worker_id == "master" else own.parent) / name
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                folder.mkdir()
                try:
                    fill(folder)
                except BaseException:
                    shutil.rmtree(folder)  # or others would take it for whole
                    raise
        return folder

    return made


@pytest.fixture(scope="session")
def scored_run(made_once) -> UPath:
    """A run over 200 demo samples, with every metric that is a sum over features."""
    from curate.pipeline.job import ScoreJob
    from curate.pipeline.score import score

    def fill(folder: Path) -> None:
        job = ScoreJob(output=str(folder / "run"), dataset=DatasetSpec(limit=SAMPLES))
        assert score(job, lambda step: None, lambda plan, rows: None).counts.scored == SAMPLES

    return UPath(made_once("scored", fill) / "run")


@pytest.fixture(scope="session")
def hub(made_once) -> Path:
    """A small cache of the hub: what HF_HOME names. See `tests.hub`."""
    from tests.hub import write_hub

    given = os.environ.get("CURATE_REAL_DATA")
    return made_once("hub", lambda folder: write_hub(folder / "home", Path(given) if given else None)) / "home"


def prepared(spec: DatasetSpec, builder) -> list[Prepared]:
    dataset = open_dataset(spec)
    rows = list(prepare(dataset.samples(range(len(dataset))), builder, "prompt+chosen"))
    assert all(isinstance(row, Prepared) for row in rows)
    return rows  # type: ignore[return-value]
