"""What scoring costs against the limit, the published procedure and a first version: `make bench`.

The same samples in several ways, taken in turn, round after round; tables give medians. On a CPU the model is that of
`bench.llava`, in float32; on a GPU it is LLaVA-NeXT-Mistral-7B from its config, in bfloat16, with 65,536 features.

- published: one sample at a time, in float32, all layers, hidden states into Python lists, the top 50 features of each
  token into sets.
- first version: samples padded to a batch, all layers, `output_hidden_states`, dense activations.
- limit: the bare forward pass to the hook layer and one dense encoder product, sample by sample, so without padding.

Peak memory is of a process of its own, from when model and data are there.
"""

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench import actors, llava
from curate.datasets import DatasetSpec, open_dataset
from curate.models.families import inspect_model
from curate.models.inputs import ModelInputs
from curate.sae.dictionary import Dictionary
from curate.sae.load import inspect_dictionary, load_dictionary
from curate.scoring import scorer as scoring
from curate.scoring.parameters import ScoringParameters, Text
from curate.scoring.prepare import Prepared, prepare, token_batches
from curate.scoring.scorer import Scorer
from curate.scoring.weights_pass import WeightsPass

PUBLISHED, FIRST, CURATE, LIMIT = "published procedure", "first version", "curate, in process", "limit"
WEIGHTS, CHOSEN, BOTH = "curate, feature weights", "prompt+chosen", "both"
TOP, RESPONSE = 50, 100
RAY_SAMPLES = 24
REAL_HOOK_LAYER, REAL_D_MODEL, REAL_D_SAE = 16, 4096, 65_536


@dataclass(frozen=True)
class Setting:
    """All that the ways need; the whole model is loaded only for those that run it.

    Attributes:
        equal: the samples with chosen and rejected responses of 100 tokens.
    """

    folder: Path
    device: str
    dtype: torch.dtype
    cut: Any
    dictionary: Dictionary
    parameters: ScoringParameters
    weights: Tensor
    samples: list[Prepared]
    equal: list[Prepared]
    context: int
    hook_layer: int


def write(folder: Path, rows: int, device: str, d_sae: int) -> None:
    """Model, SAE and samples."""
    real = device == "cuda"
    (llava.write_real_model if real else llava.write_model)(folder / "model")
    llava.write_sae(
        folder / "sae",
        d_model=REAL_D_MODEL if real else llava.D_MODEL,
        d_sae=d_sae,
        hook_layer=REAL_HOOK_LAYER if real else llava.HOOK_LAYER,
    )
    llava.write_samples(folder / "data" / "samples.parquet", rows)


def load(folder: Path, device: str, batch_size: int | None = None) -> Setting:
    """Everything that `write` wrote, ready to score."""
    info = inspect_model(str(folder / "model"))
    sae = inspect_dictionary(str(folder / "sae"))
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    builder = info.family.load_builder(info)
    data = open_dataset(DatasetSpec(name=str(folder / "data" / "samples.parquet")))
    samples = [each for each in prepare(data.samples(range(len(data))), builder, "both") if isinstance(each, Prepared)]
    assert sae.hook_layer is not None
    parameters = ScoringParameters(hook_layer=sae.hook_layer)
    if batch_size:
        parameters = parameters.model_copy(update={"batch_size": batch_size})
    return Setting(
        folder=folder,
        device=device,
        dtype=dtype,
        cut=info.family.load_model(info, sae.hook_layer, dtype, device),
        dictionary=load_dictionary(sae, device),
        parameters=parameters,
        weights=torch.rand(sae.d_sae, dtype=torch.float64, device=device),
        samples=[replace(sample, others={}) for sample in samples],
        equal=[_equal(sample) for sample in samples],
        context=info.context,
        hook_layer=sae.hook_layer,
    )


def _equal(sample: Prepared) -> Prepared:
    """The same prompt with two random responses of 100 tokens."""

    def said(inputs: ModelInputs, seed: int) -> ModelInputs:
        prompt = len(inputs.input_ids) - inputs.n_response
        generator = torch.Generator().manual_seed(sample.source_row * 2 + seed)
        ids = torch.cat([inputs.input_ids[:prompt], torch.randint(10, 400, (RESPONSE,), generator=generator)])
        is_image = torch.cat([inputs.is_image[:prompt], torch.zeros(RESPONSE, dtype=torch.bool)])
        return replace(inputs, input_ids=ids, is_image=is_image, n_response=RESPONSE)

    return replace(sample, inputs=said(sample.inputs, 0), others={"rejected": said(sample.inputs, 1)})


def scored(setting: Setting, samples: Sequence[Prepared], text: Text = "prompt+chosen") -> list[Any]:
    """As curate scores them, in this process."""
    parameters = setting.parameters.model_copy(update={"text": text})
    scorer = Scorer(setting.cut, setting.dictionary, parameters, setting.weights)
    return [
        row
        for batch in token_batches(samples, parameters.tokens_per_pass(setting.device))
        for row in scorer.score(batch)
    ]


def weighed(setting: Setting) -> WeightsPass:
    """curate's feature weights."""
    rows = [sample.source_row for sample in setting.samples]
    weights = WeightsPass(setting.cut, setting.dictionary, setting.parameters, rows, setting.context)
    for sample in setting.samples:
        weights.add(sample)
    return weights


@torch.inference_mode()
def limit(setting: Setting) -> None:
    """The bare forward pass and one dense encoder product."""
    for sample in setting.samples:
        hidden = setting.cut.model(**_arguments(setting, [sample]), use_cache=False).last_hidden_state[0]
        torch.addmm(setting.dictionary.bias, setting.dictionary.normalized(hidden), setting.dictionary.weight)


@torch.inference_mode()
def published(setting: Setting, whole: Any) -> list[float]:
    """Sample by sample, in float32, through Python lists."""
    dictionary, weights = setting.dictionary, setting.weights.tolist()
    scores = []
    for sample in setting.samples:
        output = whole(**_arguments(setting, [sample]), output_hidden_states=True)
        hidden = output.hidden_states[setting.hook_layer + 1][0].float().tolist()
        z = dictionary.encode(torch.tensor(hidden, device=setting.device))
        top = z.topk(TOP, dim=1)
        text, image = set(), set()
        for values, features, of_image in zip(
            top.values.tolist(), top.indices.tolist(), sample.inputs.is_image.tolist(), strict=True
        ):
            active = {feature for value, feature in zip(values, features, strict=True) if value > 1}
            (image if of_image else text).update(active)
        scores.append(sum(weights[feature] for feature in text & image))
    return scores


@torch.inference_mode()
def first_version(setting: Setting, whole: Any, batch_size: int) -> list[Tensor]:
    """Padded batches, all layers, all activations at once."""
    scores = []
    for start in range(0, len(setting.samples), batch_size):
        batch = setting.samples[start : start + batch_size]
        arguments = _arguments(setting, batch)
        output = whole(**arguments, output_hidden_states=True)
        hidden = output.hidden_states[setting.hook_layer + 1]
        z = setting.dictionary.encode(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])
        real = arguments["attention_mask"].bool()
        images = torch.nn.utils.rnn.pad_sequence([each.inputs.is_image for each in batch], batch_first=True)
        images = images.to(setting.device)
        active = z > 1
        on_text = (active & (real & ~images)[:, :, None]).any(1)
        on_image = (active & (real & images)[:, :, None]).any(1)
        scores.append(((on_text & on_image) * setting.weights).sum(1))
    return scores


def _arguments(setting: Setting, batch: Sequence[Prepared]) -> dict[str, Any]:
    """What transformers' own model is called with, padded on the right."""
    ids = [sample.inputs.input_ids for sample in batch]
    arguments = {
        "input_ids": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(setting.device),
        "pixel_values": torch.cat([each.inputs.tensors["pixel_values"] for each in batch]).to(
            setting.device, setting.dtype
        ),
        "image_sizes": torch.cat([each.inputs.tensors["image_sizes"] for each in batch]),
    }
    if len(batch) > 1:
        masks = [torch.ones(len(each)) for each in ids]
        arguments["attention_mask"] = torch.nn.utils.rnn.pad_sequence(masks, batch_first=True).to(setting.device)
    return arguments


def timed(ways: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each way, taken in turn; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = _now(device)
            way()
            taken = _now(device) - start
            print(f"{number}: {name} {taken:.2f} s", file=sys.stderr, flush=True)
            if number:
                seconds[name].append(taken)
    return seconds


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def shares(setting: Setting) -> dict[str, float]:
    """Seconds of one pass of curate's scoring, by what they were spent on."""
    found: dict[str, float] = {"vision tower": 0.0, "text layers": 0.0, "encoder": 0.0}

    @contextlib.contextmanager
    def spent(name: str) -> Iterator[None]:
        start = _now(setting.device)
        yield
        found[name] += _now(setting.device) - start

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with spent(name):
                return call(*args, **kwargs)

        return wrapper

    model = setting.cut.model
    start = _now(setting.device)
    with (
        mock.patch.object(model, "get_image_features", wrapped("vision tower", model.get_image_features)),
        mock.patch.object(model.language_model, "forward", wrapped("text layers", model.language_model.forward)),
        mock.patch.object(scoring, "measure_firing", wrapped("encoder", scoring.measure_firing)),
    ):
        scored(setting, setting.samples)
    whole = _now(setting.device) - start
    return {**found, "metrics, packing and the rest": whole - sum(found.values())}


def _preparation(setting: Setting) -> float:
    """Seconds that one thread takes to decode, tile and tokenize the samples."""
    info = inspect_model(str(setting.folder / "model"))
    builder = info.family.load_builder(info)
    data = open_dataset(DatasetSpec(name=str(setting.folder / "data" / "samples.parquet")))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    begun = time.perf_counter()
    list(prepare(data.samples(range(len(data))), builder, "prompt+chosen"))
    taken = time.perf_counter() - begun
    torch.set_num_threads(threads)
    return taken


def utilisation(setting: Setting, seconds: float) -> tuple[float, float]:
    """The share of the rate of one large matrix product that the model's operations reach, and that rate in FLOP/s."""
    with FlopCounterMode(display=False) as counter:
        limit(setting)
    side = 8192 if setting.device == "cuda" else 2048
    one = torch.randn(side, side, dtype=setting.dtype, device=setting.device)
    times = []
    for _ in range(10):
        start = _now(setting.device)
        torch.mm(one, one)
        times.append(_now(setting.device) - start)
    rate = 2 * side**3 / statistics.median(times)
    return counter.get_total_flops() / seconds / rate, rate


def peak_memory(folder: Path, device: str, name: str, batch_size: int | None) -> int:
    """Bytes at the peak of a process that does nothing else."""
    command = [sys.executable, "-m", "bench.score", "--folder", str(folder), "--memory-of", name, "--device", device]
    command += ["--batch-size", str(batch_size)] if batch_size else []
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return int(output.splitlines()[-1])


def _memory_of(setting: Setting, name: str) -> int:
    ways = {LIMIT: lambda: limit(setting), CURATE: lambda: scored(setting, setting.samples)}
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        ways[name]()
        return torch.cuda.max_memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    ways[name]()
    (line,) = (each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def report(setting: Setting, rounds: int, padded_batch: int, fast: bool) -> None:
    """The first table and what follows from it."""
    from transformers import LlavaNextForConditionalGeneration

    def whole(dtype: torch.dtype) -> Any:
        loaded: Any = LlavaNextForConditionalGeneration.from_pretrained(setting.folder / "model", dtype=dtype)
        return loaded.eval().to(setting.device)

    slow: dict[str, Callable[[], object]] = {}
    if not fast:
        in_float32 = whole(torch.float32)
        first = in_float32 if setting.dtype == torch.float32 else whole(setting.dtype)
        slow = {
            PUBLISHED: lambda: published(setting, in_float32),
            FIRST: lambda: first_version(setting, first, padded_batch),
        }
    chosen_only = [replace(sample, others={}) for sample in setting.equal]
    ways: dict[str, Callable[[], object]] = {
        **slow,
        CURATE: lambda: scored(setting, setting.samples),
        LIMIT: lambda: limit(setting),
        WEIGHTS: lambda: weighed(setting),
        CHOSEN: lambda: scored(setting, chosen_only),
        BOTH: lambda: scored(setting, setting.equal, "both"),
    }
    seconds = timed(ways, rounds, setting.device)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    n, tokens = len(setting.samples), sum(len(sample.inputs.input_ids) for sample in setting.samples)
    lengths = [len(sample.inputs.input_ids) for sample in setting.samples]
    batches = [lengths[start : start + padded_batch] for start in range(0, n, padded_batch)]
    padding = 1 - tokens / sum(max(batch) * len(batch) for batch in batches)
    print(f"{n} samples, {tokens:,} tokens; medians of {rounds} rounds; the first version's padding {padding:.0%}\n")
    print("| | samples/s | tokens/s | × limit's throughput, median of rounds | from, to |\n|---|--:|--:|--:|--:|")
    for name in (*slow, CURATE, LIMIT, WEIGHTS):
        ratios = _ratios(seconds, LIMIT, name)
        rate = n / median[name]
        print(
            f"| {name} | {rate:.3f} | {rate * tokens / n:,.0f} | {statistics.median(ratios):.2f} | "
            f"{min(ratios):.2f}, {max(ratios):.2f} |"
        )
    print()
    for name in slow:
        print(f"- curate / {name}: {statistics.median(_ratios(seconds, name, CURATE)):.2f}")
    ratios = _ratios(seconds, BOTH, CHOSEN)
    print(
        f"- responses of {RESPONSE} tokens: both / prompt+chosen, seconds: {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    used, rate = utilisation(setting, median[CURATE])
    print(f"- operations of the limit in curate's time: {used:.0%} of a matrix product's {rate / 1e12:.2f} TFLOP/s")
    spent = shares(setting)
    whole_time = sum(spent.values())
    print("- curate's time: " + ", ".join(f"{name} {taken / whole_time:.0%}" for name, taken in spent.items()))
    print(f"- preparation on a CPU, beside that: {_preparation(setting) / whole_time:.1%} of that time for one thread")
    hours = 1 / 3600 * median[CURATE] / n
    print(f"- hours at this rate: {40_000 * hours:,.1f} for 40,000 samples, {10_000_000 * hours:,.0f} for 10 million")


def _ratios(seconds: dict[str, list[float]], one: str, other: str) -> list[float]:
    """Seconds of one way over those of another, round by round, for the machine may change between rounds."""
    return [mine / its for mine, its in zip(seconds[one], seconds[other], strict=True)]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--padded-batch", type=int, default=8, help="samples in a batch of the first version")
    parser.add_argument("--batch-size", type=int, help="curate's, in tokens")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--fast", action="store_true", help="leave out the published procedure and the first version")
    parser.add_argument("--no-ray", action="store_true", help="leave out Ray")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = arguments.device
    if arguments.memory_of:
        print(_memory_of(load(arguments.folder, device, arguments.batch_size), arguments.memory_of))
        return
    name = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} cores"
    print(f"{name}, torch {torch.__version__}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "first"
        write(folder, arguments.samples, device, REAL_D_SAE if device == "cuda" else llava.D_SAE)
        report(load(folder, device, arguments.batch_size), arguments.rounds, arguments.padded_batch, arguments.fast)
        for d_sae in (8192, 65_536):
            sized = Path(scratch) / str(d_sae)
            sized.mkdir()
            for part in ("model", "data"):
                (sized / part).symlink_to(folder / part)
            d_model, layer = (REAL_D_MODEL, REAL_HOOK_LAYER) if device == "cuda" else (llava.D_MODEL, llava.HOOK_LAYER)
            llava.write_sae(sized / "sae", d_model=d_model, d_sae=d_sae, hook_layer=layer)
            peaks = {way: peak_memory(sized, device, way, arguments.batch_size) for way in (CURATE, LIMIT)}
            print(
                f"- peak memory at d_sae {d_sae:,}: curate {peaks[CURATE] / 1e6:,.0f} MB, limit "
                f"{peaks[LIMIT] / 1e6:,.0f} MB, ratio {peaks[CURATE] / peaks[LIMIT]:.2f}"
            )
        if device == "cpu" and not arguments.no_ray:
            ray = Path(scratch) / "ray"
            llava.write_all(ray, RAY_SAMPLES)
            actors.write_random_weights(ray)
            trials: dict[str, list[actors.Trial]] = {"loop2": [], "ray-threads": []}
            for _ in range(3):
                for key, found in trials.items():
                    found.append(actors.measure(ray, key, RAY_SAMPLES))
            print("\n" + "\n".join(actors.report(trials)))


if __name__ == "__main__":
    main()
