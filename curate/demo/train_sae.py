"""Train the demo SAE with sae_lens, on the residual stream of the demo model."""

from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from curate.datasets import Dataset, DatasetSpec, open_dataset
from curate.datasets.demo import CLEAN
from curate.demo import HOOK_LAYER
from curate.models.families import inspect_model
from curate.models.family import ModelInfo
from curate.models.packing import pack
from curate.sae.load import inspect_dictionary, load_dictionary
from curate.sample import Sample
from curate.scoring.prepare import Prepared, prepare, token_batches

EXPANSION = 8
K = 12
BATCH = 4096
EPOCHS = 2
HELD_OUT_TOKENS = 200_000
ROWS_PER_READ = 512
DATA_SEED = 1_000_003


def hidden_tokens(info: ModelInfo, n_tokens: int, first_row: int) -> Float[Tensor, "tokens d_model"]:
    """Hidden states at the hook layer over clean demo samples, without first tokens."""
    builder = info.family.load_builder(info)
    model = info.family.load_model(info, HOOK_LAYER, torch.float32, "cpu")
    dataset = open_dataset(DatasetSpec(limit=10**9, seed=DATA_SEED))
    clean = _clean(dataset, first_row)
    prepared = (sample for sample in prepare(clean, builder, "prompt+chosen") if isinstance(sample, Prepared))
    parts: list[Tensor] = []
    found = 0
    for batch in token_batches(prepared, BATCH):
        packed = pack([sample.inputs for sample in batch])
        hidden = model.hidden_states(packed)
        parts += [hidden[places[1:]] for places in packed.places]
        found += sum(len(places) - 1 for places in packed.places)
        if found >= n_tokens:
            break
    return torch.cat(parts)[:n_tokens].clone()


def _clean(dataset: Dataset, first_row: int) -> Iterator[tuple[int, Sample]]:
    for start in range(first_row, len(dataset), ROWS_PER_READ):
        for row, sample in dataset.samples(range(start, start + ROWS_PER_READ)):
            if isinstance(sample, Sample) and sample.quality == CLEAN:
                yield row, sample


def train_sae(model_folder: Path, output: Path, n_tokens: int, seed: int) -> dict[str, float | int]:
    """Train a BatchTopK SAE on hidden states scaled to mean norm √d, save it in sae_lens's format.

    The scale is folded into the weights at the end, so activations keep the normalised units.

    Args:
        n_tokens: tokens to learn from, seen `EPOCHS` times in shuffled order.

    Returns:
        what `training.json` keeps, measured on held-out tokens with the saved files.
    """
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, JumpReLUSAE
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(seed)
    info = inspect_model(str(model_folder))
    tokens = hidden_tokens(info, n_tokens, first_row=0)
    held_out = hidden_tokens(info, HELD_OUT_TOKENS, first_row=10**8)
    scale = info.d_model**0.5 / float(tokens.norm(dim=1).mean())
    training = SAETrainerConfig(
        total_training_samples=EPOCHS * len(tokens),
        train_batch_size_samples=BATCH,
        lr=3e-3,
        lr_end=0.0,
        lr_decay_steps=EPOCHS * len(tokens) // BATCH // 3,
        # Short, so that the auxiliary loss has time to revive dead features: 15 stay dead, and 423 without it.
        dead_feature_window=30,
    )
    sae = BatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(d_in=info.d_model, d_sae=EXPANSION * info.d_model, k=K, normalize_activations="none")
    )
    trained = SAETrainer(training, sae, _shuffled(tokens * scale, seed)).fit()
    trained.save_inference_model(output)
    folded = JumpReLUSAE.load_from_disk(output)
    folded.fold_activation_norm_scaling_factor(scale)
    facts = {
        "hook_layer": HOOK_LAYER,
        "hook_name": f"blocks.{HOOK_LAYER}.hook_resid_post",
        "model_name": "curate demo",
        "model_hash": info.sha256,
        "activation_scale": scale,
        "training": {"architecture": "batchtopk", "k": K, "tokens": len(tokens), "epochs": EPOCHS, "seed": seed},
    }
    for name, value in facts.items():
        setattr(folded.cfg.metadata, name, value)
    folded.save_model(output)
    return evaluate(output, held_out)


def _shuffled(tokens: Float[Tensor, "tokens d_model"], seed: int) -> Iterator[Float[Tensor, "batch d_model"]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(tokens), generator=generator)
        for batch in order.split(BATCH):
            if len(batch) == BATCH:
                yield tokens[batch]


@torch.inference_mode()
def evaluate(folder: Path, hidden: Float[Tensor, "tokens d_model"]) -> dict[str, float | int]:
    """L0, explained variance and dead features of a saved SAE on held-out hidden states."""
    from safetensors.torch import load_file

    dictionary = load_dictionary(inspect_dictionary(str(folder)))
    decoder = load_file(folder / "sae_weights.safetensors")
    error = fired = l0 = 0.0
    for part in hidden.split(BATCH):
        z = dictionary.encode(part)
        error += float((z @ decoder["W_dec"] + decoder["b_dec"] - part).square().sum())
        l0 += float(z.count_nonzero())
        fired = fired + (z > 0).sum(0)
    variance = float((hidden - hidden.mean(0)).square().sum())
    return {
        "d_sae": dictionary.d_sae,
        "l0": round(l0 / len(hidden), 2),
        "explained_variance": round(1 - error / variance, 4),
        "dead_features": int((torch.as_tensor(fired) == 0).sum()),
        "held_out_tokens": len(hidden),
    }
