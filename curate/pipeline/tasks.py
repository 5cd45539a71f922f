"""Functions that depend on each other, as Ray tasks: each starts once those before it are done."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import ray
import torch
from ray.exceptions import RayError

from curate.errors import ConfigurationError, CurateError, first_line
from curate.pipeline.connection import connected
from curate.pipeline.resources import cluster_address

Takes = Literal["CPU", "GPU", "nothing"]


class Task(NamedTuple):
    """A piece of work.

    Attributes:
        run: called in a process of Ray's, so it and what it returns are pickled.
        after: names of the tasks that must have succeeded.
        takes: what of its node it has for itself; one that only waits for processes of its own takes nothing.
    """

    name: str
    run: Callable[[], Any]
    after: tuple[str, ...] = ()
    takes: Takes = "CPU"


class Failed(NamedTuple):
    """The end of a task that did not succeed, in one line; `skipped` where one before it did not."""

    reason: str
    skipped: bool = False


def run_tasks(
    tasks: Sequence[Task], done: Callable[[str, Any], None], parallel: int | None = None, address: str | None = None
) -> None:
    """Run tasks in the order given, as far as dependencies allow; one that fails takes only its dependants along.

    Processes are used again, so that what a task imports is imported once for each of those that run at a time;
    those with a GPU end with their task, as they give its memory back in no other way.

    Args:
        done: told of each task's end, in the order of their ends: its name and what it returned, or why it `Failed`.
        parallel: tasks at a time; by default as many as there are GPUs where a task takes one, else CPUs.
        address: of a running Ray cluster; by default that of RAY_ADDRESS, else Ray is started here.

    Raises:
        ConfigurationError: no cluster answers, or it has no GPU where a task takes one.
    """
    if not tasks:
        return
    known = {task.name for task in tasks}
    if missing := {name for task in tasks for name in task.after} - known:
        raise ValueError(f"tasks after {sorted(missing)}, which are none")
    with connected(cluster_address(address)):
        there, on_gpu = ray.cluster_resources(), any(task.takes == "GPU" for task in tasks)
        if on_gpu and there.get("GPU", 0) < 1:
            raise ConfigurationError("Ray sees no GPU, and the tasks take one each: give --device cpu, or an --address")
        at_once = parallel or int(there["GPU" if on_gpu else "CPU"])
        _run_all(list(tasks), done, at_once, _threads(at_once, int(there["CPU"])))


def _threads(at_once: int, cpus: int) -> int:
    """CPUs of one task: its share, if a node has as many."""
    largest_node = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    return max(1, min(cpus // at_once, largest_node))


def _run_all(waiting: list[Task], done: Callable[[str, Any], None], at_once: int, threads: int) -> None:
    succeeded: set[str] = set()
    failed: set[str] = set()
    running: dict[Any, Task] = {}

    def end(task: Task, result: Any) -> None:
        (failed if isinstance(result, Failed) else succeeded).add(task.name)
        done(task.name, result)

    while waiting or running:
        # Of a chain, each link finds the one before it in `failed`.
        for task in [task for task in waiting if failed.intersection(task.after)]:
            waiting.remove(task)
            end(task, Failed(f"{' and '.join(failed.intersection(task.after))} failed", skipped=True))
        ready = [task for task in waiting if succeeded.issuperset(task.after)]
        for task in ready[: at_once - len(running)]:
            waiting.remove(task)
            # Where a GPU is what is scarce, a share of the CPUs could keep a free one from being used.
            cpus = {"CPU": threads, "GPU": 1, "nothing": 0}[task.takes]
            on_gpu = task.takes == "GPU"
            remote = (_on_gpu if on_gpu else _on_cpu).options(num_cpus=cpus, num_gpus=int(on_gpu), name=task.name)
            running[remote.remote(task.run, threads)] = task
        if running:
            for reference in ray.wait(list(running))[0]:
                end(running.pop(reference), _result(reference))


def _run(run: Callable[[], Any], threads: int) -> Any:
    torch.set_num_threads(threads)
    try:
        return run()
    except CurateError as error:
        return Failed(str(error))
    # One task's fault, whatever it is, is no reason to lose the others' work; its line stands in the results.
    except Exception as error:
        return Failed(f"{type(error).__name__}: {first_line(error)}")


_on_cpu: Any = ray.remote(max_retries=1)(_run)
# To end with its call is for the decorator alone to say: with `options`, processes would go on holding their GPU.
_on_gpu: Any = ray.remote(max_retries=1, max_calls=1)(_run)


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayError as error:  # its process died, or ran out of memory, twice
        return Failed(f"its process ended: {first_line(error)}")
