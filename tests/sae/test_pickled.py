"""SAEs published as pickles: read once, as tensors alone, in a process of its own; anything else is refused."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from curate.errors import ConfigurationError
from curate.sae import pickled as module
from curate.sae.copy import write_copy
from curate.sae.decoder import load_decoder
from curate.sae.load import inspect_dictionary, load_dictionary
from curate.sae.pickled import opened
from curate.sae.unpickle import Refused, tensors_in
from tests.sae import folders
from tests.sae.folders import D_MODEL, D_SAE


def qwen(root, content) -> Path:
    """Qwen-Scope's layout with these bytes or this object in place of its tensors."""
    made = folders.qwen_scope(root)
    if isinstance(content, bytes):
        made.folder.write_bytes(content)
    else:
        torch.save(content, made.folder)
    return made.folder


def good(**changes):
    tensors = {
        "W_enc": torch.ones(1024, D_MODEL),
        "W_dec": torch.ones(D_MODEL, 1024),
        "b_enc": torch.zeros(1024),
        "b_dec": torch.zeros(D_MODEL),
    }
    return {**tensors, **changes}


class Runs:
    """What unpickling it calls."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(path: Path) -> dict:
    return good(evil=Runs(os.system, f"touch {path}"))


def use(source):
    with opened(str(source)) as info:
        load_dictionary(info)
        load_decoder(info)


def refused(source, reason) -> str:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        use(source)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def unpickle_here(name, pickle, target):
    try:
        save_file(tensors_in(pickle), target)
    except Refused as error:
        raise ConfigurationError(f"--sae {name}: {error}") from error


@pytest.fixture
def in_this_process(monkeypatch):
    """Without a process of its own for each pickle, which takes seconds; what it does is the same."""
    monkeypatch.setattr(module, "_unpickle", unpickle_here)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_hostile_pickle_is_refused_and_does_nothing(tmp_path, monkeypatch):
    mark = tmp_path / "hacked"
    # That it would do something, if it were loaded as pickles are.
    (tmp_path / "pickle").write_bytes(pickle.dumps(hostile(mark)))
    code = f"import pickle; pickle.load(open({str(tmp_path / 'pickle')!r}, 'rb'))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert mark.exists()
    mark.unlink()
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    message = refused(qwen(tmp_path / "archive", hostile(mark)), "cannot be imported: it")
    assert "posix.system, which was not run" in message
    assert not mark.exists()
    monkeypatch.setattr(module, "_unpickle", unpickle_here)
    for name, content in (("bare", pickle.dumps(hostile(mark))), ("eval", [Runs(eval, f"open({str(mark)!r}, 'w')")])):
        message = refused(qwen(tmp_path / name, content), r"\.sae\.pt: it")
        assert "posix.system, which was not run" not in message
        assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read as tensors alone"),
        (b"\x80\x02}q\x00.", "it holds a dict, not a dict of tensors|cannot be read"),
        (b"PK\x03\x04" + b"\x00" * 500, "cannot be read as tensors alone"),
        (bytes(range(256)) * 16, "cannot be read as tensors alone"),
        ({}, "not a dict of tensors"),
        ([torch.zeros(3)], "it holds a list, not a dict of tensors"),
        (torch.zeros(3), "it holds a Tensor, not a dict of tensors"),
        ({"state_dict": good()}, "state_dict is a dict, not a tensor"),
        (good(k=7), "k is a int, not a tensor"),
        ({**good(), 3: torch.zeros(2)}, "an entry named 3"),
        (good(b_dec=torch.full((D_MODEL,), float("nan"))), "b_dec holds NaN"),
        (good(W_enc=torch.full((1024, D_MODEL), float("inf"))), "W_enc holds NaN or infinity"),
        (good(W_enc=torch.zeros(1, 1).expand(100_000, 100_000)), "its tensors claim 40,000,"),
        (good(W_enc=torch.eye(D_MODEL).to_sparse()), "W_enc is not a plain tensor|cannot be read"),
        (good(W_enc=torch.ones(1024, D_MODEL, dtype=torch.complex64)), "W_enc is not a plain tensor"),
        (good(W_enc=torch.ones(7)), r"W_enc in .* is \(7,\), not a matrix"),
        (good(W_enc=torch.ones(2048, D_MODEL)), "has 2,048 features, and its name says 1K"),
        ({key: value for key, value in good().items() if key != "b_enc"}, "b_enc is missing"),
        ({key: value for key, value in good().items() if key != "W_enc"}, "W_enc in .* is missing"),
        (good(W_dec=torch.ones(1024, D_MODEL)), r"W_dec is \(1024, 16\)"),
    ],
)
def test_a_pickle_of_anything_else_is_refused_with_the_reason(tmp_path, content, reason, in_this_process):
    refused(qwen(tmp_path, content), reason)


def test_a_truncated_pickle_is_refused(tmp_path, in_this_process):
    file = io.BytesIO()
    torch.save(good(), file)
    for part in (0.3, 0.9):
        refused(
            qwen(tmp_path / str(part), file.getvalue()[: int(len(file.getvalue()) * part)]), "cannot be read as tensor"
        )


def test_an_archive_that_unpacks_to_far_more_than_its_size_takes_no_more_memory_than_it_may(tmp_path):
    file = io.BytesIO()
    torch.save({"W_enc": torch.zeros(40 << 18)}, file)
    packed = io.BytesIO()
    with zipfile.ZipFile(file) as old_archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in old_archive.namelist():
            archive.writestr(name, old_archive.read(name))
    refused(qwen(tmp_path, packed.getvalue()), "cannot be imported: (it cannot be read|its tensors claim)")


def test_ordered_dicts_and_shared_tensors_are_plain_enough(tmp_path, in_this_process):
    shared = torch.ones(1024, D_MODEL)
    path = qwen(tmp_path, OrderedDict(good(W_enc=shared, W_dec=shared.T)))
    with opened(str(path)) as info:
        assert torch.equal(load_dictionary(info).weight, shared.T)
        kept = info.path
        assert (kept / "unpickled.safetensors").is_file()
    assert not kept.exists()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.abort()", "was ended by SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL"),
        ("raise RuntimeError('boom')", "failed: RuntimeError: boom"),
        ("import time; time.sleep(60)", r"was not read within \d+ s"),
    ],
)
def test_a_crash_or_hang_of_the_process_that_reads_is_one_line(tmp_path, monkeypatch, code, reason):
    path = qwen(tmp_path, good())
    real = subprocess.run

    def run(command, **options):
        return real([sys.executable, "-c", code], **options)

    monkeypatch.setattr(module.subprocess, "run", run)
    if "sleep" in code:
        monkeypatch.setattr(module, "SECONDS", 0.5)
    refused(path, reason)


def test_memory_that_runs_out_is_one_line(tmp_path):
    code = (
        "import sys; from curate.sae import unpickle; unpickle.SPARE_BYTES = 1 << 20; unpickle.TIMES_ITS_SIZE = 0;"
        f"unpickle.main({str(qwen(tmp_path, {'W_enc': torch.zeros(20 << 20)}))!r}, {str(tmp_path / 'out')!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1] == "it takes more memory than a file of its size may need"
    assert not (tmp_path / "out").exists()


# What published configs of pickled SAEs say


def dictionary_learning(root, **trainer):
    made = folders.dictionary_learning(root)
    path = made.folder / "config.json"
    content = json.loads(path.read_text())
    content["trainer"] = {key: value for key, value in {**content["trainer"], **trainer}.items() if value is not None}
    path.write_text(json.dumps(content))
    return made.folder


@pytest.mark.parametrize(
    ("trainer", "reason"),
    [
        ({"dict_class": "GatedAutoEncoder"}, "dict_class is GatedAutoEncoder; these are read: AutoEncoder,"),
        ({"dict_class": None}, "dict_class is None"),
        ({"dict_class": "CrossCoder"}, "dict_class is CrossCoder"),
        ({"submodule_name": "mlp_out_layer_11"}, "reads mlp_out_layer_11, not the residual stream"),
        ({"submodule_name": "attention_out_layer_11"}, "reads attention_out_layer_11"),
        ({"layer": "eleven", "submodule_name": None}, "layer is 'eleven'"),
        ({"activation_dim": None}, "activation_dim is None"),
        ({"activation_dim": 8}, r"encoder.weight is \(64, 16\), not \(64, 8\)"),
        ({"dict_size": 32}, r"encoder.weight is \(64, 16\), not \(32, 16\)"),
        ({"dict_class": "AutoEncoderTopK", "k": None}, "k is None"),
        ({"dict_class": "MatryoshkaBatchTopKSAE"}, None),
    ],
)
def test_dictionary_learnings_other_classes_and_places_are_refused_by_name(tmp_path, trainer, reason, in_this_process):
    folder = dictionary_learning(tmp_path, **trainer)
    if reason is None:  # the class decides how it is read, and the tensors how they are stored
        with opened(str(folder)) as info:
            write_copy(info, tmp_path / "copy", {})
        assert inspect_dictionary(str(tmp_path / "copy")).architecture == "jumprelu"
    else:
        refused(folder, reason)


def test_dictionary_learnings_other_damages_are_refused(tmp_path, in_this_process):
    def spoilt(number, spoil):
        folder = folders.dictionary_learning(tmp_path / str(number)).folder
        spoil(folder)
        return folder

    def pickled_with(**changes):
        def spoil(folder):
            tensors = {**torch.load(folder / "ae.pt", weights_only=True), **changes}
            torch.save({key: value for key, value in tensors.items() if value is not None}, folder / "ae.pt")

        return spoil

    def set_buffer(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "buffer": {"io": "in"}}))

    cases = [
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / "config.json").write_text("{}"), "holds no trainer"),
        (set_buffer, "what goes into a submodule"),
        (pickled_with(threshold=None), "threshold is missing"),
        (pickled_with(threshold=torch.tensor(-1.0)), "its threshold is -1: never measured"),
        (pickled_with(threshold=torch.zeros(3)), r"threshold is \(3,\)"),
        (pickled_with(b_dec=None), "b_dec is missing"),
        (pickled_with(**{"encoder.weight": None}), "W_enc is missing"),
        (pickled_with(**{"decoder.weight": torch.zeros(D_SAE, D_MODEL)}), r"decoder.weight is \(64, 16\)"),
    ]
    for number, (spoil, reason) in enumerate(cases):
        refused(spoilt(number, spoil), reason)


def test_qwen_scope_is_known_by_the_names_of_repository_and_file(tmp_path, in_this_process):
    made = folders.qwen_scope(tmp_path)
    other = made.folder.parent.rename(tmp_path / "mine") / made.folder.name
    refused(other, "are in the names of repository and file")
    refused(other.parent, "holds 2 SAEs; name one of them")


def test_qwen_scopes_folder_stands_for_its_one_file(tmp_path, in_this_process, monkeypatch):
    made = folders.qwen_scope(tmp_path)
    made.folder.with_name("layer13.sae.pt").unlink()
    monkeypatch.chdir(tmp_path)
    for name in (made.folder.parent, made.folder.parent.name, made.folder):
        with opened(str(name)) as info:
            assert (info.hook_layer, info.model_name, info.k) == (12, "Qwen/Qwen3-8B-Base", 50)


def test_an_sae_that_is_no_pickle_is_opened_where_it_lies(tmp_path, monkeypatch):
    monkeypatch.setattr(module.subprocess, "run", None)
    made = folders.sparsify(tmp_path)
    with opened(str(made.folder)) as info:
        assert info.path == made.folder
