"""Each failure policy, by really causing the failure: signals, a full disk, a read-only folder, samples that hang."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from curate.manifest.ledger import read_ledger
from curate.manifest.quarantine import quarantined_rows
from curate.manifest.verify import verify_run
from curate.manifest.weights import read_weights
from tests.faults.kills import CURATE, planted, servers, wait_until
from tests.hostile.rows import write_broken_table
from tests.pipeline.small import write_data


def command(data: Path, run: Path, *options: str) -> list[str]:
    plain = ["--model", "demo", "--metric", "l0", "--shard-rows", "20", "--max-error-rate", "0.1"]
    return [str(CURATE), "score", "--dataset", str(data), *plain, "--output", str(run), *options]


def curate(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(CURATE), *arguments], capture_output=True, text=True, env=env)


def score(data: Path, run: Path, *options: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return curate(*command(data, run, *options)[1:], env=env)


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.slow)])
def executor(request) -> tuple[str, str]:
    return "--executor", request.param


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_cleanly_with_one_line_that_says_how_to_resume(number, code, executor, tmp_path):
    write_broken_table(tmp_path / "data", rows=2000, broken=10)
    process = subprocess.Popen(
        command(tmp_path / "data", tmp_path / "run", *executor),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore SIGINT, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_until(lambda: len(list(tmp_path.glob("run/shards/*.json"))) >= 2, process)
    process.send_signal(number)
    out, errors = process.communicate()
    assert process.returncode == code, errors
    last = errors.strip().splitlines()[-1]
    assert "rows are kept; go on with: curate score --resume" in last
    assert "Traceback" not in errors + out
    assert 2 <= len(read_ledger(tmp_path / "run")) < 100
    assert not (tmp_path / "run" / "run.json").exists()
    assert not list((tmp_path / "run").rglob(".*.tmp"))
    shown = curate("show", str(tmp_path / "run"))
    assert (shown.returncode, "not finished; go on with" in shown.stderr) == (1, True)
    assert curate("quarantine", str(tmp_path / "run")).returncode == 0


def test_ctrl_c_in_the_first_second_is_one_line(tmp_path):
    """While the server of processes imports, in the same foreground group as the command."""
    process = subprocess.Popen(
        command(write_data(tmp_path / "data"), tmp_path / "run"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_until(lambda: servers(process.pid), process)
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate()
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in errors + out


@pytest.fixture
def mount(tmp_path):
    """Mounts a small file system; the tests that need one run as root, or are skipped."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def tmpfs(options: str) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip("mounting a tmpfs needs root")
        return folder

    yield tmpfs
    subprocess.run(["umount", str(folder)], capture_output=True)


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(mount, executor, tmp_path):
    small = mount("size=40k")
    full = score(write_data(tmp_path / "data"), small / "run", *executor)
    assert full.returncode == 1
    last = full.stderr.strip().splitlines()[-1]
    assert "No space left on device" in last
    assert "go on with: curate score --resume" in last
    assert "Traceback" not in full.stderr
    subprocess.run(["mount", "-o", "remount,size=10m", str(small)], check=True)
    again = curate("score", "--resume", str(small / "run"))
    assert again.returncode == 0, again.stderr
    assert [check for check in verify_run(small / "run") if not check.ok] == []


def test_a_read_only_output_is_refused_before_any_work(mount, tmp_path):
    small = mount("size=1m")
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    refused = score(write_data(tmp_path / "data"), small / "run")
    assert refused.returncode == 2
    assert "Read-only file system" in refused.stderr.strip().splitlines()[-1]


def test_a_machine_without_network_and_shared_memory_scores(tmp_path):
    """Not even loopback, where Ray's services would listen, and 4 KiB in /dev/shm."""
    alone = ["unshare", "--net", "--mount"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("own namespaces need root")
    small = 'mount -t tmpfs -o size=4k tmpfs /dev/shm && exec "$@"'
    score = command(write_data(tmp_path / "data"), tmp_path / "run", "--metric", "cosine")
    done = subprocess.run([*alone, "sh", "-c", small, "sh", *score], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [check for check in verify_run(tmp_path / "run") if not check.ok] == []


def slow_jpeg() -> bytes:
    """A progressive JPEG of 81 million pixels whose last scan comes 400 times: minutes to decode, in 1 MB."""
    buffer = io.BytesIO()
    Image.new("RGB", (9000, 9000), "grey").save(buffer, "JPEG", progressive=True, quality=30)
    data = buffer.getvalue()
    scan = data[data.rindex(b"\xff\xda") : data.rindex(b"\xff\xd9")]
    return data[: data.rindex(b"\xff\xd9")] + scan * 400 + b"\xff\xd9"


def test_a_sample_that_hangs_is_quarantined_and_the_others_are_scored(executor, tmp_path):
    data = write_data(tmp_path / "data")
    (data / "11.png").write_bytes(slow_jpeg())
    done = score(data, tmp_path / "run", "--sample-timeout", "4", *executor)
    assert done.returncode == 0, done.stderr
    lost = {row["source_row"]: row for row in quarantined_rows(tmp_path / "run")}
    assert set(lost) == {7, 11, 25}
    assert lost[11]["error"] == "WorkerLost"
    assert "took longer than --sample-timeout 4 seconds" in lost[11]["reason"]
    assert [check for check in verify_run(tmp_path / "run") if not check.ok] == []


DEADLY = """
import os, signal, wrapt

def deadly(samples):
    if any(sample.source_row == 13 for sample in samples):
        os.kill(os.getpid(), signal.SIGKILL)

@wrapt.when_imported("curate.scoring.weights_pass")
def weights(module):
    take = module.WeightsPass.take
    module.WeightsPass.take = lambda self, sample, hidden: (deadly([sample]), take(self, sample, hidden))

@wrapt.when_imported("curate.scoring.memory")
def scores(module):
    score = module.FittingScorer.score
    module.FittingScorer.score = lambda self, batch: (deadly(batch), score(self, batch))[1]
"""
# Row 23 is the ninth of the weight samples below, so in their first range; in that of the data another row is broken.
DEADLY_TO_PREPARE = """
import os, signal, wrapt

@wrapt.when_imported("curate.datasets")
def decoding(module):
    decode = module.Dataset.decode
    def deadly(self, row, source_row):
        if source_row == 23:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(self, row, source_row)
    module.Dataset.decode = deadly
"""
TOO_LARGE = """
import os, signal, wrapt

@wrapt.when_imported("curate.pipeline.workers")
def load(module):
    module.load_scorer = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""

FAULTY = """
import wrapt

@wrapt.when_imported("curate.scoring.memory")
def scores(module):
    def score(self, batch):
        raise RuntimeError("CUDA error: device-side assert triggered")
    module.FittingScorer.score = score
"""


def test_a_sample_that_kills_the_actors_is_quarantined_and_the_others_are_scored(executor, tmp_path):
    """One that takes down whoever gives it to the model: first for feature weights, then for scores."""
    options = ["--metric", "cosine", "--weight-samples", "40", "--json", *executor]
    done = score(write_data(tmp_path / "data"), tmp_path / "run", *options, env=planted(tmp_path, DEADLY))
    assert done.returncode == 0, done.stderr
    lost = {row["source_row"]: row for row in quarantined_rows(tmp_path / "run")}
    assert set(lost) == {7, 13, 25}
    assert (lost[13]["error"], lost[13]["stage"]) == ("WorkerLost", "score")
    assert read_weights(tmp_path / "run")[1].samples == 37
    assert json.loads(done.stdout)["counts"]["read"] == 40
    assert [check for check in verify_run(tmp_path / "run") if not check.ok] == []


def test_a_sample_that_kills_those_that_prepare_it_is_quarantined_in_its_own_range(executor, tmp_path):
    """One of the weight samples, whose positions are others than in the data."""
    data = write_data(tmp_path / "data")
    options = ["--metric", "cosine", "--weight-samples", "20", "--shard-rows", "10"]
    done = score(data, tmp_path / "run", *executor, *options, env=planted(tmp_path, DEADLY_TO_PREPARE))
    assert done.returncode == 0, done.stderr
    lost = {row["source_row"]: row for row in quarantined_rows(tmp_path / "run")}
    assert set(lost) == {7, 23, 25}
    assert (lost[23]["error"], lost[23]["stage"]) == ("WorkerLost", "decode")
    assert [check for check in verify_run(tmp_path / "run") if not check.ok] == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            TOO_LARGE,
            "workers were killed, one after the other, while they loaded the model or tokenizer, as when memory does "
            "not suffice: take a machine with more; ",
        ),
        (FAULTY, "the run failed: CUDA error: device-side assert triggered"),
    ],
)
def test_what_no_other_actor_would_survive_stops_the_run_in_its_own_words(code, message, executor, tmp_path):
    data = write_data(tmp_path / "data")
    done = score(data, tmp_path / "run", *executor, env=planted(tmp_path, code))
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert message in last
    assert "0 of 40 rows are kept; go on with: curate score --resume" in last
    assert "Traceback" not in done.stderr


MEMORY = """
import resource, sys
import torch
from curate import demo
from curate.datasets import DatasetSpec, open_dataset
from curate.models.families import inspect_model
from curate.sae.load import inspect_dictionary, load_dictionary
from curate.scoring.memory import FittingScorer
from curate.scoring.parameters import ScoringParameters
from curate.scoring.prepare import Prepared, prepare
from curate.scoring.scorer import Scorer

torch.set_num_threads(1)
info = inspect_model(str(demo.MODEL))
builder = info.family.load_builder(info)
dataset = open_dataset(DatasetSpec(limit=300))
batch = list(prepare(dataset.samples(range(300)), builder, "prompt+chosen"))
model = info.family.load_model(info, demo.HOOK_LAYER, torch.float32, "cpu")
dictionary = load_dictionary(inspect_dictionary(str(demo.SAE)))
scorer = FittingScorer(Scorer(model, dictionary, ScoringParameters(hook_layer=demo.HOOK_LAYER, metrics=("l0",)), None))
scorer.score(batch[:2])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]) * 2**20, resource.RLIM_INFINITY))
rows = scorer.score(batch)
print(len(rows), scorer.too_many, sorted({getattr(row, "error", "scored") for row in rows}))
"""


def test_a_batch_that_does_not_fit_is_split_and_the_budget_remembered():
    """The machine's own memory, really limited; what a single sample too large meets, tests/scoring shows."""
    done = subprocess.run([sys.executable, "-c", MEMORY, "40"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    count, too_many, errors = done.stdout.split(maxsplit=2)
    assert (count, errors.strip()) == ("300", "['scored']")
    assert float(too_many) < 300 * 134
