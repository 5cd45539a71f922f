"""Whether a run can be kept somewhere: storage that keeps its promises, and storage that breaks one of them."""

import fcntl
from pathlib import Path
from tempfile import gettempdir

import pytest

from curate.manifest import fitness, lock
from curate.manifest.atomic import LITTER
from curate.manifest.fitness import commit_seconds, room, unfit
from curate.storage import location


def test_a_good_folder_is_fit_and_stays_as_it_was(tmp_path):
    for run in (tmp_path, tmp_path / "not" / "there" / "yet"):
        assert unfit(location(str(run))) is None
        assert 0 < commit_seconds(location(str(run))) < 60
    assert list(tmp_path.iterdir()) == []
    assert room(location(str(tmp_path / "run")), rows=1000).needed == 700_000
    assert room(location(str(tmp_path / "run")), rows=1000).free > 0


def test_a_doctor_that_is_killed_leaves_what_a_run_removes():
    assert LITTER.fullmatch(fitness._trial_name())


def test_locks_that_do_not_hold_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert "lets two processes hold one lock" in str(unfit(location(str(tmp_path / "run"))))
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_found(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert "has no locks (Operation not supported)" in str(unfit(location(str(tmp_path / "run"))))


@pytest.mark.parametrize("fault", ["keeps the old content", "leaves the temporary name"])
def test_a_rename_that_does_not_replace_is_found(tmp_path, monkeypatch, fault):
    def replace(self, target):
        if fault == "leaves the temporary name" or not Path(target).exists():
            Path(target).write_bytes(self.read_bytes())
        if fault == "leaves the temporary name":
            Path(target).with_name("left").write_bytes(b"")

    monkeypatch.setattr(Path, "replace", replace)
    assert "does not give back what was written to it" in str(unfit(location(str(tmp_path / "run"))))


def test_a_disk_that_cannot_sync_is_found(tmp_path, monkeypatch):
    def fsync(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", fsync)
    assert "cannot hold a run (Input/output error)" in str(unfit(location(str(tmp_path / "run"))))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_found(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot hold a run" in str(unfit(location(str(tmp_path / "file" / "run"))))


def test_an_object_store_is_tried_by_its_own_rules(monkeypatch):
    monkeypatch.setattr(lock, "_SECONDS_BETWEEN_BEATS", 0.2)
    store = location("memory://store/run")
    store.parent.mkdir(parents=True, exist_ok=True)
    assert unfit(store) is None
    assert [path for path in store.parent.iterdir() if path.name.startswith(".curate-trial")] == []
    # There ranking still sorts in this machine's folder for temporary files.
    assert room(store, rows=1000).needed == 250_000
    assert room(store, rows=1000).folder == Path(gettempdir())
    monkeypatch.setattr(fitness, "locked", lambda _: __import__("contextlib").nullcontext())
    assert "lets two processes hold one lock" in str(unfit(store))
