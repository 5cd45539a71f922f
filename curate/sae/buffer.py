"""The shuffling buffer between a model's activations and the SAE that learns from them."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

MIX = 0.5


@dataclass
class MixingBuffer:
    """Keeps half of its tokens back, so that neighbours in the data do not meet in one batch.

    The batches are those of sae_lens's generator `mixing_buffer`, whose state cannot be saved.

    Attributes:
        size: tokens that are mixed at once, at least; batch: tokens of a batch.
        waiting: tokens that came since the last mixing; mixed: tokens among which `order` is still to be served.
    """

    size: int
    batch: int
    generator: torch.Generator
    waiting: list[Float[Tensor, "tokens d_model"]] = field(default_factory=list)
    mixed: Float[Tensor, "tokens d_model"] | None = None
    order: Int[Tensor, " left"] = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    batches_left: int = 0

    def __post_init__(self) -> None:
        # What is served at once is at least a batch.
        self.size = max(self.size, 2 * self.batch)

    @property
    def ready(self) -> bool:
        """Whether there is a batch to take, without more tokens."""
        return self.batches_left > 0

    def add(self, tokens: Float[Tensor, "tokens d_model"]) -> None:
        """Take in new tokens; once there are enough, all are mixed."""
        self.waiting.append(tokens)
        if len(self.order) + sum(map(len, self.waiting)) >= self.size:
            self._mix()

    def _mix(self) -> None:
        self.mixed = torch.cat([*self._left(), *self.waiting])
        self.waiting = []
        self.order = torch.randperm(len(self.mixed), generator=self.generator)
        self.batches_left = max(1, (len(self.mixed) - int(self.size * MIX)) // self.batch)

    def take(self) -> Float[Tensor, "batch d_model"]:
        """The next batch. Only where `ready`."""
        assert self.mixed is not None
        rows, self.order = self.order[: self.batch], self.order[self.batch :]
        self.batches_left -= 1
        batch = self.mixed[rows.to(self.mixed.device)]
        if not self.ready:  # what is kept back alone stays in memory
            (self.mixed,) = self._left() or [None]
            self.order = torch.arange(len(self.order))
        return batch

    def _left(self) -> list[Float[Tensor, "left d_model"]]:
        return [] if self.mixed is None else [self.mixed[self.order.to(self.mixed.device)]]

    def state(self) -> dict[str, Tensor]:
        """All that decides the batches to come, as tensors."""
        tensors = {"generator": self.generator.get_state(), "batches_left": torch.tensor(self.batches_left)}
        parts = {"left": self._left(), "waiting": self.waiting}
        return tensors | {name: torch.cat(part) for name, part in parts.items() if part}

    def restore(self, state: dict[str, Tensor], device: str) -> None:
        """Go on from a `state`."""
        self.generator.set_state(state["generator"])
        self.batches_left = int(state["batches_left"])
        self.waiting = [state["waiting"].to(device)] if "waiting" in state else []
        self.mixed = state["left"].to(device) if "left" in state else None
        self.order = torch.arange(0 if self.mixed is None else len(self.mixed))
