"""Data and run on an S3-speaking server on this machine, against the same on disk."""

import json
import shutil
import time
import uuid

import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from curate.datasets import DatasetSpec, open_dataset
from curate.errors import ConfigurationError, RunStopped
from curate.manifest import lock
from curate.manifest.ledger import read_ledger, shard_file
from curate.manifest.lock import locked
from curate.manifest.quarantine import quarantined_rows
from curate.manifest.select import SelectJob, select
from curate.storage import location
from tests.pipeline.small import content, failing, job, run


@pytest.fixture
def bucket(monkeypatch):
    """An empty bucket; credentials and address are in the environment, which workers inherit."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "not-a-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    location("s3://").fs.clear_instance_cache()
    folder = location(f"s3://{uuid.uuid4()}")
    folder.mkdir()
    yield folder
    server.stop()


def upload(local, remote) -> None:
    for path in local.rglob("*"):
        if path.is_file():
            (remote / path.relative_to(local).as_posix()).write_bytes(path.read_bytes())


def test_a_run_on_an_object_store_is_resumed_there_and_ends_as_on_disk(whole, bucket):
    upload(whole / "data", bucket / "data")
    begun = bucket / "run"
    for part in ("inputs.json", "weights"):
        source = whole / "run" / part
        if source.is_file():
            (begun / part).write_bytes(source.read_bytes())
        else:
            upload(source, begun / part)
    shards = read_ledger(whole / "run")
    for start in (0, 20):
        data = shard_file(whole / "run", shards[start]).read_bytes()
        shard_file(begun, shards[start]).write_bytes(data)
        (begun / "shards" / f"{shards[start].name}.json").write_text(shards[start].model_dump_json())
    # A shard that was uploaded without its record does not count.
    shard_file(begun, shards[30]).write_bytes(b"half")
    dataset = DatasetSpec(name=str(bucket / "data" / "data.jsonl"))
    record, rows = run(job(str(begun), None, dataset=dataset))
    assert rows == (20, 20, 40)
    assert record.status == "complete"
    assert content(begun) == content(whole / "run")
    assert failing(begun) == {}
    assert [row["source_row"] for row in quarantined_rows(begun)] == [7, 25]
    folder, selection = select(SelectJob(run=str(begun), by="l0", top=5))
    assert selection.selected == 5
    assert {path.name for path in folder.iterdir()} == {"selection.parquet", "selection.json"}
    assert not (begun / ".lock").exists()
    assert "not-a-secret" not in (begun / "run.json").read_text()
    # A shard that is damaged there is found there.
    shard_file(begun, shards[0]).write_bytes(b"damaged")
    begun.fs.invalidate_cache()
    assert "1 of 4 damaged" in failing(begun)["shards"]


def test_a_lease_is_respected_while_it_beats_and_taken_over_when_it_stands_still(bucket, monkeypatch):
    monkeypatch.setattr(lock, "_SECONDS_BETWEEN_BEATS", 0.2)
    refused = pytest.raises(ConfigurationError, match="is being written by process")
    with locked(bucket / "run"), refused, locked(bucket / "run"):
        pass
    assert not (bucket / "run" / ".lock").exists()
    dead = {"lease": "of a dead process", "beat": 3, "holder": "process 1 on another machine"}
    (bucket / "run" / ".lock").write_text(json.dumps(dead))
    with locked(bucket / "run"):
        assert "of a dead process" not in (bucket / "run" / ".lock").read_text()


@pytest.mark.parametrize("successor", [{"lease": "of another process", "beat": 0, "holder": "process 2"}, None])
def test_a_holder_that_slept_too_long_gives_way(bucket, monkeypatch, successor):
    """Whether whoever took over is still there, or has ended and removed its lock."""
    monkeypatch.setattr(lock, "_SECONDS_BETWEEN_BEATS", 0.2)
    with pytest.raises(RunStopped, match="was taken over by another process"), locked(bucket / "run"):  # noqa: PT012
        if successor:
            (bucket / "run" / ".lock").write_text(json.dumps(successor))
        else:
            (bucket / "run" / ".lock").unlink()
        time.sleep(20)
        pytest.fail("it went on")
    assert (bucket / "run" / ".lock").exists() == bool(successor)


def test_data_that_another_client_replaces_look_changed(whole, bucket):
    for name in ("a.jsonl", "b.jsonl"):
        (bucket / "data" / name).write_bytes((whole / "data" / "data.jsonl").read_bytes())
    dataset = open_dataset(DatasetSpec(name=str(bucket / "data")))
    before = dataset.stamp()
    assert dataset.stamp() == before
    other = S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    other.pipe_file(str(bucket / "data" / "b.jsonl").removeprefix("s3://"), b"{}\n")
    assert dataset.stamp() != before


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://key:secret@bucket/run", "credentials and options do not belong in a URL"),
        ("s3://bucket/run?token=secret", "credentials and options do not belong in a URL"),
        ("nosuch://bucket/run", "Unsupported filesystem"),
        ("gs://bucket/run", "install gcsfs"),
    ],
)
def test_urls_that_cannot_be_used_are_refused_without_their_secrets(url, message):
    with pytest.raises(ConfigurationError, match=message) as refusal:
        location(url)
    assert "secret" not in str(refusal.value)


def test_a_bucket_that_is_not_there_is_one_line(bucket):
    with pytest.raises(ConfigurationError, match="neither a known data set"):
        open_dataset(DatasetSpec(name="s3://other/data.jsonl"))


def test_local_paths_stay_local(tmp_path):
    shutil.copy(__file__, tmp_path / "file")
    for text in (str(tmp_path / "file"), f"file://{tmp_path / 'file'}"):
        assert location(text) == tmp_path / "file"
