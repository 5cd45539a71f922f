"""What a run asks of a cluster: how many actors, on what, and which cluster."""

import os

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST = 10_000
Amounts = dict[str, float]  # of resources, by Ray's names


def cluster_address(address: str | None) -> str | None:
    """The cluster's address, `RAY_ADDRESS` counting as for Ray; None where Ray is to be started on this machine."""
    address = address or os.environ.get("RAY_ADDRESS")
    return None if address in (None, "", "local") else address


class Resources(BaseModel):
    """Where the work is done and by how many. Decides no score."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
    def fewest(self) -> int:
        """Actors without which the run does not begin."""
        return self.min_actors or self.actors

    @property
    def first(self) -> int:
        """Actors to begin with."""
        return self.initial_actors or self.fewest

    @property
    def cluster(self) -> str | None:
        """As of `cluster_address`."""
        return cluster_address(self.address)
