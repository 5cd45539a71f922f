"""What scoring costs beside the bare forward pass, in one process: `make bench`.

Each way is timed in turn, several times over, on the same demo batches; the table gives medians and their ratio to the
bare cut forward pass.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch

from curate import demo
from curate.datasets import DatasetSpec, open_dataset
from curate.models import inspect_model
from curate.sae.dictionary import inspect_dictionary, load_dictionary
from curate.scoring.parameters import ScoringParameters
from curate.scoring.prepare import Prepared, prepare, token_batches
from curate.scoring.scorer import Scorer
from curate.scoring.weights_pass import WeightsPass

SAMPLES, ROUNDS = 300, 5


def main() -> None:
    """Print the table."""
    info = inspect_model(str(demo.MODEL))
    builder = info.family.load_builder(info)
    cut = info.family.load_model(info, demo.HOOK_LAYER, torch.float32, "cpu")
    dictionary = load_dictionary(inspect_dictionary(str(demo.SAE)))
    parameters = ScoringParameters(hook_layer=demo.HOOK_LAYER)
    dataset = open_dataset(DatasetSpec(limit=SAMPLES))

    def prepared() -> list[Prepared]:
        rows = prepare(dataset.samples(range(SAMPLES)), builder, parameters.text)
        return [row for row in rows if isinstance(row, Prepared)]

    samples = prepared()
    batches = list(token_batches(samples, parameters.batch_size))
    tokens = sum(len(sample.inputs.input_ids) for sample in samples)

    def first_pass() -> WeightsPass:
        weights = WeightsPass(cut, dictionary, parameters.top_k, dataset.rows, info.context)
        for batch in batches:
            for sample in batch:
                weights.add(sample)
        return weights

    scorer = Scorer(cut, dictionary, parameters, first_pass().weights(parameters.weight_rule).weight)
    ways: dict[str, Callable[[], object]] = {
        "forward pass to the hook layer": lambda: [cut.hidden_states([s.inputs for s in batch]) for batch in batches],
        "scores": lambda: [scorer.score(batch) for batch in batches],
        "feature weights": first_pass,
        "preparation (decode, tile, tokenize)": prepared,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    bare = statistics.median(seconds["forward pass to the hook layer"])
    print(f"{SAMPLES} demo samples, {tokens:,} tokens, {ROUNDS} rounds, {torch.get_num_threads()} threads")
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}")
    print(f"{'':38}{'samples/s':>10}{'tokens/s':>12}{'× bare':>8}")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:38}{SAMPLES / median:10.0f}{tokens / median:12,.0f}{median / bare:8.2f}")


if __name__ == "__main__":
    main()
