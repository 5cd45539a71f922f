"""The quantity of the SAE-V paper's Figure 8: the mean feature weight of a tuned model, by its base model's SAE."""

from dataclasses import replace
from typing import NamedTuple

from curate.datasets import open_dataset
from curate.errors import DataError
from curate.harvest.plan import device_and_dtype
from curate.manifest.record import RunRecord
from curate.models import ModelSpec
from curate.pipeline.first_pass import weight_dataset
from curate.pipeline.job import ScoreJob
from curate.pipeline.plan import agreeing
from curate.sae.load import load_dictionary
from curate.scoring.prepare import Prepared, prepare
from curate.scoring.weights_pass import WeightsPass


class ModelScore(NamedTuple):
    """The mean over the features that have a weight, how many have one, and of which model."""

    mean_weight: float
    features: int
    model_sha256: str


def model_score(model: ModelSpec, run: RunRecord, samples: int) -> ModelScore:
    """The mean feature weight of a model, with the SAE and parameters that a run was scored with.

    Args:
        samples: how many of the run's samples it is computed from; the same for every model.

    Raises:
        ConfigurationError: model and SAE do not fit each other.
        DataError: the data are not to be had, or no feature has a weight.
    """
    job = ScoreJob.model_validate(run.arguments).model_copy(update={"model": model, "allow_model_mismatch": True})
    parameters, (info, sae, layer, _) = job.parameters, agreeing(job)
    if sae.scale is None and run.sae is not None:
        sae = replace(sae, scale=run.sae.scale)
    device, dtype = device_and_dtype(model)
    dataset = weight_dataset(open_dataset(job.dataset), samples, parameters.seed)
    cut = info.family.load_model(info, layer, dtype, device)
    share = WeightsPass(cut, load_dictionary(sae, device), parameters, dataset.rows, info.context)
    builder = info.family.load_builder(info)
    for sample in prepare(dataset.samples(range(len(dataset))), builder, parameters.weights_text):
        if isinstance(sample, Prepared):  # what is not has its reason in the run's quarantine
            share.add(sample)
    weight, has_weight = share.weights()
    if not bool(has_weight.any()):
        raise DataError(f"no feature has a weight over {samples:,} samples: take more, or a lower top_k in scoring")
    return ModelScore(float(weight[has_weight].mean()), int(has_weight.sum()), info.sha256)
