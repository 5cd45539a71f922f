"""What a run asks of a cluster: how many actors, on what, and which cluster."""

import os
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST = 10_000
FEWER = "lower --actors, --min-actors, --prepare-workers or --gpus-per-actor"
Amounts = dict[str, float]  # of resources, by Ray's names


def cluster_address(address: str | None) -> str | None:
    """The cluster's address, `RAY_ADDRESS` counting as for Ray; None where Ray is to be started on this machine."""
    address = address or os.environ.get("RAY_ADDRESS")
    return None if address in (None, "", "local") else address


class Resources(BaseModel):
    """Where the work is done and by how many. Decides no score."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    executor: Literal["auto", "local", "ray"] = Field(
        default="auto",
        description="local takes this machine alone, ray starts Ray or takes a cluster; auto is local where one "
        "process serves: no cluster, one actor, and no long work on a GPU",
    )
    address: str | None = Field(
        default=None, description="a running Ray cluster; by default that of RAY_ADDRESS, else Ray is started here"
    )
    actors: int = Field(default=1, ge=1, le=MOST, description="scoring actors, each with a model: the most there are")
    min_actors: int | None = Field(default=None, ge=1, le=MOST, description="the fewest to go on with; by default all")
    initial_actors: int | None = Field(
        default=None, ge=1, le=MOST, description="how many to begin with; by default the fewest"
    )
    cpus_per_actor: int | None = Field(
        default=None,
        ge=1,
        description="CPUs and computing threads of each actor; by default 1, and without a cluster and a GPU this "
        "machine's, divided",
    )
    gpus_per_actor: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="GPUs of each actor, by default 1 if there are any: a part of one, or several that hold the model "
        "together",
    )
    actor_resources: Amounts = Field(default={}, description="custom resources of each actor, such as h200: 1")
    prepare_workers: int | None = Field(default=None, ge=1, description="CPU workers that decode and tokenize")
    prepare_resources: Amounts = Field(default={}, description="custom resources of each, such as cpu_node: 0.1")
    cluster_wait: float = Field(
        default=600,
        ge=0,
        allow_inf_nan=False,
        description="seconds to wait until the cluster has what is asked for, as it scales up",
    )

    @model_validator(mode="after")
    def _fits(self) -> "Resources":
        if not self.fewest <= self.first <= self.actors:
            raise ValueError(
                f"--min-actors {self.fewest} ≤ --initial-actors {self.first} ≤ --actors {self.actors} does not hold"
            )
        if self.executor == "local" and (of_ray := self.needs_ray):
            raise ValueError(f"--executor local runs one actor on this machine; {of_ray} takes --executor ray")
        gpus = self.gpus_per_actor or 0
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"--gpus-per-actor {gpus:g}: a part of one GPU, or a whole number of them")
        for option, amounts in (("actor", self.actor_resources), ("prepare", self.prepare_resources)):
            if bad := [
                name
                for name, amount in amounts.items()
                if not 0 < amount < float("inf") or name in ("CPU", "GPU", "memory")
            ]:
                raise ValueError(f"--{option}-resources {bad[0]}: amounts of custom resources, greater than 0")
        return self

    @property
    def needs_ray(self) -> str | None:
        """The first option given that only Ray can follow."""
        of_ray = {
            "--actors": self.actors > 1,
            "--address": self.address not in (None, "", "local"),
            "--gpus-per-actor": self.gpus_per_actor not in (None, 1),
            "--actor-resources": self.actor_resources,
            "--prepare-resources": self.prepare_resources,
        }
        return next((option for option, given in of_ray.items() if given), None)

    @property
    def one_process(self) -> bool:
        """Whether this machine alone may serve: no cluster, and nothing that only Ray can follow."""
        return self.executor != "ray" and self.cluster is None and self.needs_ray is None

    @property
    def fewest(self) -> int:
        """Actors without which the run does not begin."""
        return self.min_actors or self.actors

    @property
    def first(self) -> int:
        """Actors to begin with."""
        return self.initial_actors or self.fewest

    @property
    def cluster(self) -> str | None:
        """As of `cluster_address`; None where this machine is to run alone."""
        return None if self.executor == "local" else cluster_address(self.address)
