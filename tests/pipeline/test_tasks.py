"""Tasks run once each, after those that they need, in processes that are used again; failures take no others along."""

import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import ray

from curate.errors import DataError
from curate.pipeline.connection import connected
from curate.pipeline.tasks import Failed, Task, _on_gpu, run_tasks


def note(folder: Path, name: str, after: tuple[str, ...]) -> tuple[int, bool]:
    """The process, and whether all that this came after had ended; a second call of the same name fails."""
    whole = all((folder / other).exists() for other in after)
    time.sleep(random.random() / 20)
    (folder / name).touch(exist_ok=False)
    return os.getpid(), whole


def fail(error: Exception) -> None:
    raise error


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A random DAG with failures in it, run two at a time."""
    folder = tmp_path_factory.mktemp("tasks")
    rng = random.Random(4)
    names = [f"task-{index}" for index in range(24)]
    tasks = []
    for index, name in enumerate(names):
        after = tuple(rng.sample(names[:index], min(index, rng.randrange(3))))
        tasks.append(Task(name, partial(note, folder, name, after), after))
    tasks += [
        Task("wrong data", partial(fail, DataError("row 7 is gone"))),
        Task("a bug", partial(fail, ValueError("first line\nsecond"))),
        Task("killed", die),
        Task("child", partial(note, folder, "child", ()), ("wrong data", "task-0")),
        Task("grandchild", partial(note, folder, "grandchild", ()), ("child",)),
    ]
    found: dict = {}

    def done(name: str, result) -> None:
        assert name not in found
        found[name] = result

    rng.shuffle(tasks)
    run_tasks(tasks, done, parallel=2)
    assert set(found) == {task.name for task in tasks}
    return folder, names, found


def test_each_runs_once_after_those_it_needs(results):
    folder, names, found = results
    assert all(found[name][1] for name in names)
    assert {path.name for path in folder.iterdir()} == set(names)


def test_processes_are_used_again(results):
    """What each imports would otherwise be imported by every task. Those that died do not come back."""
    _, names, found = results
    assert len({found[name][0] for name in names}) < len(names) / 3


def test_a_process_with_a_gpu_ends_with_its_task():
    """It would keep the GPU's memory from the next one, or compute on a GPU that is another task's by then."""
    with connected(None):
        call = _on_gpu.options(num_cpus=1, num_gpus=0)
        pids = [ray.get(call.remote(os.getpid, 1)) for _ in range(3)]
    assert len(set(pids)) == 3


def test_a_task_after_one_that_is_none_is_refused():
    with pytest.raises(ValueError, match="'nobody'"):
        run_tasks([Task("child", die, ("nobody",))], lambda name, result: None)


def test_a_failure_is_a_value_and_takes_only_its_dependants_along(results):
    _, _, found = results
    assert found["wrong data"] == Failed("row 7 is gone")
    assert found["a bug"] == Failed("ValueError: first line")
    assert not found["killed"].skipped
    assert found["killed"].reason.startswith("its process ended")
    assert found["child"] == Failed("wrong data failed", skipped=True)
    assert found["grandchild"] == Failed("child failed", skipped=True)
