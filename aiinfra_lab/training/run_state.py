"""What of a run changes from step to step, collected for a checkpoint and put back from one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aiinfra_lab.training.checkpoint import (
    Checkpoint,
    Checkpoints,
    random_state,
    restore_random_state,
)
from aiinfra_lab.training.distributed import Group
from aiinfra_lab.training.parallel import full_state, load_full_state
from aiinfra_lab.training.reduce import reduce_sums
from aiinfra_lab.training.sampler import Batch


class RunState:
    """The state of one rank.

    Attributes
    ----------
    step : int
        Steps done.
    epoch, offset : int
        Where the next batch begins.
    epoch_sums : Tensor, shape (3,)
        Loss, right answers and samples of this rank in the epoch that goes on.
    train_sums : Tensor, shape (3,)
        Those of all ranks in the last whole epoch.
    """

    def __init__(
        self,
        group: Group,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> None:
        self.group, self.model, self.optimizer, self.schedule = group, model, optimizer, schedule
        self.step, self.epoch, self.offset = 0, 0, 0
        self.epoch_sums = torch.zeros(3, dtype=torch.float64, device=group.device)
        self.train_sums = torch.zeros(3, dtype=torch.float64, device=group.device)

    def advance(self, batch: Batch, sums: Tensor, *, ends_epoch: bool) -> None:
        """Count a step that was done on ``batch``; at the end of an epoch all ranks must call."""
        self.step += 1
        self.epoch, self.offset = batch.epoch, batch.end
        self.epoch_sums += sums
        if ends_epoch:
            self.epoch, self.offset = batch.epoch + 1, 0
            self.train_sums = reduce_sums(self.epoch_sums)
            self.epoch_sums = torch.zeros_like(self.epoch_sums)

    def save(self, checkpoints: Checkpoints) -> None:
        """Hand a copy to ``checkpoints``; every rank calls it, rank 0 writes."""
        own = random_state(self.group.device) | {"epoch_sums": self.epoch_sums.cpu().clone()}
        ranks = self.group.gather(own)
        state = full_state(self.model, self.optimizer)
        if self.group.first:
            schedule = self.schedule.state_dict()
            # A function is no state: the configuration gives it anew.
            schedule["lr_lambdas"] = [None] * len(schedule["lr_lambdas"])
            state |= {"schedule": schedule, "ranks": ranks, "train_sums": self.train_sums.cpu()}
            about = {"epoch": self.epoch, "offset": self.offset, "world": self.group.world}
            checkpoints.save(self.step, state, about)

    def restore(self, checkpoints: Checkpoints) -> int | None:
        """Go back to the newest checkpoint; its step, or None if there is none.

        With the number of ranks that wrote it, what follows is equal to the bit; with another,
        the order of the data is the same and the rest equal up to rounding (and dropout).
        """
        # Rank 0 chooses: on a folder that is shared late, ranks could see different ones.
        found = self.group.gather(checkpoints.latest() if self.group.first else None)[0]
        if not isinstance(found, Checkpoint):
            return None
        load_full_state(self.model, self.optimizer, found.state)
        self.schedule.load_state_dict(found.state["schedule"])
        self.step, self.epoch, self.offset = found.step, found.about["epoch"], found.about["offset"]
        self.train_sums = found.state["train_sums"].to(self.group.device)
        ranks: list[dict[str, Any]] = found.state["ranks"]
        if len(ranks) == self.group.world:
            own = ranks[self.group.rank]
            restore_random_state(own, self.group.device)
            self.epoch_sums = own["epoch_sums"].to(self.group.device)
        elif self.group.first:
            self.epoch_sums = sum(rank["epoch_sums"] for rank in ranks).to(self.group.device)
        return found.step
