"""What runs the two passes of a plan: this machine alone, or Ray's actors around the same functions."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import pyarrow as pa
from jaxtyping import Float
from torch import Tensor

from curate.datasets import Dataset
from curate.manifest.record import SAERecord
from curate.metrics.weights import FeatureWeights, Places
from curate.pipeline.meter import Work
from curate.pipeline.plan import Plan
from curate.pipeline.progress import Report
from curate.pipeline.ranges import Arrived, Range

# About a minute of a 7B model's work; longer work repays the start of Ray and of several workers.
_MOST_ROWS_ALONE_ON_A_GPU = 1000


class Computed(NamedTuple):
    """Results of a first pass.

    Attributes:
        weights: None if none were computed.
        places: the tokens behind the weights.
        n_samples: how many samples are behind the weights.
        ran: how many samples ran through the model.
        seconds: duration of the work, without the start of the workers.
    """

    sae: SAERecord
    weights: FeatureWeights | None
    places: dict[str, Places]
    n_samples: int
    ran: int
    work: Work
    seconds: float


class WorkersDied(Exception):
    """Workers of the first pass died, and what they had kept is lost.

    Attributes:
        rows: source rows of the samples that they had in hand.
    """

    def __init__(self, rows: Sequence[int]) -> None:
        super().__init__(f"workers died with {len(rows)} samples in hand")
        self.rows = rows


class Executor(Protocol):
    """Runs both passes."""

    @property
    def device(self) -> str:
        """What computes, by name where one is known."""
        ...

    def first_pass(self, plan: Plan, dataset: Dataset, weigh: bool, watched: bool) -> Computed | None:
        """One attempt at the first pass over the rows of a data set.

        Args:
            weigh: whether feature weights are computed, beside the SAE's fit.
            watched: whether to find out what workers have in hand when they die, where that costs something.

        Returns:
            None where a sample came to no worker, or to two.

        Raises:
            WorkersDied: this attempt is lost.
            ConfigurationError: the SAE's config leaves its activation scale open, and no reading of it clearly fits.
        """
        ...

    def score(
        self,
        plan: Plan,
        dataset: Dataset,
        ranges: Sequence[Range],
        weights: Float[Tensor, " d_sae"] | None,
        commit: Callable[[Range, pa.Table], bool],
        arrived: Callable[[Arrived], None],
    ) -> None:
        """Score ranges of the data set's positions and hand over each that is whole, with one row for every position.

        Args:
            weights: feature weights, where a metric needs them.
            commit: takes a range's rows; returns whether to go on.
            arrived: called as rows come in.

        Raises:
            RunStopped: workers died again and again, and brought no range to its end.
        """
        ...


def is_local(plan: Plan, rows: int) -> bool:
    """Whether this machine scores so many rows alone: if that is asked for, or if one process serves."""
    resources = plan.job.resources
    short = plan.device == "cpu" or rows <= _MOST_ROWS_ALONE_ON_A_GPU
    return resources.one_process and (short or resources.executor == "local")


def executor(plan: Plan, rows: int, report: Report) -> AbstractContextManager[Executor]:
    """The executor of a plan for so many rows; it runs as long as the context.

    Raises:
        ConfigurationError: no cluster answers, it stays too small, or a node does not see the run's files.
    """
    # Each imports what the other has no use for.
    if is_local(plan, rows):
        from curate.pipeline.local import local

        return local(plan, report)
    from curate.pipeline.ray_data import ray_data

    return ray_data(plan, report)
