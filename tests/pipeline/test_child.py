"""An object in a process of its own: what it answers, how it ends with its parent, and what replaces it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from curate.errors import ConfigurationError, DataError, RunStopped
from curate.pipeline.child import Answer, Child, ProcessDied
from curate.pipeline.watch import STRIKES, SuspectList, Watch
from tests.faults.kills import ended, wait_until


class Thing:
    def __init__(self, watch: Watch) -> None:
        self.watch, self.inner = watch, [3, 1, 2]

    def where(self) -> int:
        return os.getpid()

    def count(self, n: int) -> Iterator[int]:
        yield from range(n)
        return "counted"

    def fail(self, error_class: type[Exception], *arguments: object) -> None:
        raise error_class(*arguments)

    def die(self, number: int, row: int) -> None:
        self.watch.hold("work", row)
        os.kill(os.getpid(), number)

    def tell(self, row: int) -> None:
        self.watch.hold("work", row)

    def end(self) -> None:
        os._exit(7)

    def sleep(self) -> None:
        time.sleep(600)


class Locked(Exception):
    """Cannot be pickled."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class OfTwo(Exception):
    """Is pickled, but not unpickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def broken(watch: Watch) -> None:
    raise DataError("nothing to make it from")


@pytest.fixture
def suspects():
    return SuspectList()


@pytest.fixture
def child(suspects):
    with closing(Child(Thing, "thing", suspects)) as made:
        yield made


def test_calls_and_generators_are_answered_by_another_process(child):
    assert child.call("where") == child.pid != os.getpid()
    child.ask("count", 2)
    assert [child.answer() for _ in range(3)] == [Answer(0, False), Answer(1, False), Answer("counted", True)]
    assert child.call("inner.index", 2) == 2
    assert child.call("count", 2) == "counted"


def test_errors_keep_their_class_where_they_can(child):
    for error in (DataError("row 7 is gone"), ConfigurationError("no such option"), KeyError("x"), OSError(28, "full")):
        with pytest.raises(type(error)) as caught:
            child.call("fail", type(error), *error.args)
        assert (type(caught.value), caught.value.args) == (type(error), error.args)
        assert "in fail" in str(caught.value.__cause__)
    for error_class, arguments, message in ((Locked, ("shut",), "Locked: shut"), (OfTwo, ("a", "b"), "OfTwo: a and b")):
        with pytest.raises(RuntimeError, match=message):
            child.call("fail", error_class, *arguments)
    with pytest.raises(AttributeError, match="nonsense"):
        child.call("nonsense")
    assert child.call("where") == child.pid


def test_what_a_process_has_in_hand_is_no_answer_and_holds_nobody_up(child, suspects):
    child.ask("tell", 5)
    assert child.answer() is None
    assert suspects.in_hand("work") == 5
    assert child.answer() == Answer(None, True)


def test_deaths_in_a_row_that_no_sample_explains_end(child):
    def end() -> None:
        with pytest.raises(ProcessDied, match="exit code 7"):
            child.call("end")

    for _ in range(2):
        end()
        child.replace()
    assert child.call("where") == child.pid  # which starts the count again
    for _ in range(2):
        end()
        child.replace()
    end()
    with pytest.raises(RunStopped, match="ended 3 times, with exit code 7 and no sample to blame"):
        child.replace()


def test_what_cannot_be_made_says_so_at_each_call():
    with closing(Child(broken, "thing", SuspectList())) as child:
        for _ in range(2):
            with pytest.raises(DataError, match="nothing to make it from"):
                child.call("where")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_process_is_told_and_replaced_and_what_it_had_in_hand_is_known(child, suspects, number):
    for deaths in range(STRIKES):
        pid = child.pid
        assert child.call("watch.take_up", "work") == (deaths, [])
        with pytest.raises(ProcessDied, match=f"exit code -{number}"):
            child.call("die", number, 7)
        with pytest.raises(ProcessDied):
            child.call("where")
        assert suspects.in_hand("work") == 7
        child.replace()
        assert child.call("where") == child.pid != pid
    assert child.call("watch.take_up", "work") == (STRIKES, [7])


PARENT = """
from curate.pipeline.child import Child
from curate.pipeline.watch import SuspectList
from tests.pipeline.test_child import Thing

idle, busy = (Child(Thing, name, SuspectList()) for name in ("idle", "busy"))
idle.call("where")
busy.ask("sleep")
print(idle.pid, busy.pid, flush=True)
busy.answer()
"""


def test_children_end_when_their_parent_is_killed():
    here = Path(__file__).parents[2]  # of this module, by its whole name
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=here, stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        server = children[0].parent()
        assert server is not None
        assert not any(map(ended, [*children, server]))
        parent.kill()
    wait_until(lambda: all(map(ended, [*children, server])))


SCRIPT = """
from curate.datasets import DatasetSpec
from curate.pipeline.job import ScoreJob
from curate.pipeline.score import score
from curate.scoring.parameters import ScoringParameters

with open("log", "a") as log:
    print("started", file=log)
job = ScoreJob(output="run", dataset=DatasetSpec(limit=20), parameters=ScoringParameters(metrics=("l0",)))
score(job, lambda step: None, lambda plan, rows: None)
"""


def test_a_script_that_scores_without_a_guard_runs_once(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log").read_text() == "started\n"
    assert (tmp_path / "run" / "manifest.parquet").exists()
