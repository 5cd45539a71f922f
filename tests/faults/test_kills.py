"""Exactly once, whatever dies and whenever: the manifest of a run killed many times is that of an undisturbed one."""

import os
import random
import subprocess

import pyarrow.parquet as pq
import pytest

from curate.manifest.record import MANIFEST, QUARANTINE, read_record
from curate.manifest.verify import verify_run
from tests.faults.kills import CURATE, Killer
from tests.hostile.rows import write_broken_table

PLANS = {
    "three": ({"actor": 1, "driver": 1, "writer": 1}, 240, 40),
    "ten": ({"actor": 5, "driver": 3, "writer": 2}, 600, 60),
    "sixty": ({"actor": 26, "driver": 20, "writer": 14}, 3000, 100),
}


@pytest.mark.parametrize(
    ("size", "executor"),
    [
        ("three", "local"),
        pytest.param("three", "ray", marks=pytest.mark.slow),
        *(pytest.param("ten", executor, marks=pytest.mark.slow) for executor in ("local", "ray")),
        *(pytest.param("sixty", executor, marks=pytest.mark.faults) for executor in ("local", "ray")),
    ],
)
def test_a_run_killed_many_times_ends_with_the_bytes_of_an_undisturbed_one(size, executor, tmp_path):
    kinds, rows, shard_rows = PLANS[size]
    seed = int(os.environ.get("CURATE_FAULT_SEED", random.randrange(10**6)))
    print(f"CURATE_FAULT_SEED={seed}")
    rng = random.Random(seed)
    expected = write_broken_table(tmp_path / "data", rows=rows, broken=rows // 40)

    def command(run: str) -> list[str]:
        options = ["--weight-samples", "40", "--shard-rows", str(shard_rows), "--model", "demo"]
        return [str(CURATE), "score", "--dataset", str(tmp_path / "data"), *options, "--output", str(tmp_path / run)]

    subprocess.run([*command("undisturbed"), "--executor", "local"], check=True, capture_output=True)
    plan = [kind for kind, count in kinds.items() for _ in range(count)]
    rng.shuffle(plan)
    # The long versions kill the first pass, of feature weights, too; the short one is given them.
    given = ["--weights", str(tmp_path / "undisturbed")] if size == "three" else []
    longest = {"local": 10, "ray": 25}[executor]
    killer = Killer([*command("killed"), "--executor", executor, *given], tmp_path / "killed", rng, longest)
    killer.go(plan)
    print("\n".join(killer.kills))
    assert [kill.split()[0] for kill in killer.kills] == plan
    if size == "sixty":
        assert any(kill.startswith("writer") and "half a file" in kill for kill in killer.kills)
    for name in (MANIFEST, QUARANTINE):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
    record = read_record(tmp_path / "killed")
    assert (record.counts.read, record.status) == (rows, "complete")
    assert [check for check in verify_run(tmp_path / "killed") if not check.ok] == []
    scored, quarantined = (
        pq.read_table(tmp_path / "killed" / name)["source_row"].to_pylist() for name in (MANIFEST, QUARANTINE)
    )
    assert sorted(scored + quarantined) == list(range(rows))
    assert set(quarantined) == set(expected)
