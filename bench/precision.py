"""What the model's precision does to ranks: `python -m bench.precision`.

The demo's samples, scored by the demo model in float32, bfloat16 and float16, each with feature weights of its own; the
encoder is in float32, as always. Ranks are compared with those of float32.
"""

import argparse
import platform
import time

import numpy as np
import torch
from scipy.stats import spearmanr

from curate import demo
from curate.datasets import DatasetSpec, open_dataset
from curate.manifest.rows import ScoredRow
from curate.models.families import inspect_model
from curate.sae.load import inspect_dictionary, load_dictionary
from curate.scoring.parameters import ScoringParameters
from curate.scoring.prepare import Prepared, prepare, token_batches
from curate.scoring.scorer import Scorer
from curate.scoring.weights_pass import WeightsPass

METRICS = ("cosine", "cooccurrence", "l0")
TOP = 0.2


def scored(dtype: torch.dtype, samples: list[Prepared], device: str) -> tuple[list[ScoredRow], np.ndarray, float]:
    """The rows, the feature weights, and the seconds that scoring took."""
    info = inspect_model(str(demo.MODEL))
    cut = info.family.load_model(info, demo.HOOK_LAYER, dtype, device)
    dictionary = load_dictionary(inspect_dictionary(str(demo.SAE)), device)
    parameters = ScoringParameters(hook_layer=demo.HOOK_LAYER, metrics=METRICS)
    weights = WeightsPass(cut, dictionary, parameters, [sample.source_row for sample in samples], info.context)
    for sample in samples:
        weights.add(sample)
    found = weights.weights()
    scorer = Scorer(cut, dictionary, parameters, found.weight)
    begun = time.perf_counter()
    rows = [row for batch in token_batches(samples, parameters.tokens_per_pass(device)) for row in scorer.score(batch)]
    seconds = time.perf_counter() - begun
    assert all(isinstance(row, ScoredRow) for row in rows)
    return [row for row in rows if isinstance(row, ScoredRow)], found.weight.cpu().numpy(), seconds


def best(values: np.ndarray) -> set[int]:
    """The places of the highest fifth; of equals, the first."""
    return set(np.argsort(-values, kind="stable")[: round(TOP * len(values))].tolist())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    info = inspect_model(str(demo.MODEL))
    dataset = open_dataset(DatasetSpec(limit=arguments.samples))
    prepared = prepare(dataset.samples(range(len(dataset))), info.family.load_builder(info), "prompt+chosen")
    samples = [sample for sample in prepared if isinstance(sample, Prepared)]
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    print(
        f"{len(samples)} samples of the demo, {name}, torch {torch.__version__}, Python {platform.python_version()}\n"
    )
    print("| precision | metric | Spearman | top 20% kept | near delta | seconds |\n|---|---|--:|--:|--:|--:|")
    reference: dict[str, np.ndarray] = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        rows, weights, seconds = scored(dtype, samples, arguments.device)
        near = np.mean([row.near_delta for row in rows])
        columns = {metric: np.array([row.scores[metric] for row in rows]) for metric in METRICS}
        reference = reference or {**columns, "feature weights": weights}
        for metric, values in {**columns, "feature weights": weights}.items():
            rank = spearmanr(values, reference[metric])[0]
            kept = len(best(values) & best(reference[metric])) / len(best(values))
            name = str(dtype).removeprefix("torch.")
            print(f"| {name} | {metric} | {rank:.4f} | {kept:.1%} | {near:.1%} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
