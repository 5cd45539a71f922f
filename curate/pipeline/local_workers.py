"""What runs inside the processes of this machine that hold the model."""

import os
from collections.abc import Generator, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from curate.datasets import Dataset
from curate.models.family import CutModel
from curate.pipeline.first_pass_worker import FirstPassWorker
from curate.pipeline.meter import Work
from curate.pipeline.plan import Plan
from curate.pipeline.probe import Probe, probe
from curate.pipeline.watch import Watch
from curate.pipeline.workers import Columns, ScoreActor, load_cut, more_memory
from curate.sae.dictionary import known_scale
from curate.sae.reading import Reading


def _use_one_gpu() -> None:
    """Hide all GPUs but the first from this process, as a model is spread over all that it sees."""
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


class ModelWorker:
    """Holds the model: for the first pass, then for scores, so that it is loaded once."""

    def __init__(self, plan: Plan, watch: Watch) -> None:
        _use_one_gpu()
        self.plan, self.watch = plan, watch
        self.cut: CutModel | None = None
        self.first: FirstPassWorker | None = None
        self.scorer: ScoreActor | None = None

    def start_first_pass(self, dataset: Dataset, weigh: bool) -> Generator[int, None, Reading | None]:
        """Load the model and the SAE for the first pass over these rows.

        Yields:
            how many samples are ready to try an SAE on whose config leaves its activation scale open.

        Returns:
            how such an SAE is read.
        """
        if self.cut is None:
            with self.watch.loading(more_memory(self.plan)):
                self.cut = load_cut(self.plan)
        self.first = FirstPassWorker(self.plan, dataset, weigh, suspects=self.watch, cut=self.cut)
        reading = (yield from self.first.read_sae()) if self.plan.sae.scale is None else None
        self.first.open_sae(known_scale(self.plan.sae) if reading is None else reading.scale)
        return reading

    def take(self, block: Columns) -> tuple[int, Work]:
        """Run the batches among some prepared rows; returns how many samples are done, and the work on all of them."""
        assert self.first is not None, "a first pass that was not started"
        self.first.take(block)
        return self.first.progress(), self.first.done

    def start_scores(self, plan: Plan, weights: Float[Tensor, " d_sae"] | None) -> None:
        """Prepare for scores, with the SAE read as this plan says."""
        self.first = None
        if plan.job.parameters.likelihood_of:
            self.cut = None  # never are two models in memory
        self.scorer = ScoreActor(plan, weights, self.watch, cut=self.cut)

    def gpu(self) -> str:
        """The name of the GPU that computes."""
        return torch.cuda.get_device_name()


class Prober:
    """Tries what a run would do."""

    def __init__(self, watch: Watch) -> None:
        _use_one_gpu()

    def probe(self, plan: Plan, positions: Sequence[int], actors_here: int) -> Iterator[Probe]:
        """As of `curate.pipeline.probe`."""
        yield from probe(plan, positions, actors_here)
