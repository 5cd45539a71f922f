"""Hashes of large files that are kept, so that nothing is read twice; and that a changed file is read again."""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from curate import demo, fingerprint
from curate.fingerprint import file_sha256, remembered_sha256
from curate.models.families import inspect_model
from curate.sae.load import inspect_dictionary


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.delenv("CURATE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprint, "REMEMBERED_BYTES", 100)
    monkeypatch.setattr(fingerprint, "_NS_UNTIL_SETTLED", -(10**15))  # files of tests are new
    return tmp_path / "cache" / "curate" / "hashes"


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """Names of the files that were read to hash them."""
    names: list[str] = []

    def counted(path: Path) -> str:
        names.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(fingerprint, "file_sha256", counted)
    return names


@pytest.fixture
def weights(tmp_path) -> Path:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(bytes(200))
    return file


def test_an_unchanged_file_is_read_once(cache, read, weights):
    assert remembered_sha256(weights) == remembered_sha256(weights) == file_sha256(weights)
    assert read == [weights.name]
    [entry] = cache.iterdir()
    assert json.loads(entry.read_text())["size"] == 200


def test_a_file_is_known_by_whatever_path_leads_to_it(cache, read, weights, tmp_path):
    (tmp_path / "link").symlink_to(weights)
    assert remembered_sha256(tmp_path / "link") == remembered_sha256(weights)
    assert read == ["link"]


def test_a_small_file_is_always_read(cache, read, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for _ in range(2):
        remembered_sha256(tmp_path / "config.json")
    assert len(read) == 2
    assert not cache.exists()


def _longer(file: Path) -> None:
    before = file.stat()
    file.write_bytes(bytes(201))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _touched(file: Path) -> None:
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))


def _other_content(file: Path) -> None:
    before = file.stat()
    file.write_bytes(bytes(199) + b"1")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replaced(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(bytes(199) + b"1")
    other.replace(file)


@pytest.mark.parametrize("change", [_longer, _touched, _other_content, _replaced])
def test_a_changed_file_is_read_again(cache, read, weights, change):
    remembered_sha256(weights)
    time.sleep(0.02)  # a tick of the file system's clock
    change(weights)
    assert remembered_sha256(weights) == file_sha256(weights)
    assert len(read) == 2
    remembered_sha256(weights)
    assert len(read) == 2


def test_the_hash_of_a_file_just_written_is_not_kept(cache, read, weights, monkeypatch):
    monkeypatch.setattr(fingerprint, "_NS_UNTIL_SETTLED", 2 * 10**9)
    for _ in range(2):
        remembered_sha256(weights)
    # A time that was set back, as by a copy that keeps times, makes a file no older.
    os.utime(weights, ns=(0, 0))
    remembered_sha256(weights)
    assert len(read) == 3
    assert not cache.exists()


def test_the_hash_of_a_file_that_changes_while_it_is_read_is_not_kept(cache, weights, monkeypatch):
    def slow(path: Path) -> str:
        digest = file_sha256(path)
        _longer(path)
        return digest

    monkeypatch.setattr(fingerprint, "file_sha256", slow)
    remembered_sha256(weights)
    assert not cache.exists()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"sha256": 3}', b"\xff\xfe"])
def test_a_damaged_entry_is_written_anew(cache, read, weights, damage):
    digest = remembered_sha256(weights)
    [entry] = cache.iterdir()
    whole = entry.read_bytes()
    for content in (damage, json.dumps({**json.loads(whole), "sha256": "x" * 64}).encode(), whole[:-1]):
        entry.write_bytes(content)
        assert remembered_sha256(weights) == digest
    assert len(read) == 4
    assert entry.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_done_without(cache, read, weights, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    assert remembered_sha256(weights) == file_sha256(weights)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert remembered_sha256(weights) == file_sha256(weights)
    assert len(read) == 2


def test_the_cache_may_lie_elsewhere(cache, read, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("CURATE_CACHE", str(tmp_path / "own"))
    remembered_sha256(weights)
    assert len(list((tmp_path / "own" / "hashes").iterdir())) == 1
    assert not cache.exists()


def test_an_entry_is_whole_or_absent_however_many_write_it(cache, weights):
    digest, wrong, stop = file_sha256(weights), [], threading.Event()

    def look() -> None:
        while not stop.is_set():
            for entry in cache.glob("*.json"):
                if json.loads(entry.read_text())["sha256"] != digest:
                    wrong.append(entry)

    def forget(_: int) -> str:
        for entry in cache.glob("*.json"):
            entry.unlink(missing_ok=True)
        return remembered_sha256(weights)

    with ThreadPoolExecutor(8) as pool:
        looking = pool.submit(look)
        try:
            assert set(pool.map(remembered_sha256, [weights] * 100)) == {digest}
        finally:
            stop.set()
        looking.result()
        assert set(pool.map(forget, range(100))) == {digest}
    assert not wrong
    assert [entry.suffix for entry in cache.iterdir()] == [".json"]


def test_weights_of_models_and_saes_are_read_once(cache, read):
    for _ in range(2):
        inspect_model(str(demo.MODEL))
        inspect_dictionary(str(demo.SAE))
    assert read.count("model.safetensors") == read.count("sae_weights.safetensors") == 1
