"""One optimiser step on the mean loss of the global batch, however its samples are spread.

The gradient wanted is that of ``1/N * sum(loss)`` over the N samples of all ranks. DDP and FSDP
average the ranks' gradients, so a rank's loss is ``world/N * sum(loss)`` over its own samples:
right also where ranks hold different numbers, which a mean of means is not.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from aiinfra_lab.training.parallel import accumulating, clip_gradients

Precision = Literal["float32", "bfloat16"]


class TrainStep:
    """Forward, backward, clip, update.

    Parameters
    ----------
    model : Module
        As ``parallel`` gives it.
    optimizer : Optimizer
    world : int
        Ranks that share a batch.
    accumulate : int
        Micro-batches that a rank's piece is cut into. Only the last one communicates.
    precision : {"float32", "bfloat16"}
        bfloat16 runs the forward pass under autocast; weights and gradients stay float32. It
        needs no loss scaling, which float16 would.
    clip_norm : float, optional
        The largest norm of the whole gradient, after the ranks' average.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        world: int = 1,
        accumulate: int = 1,
        precision: Precision = "float32",
        clip_norm: float | None = None,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self.world, self.accumulate = world, accumulate
        self.precision, self.clip_norm = precision, clip_norm

    def __call__(self, pixels: Tensor, labels: Tensor, *, count: int, total: int) -> Tensor:
        """Learn from this rank's piece of a batch.

        Parameters
        ----------
        pixels, labels : Tensor, shapes (n, ...) and (n,)
            At least one sample: with ``count`` 0 it has weight 0, because a rank without
            samples must still take part in the exchange of gradients.
        count : int
            Samples of this rank that count, the first of ``pixels``.
        total : int
            Samples that count on all ranks.

        Returns
        -------
        Tensor, shape (3,), float64, on the model's device
            Sum of the losses, right answers, and number of this rank's samples.
        """
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(3, dtype=torch.float64, device=pixels.device)
        for number in range(self.accumulate):
            begin = count * number // self.accumulate
            end = count * (number + 1) // self.accumulate
            last = number == self.accumulate - 1
            with nullcontext() if last else accumulating(self.model):
                if begin == end:
                    # As many passes on every rank: under FSDP each one gathers weights.
                    logits = self._forward(pixels[:1])
                    torch.autograd.backward(logits.sum() * 0.0)
                    continue
                logits = self._forward(pixels[begin:end])
                loss = functional.cross_entropy(logits.float(), labels[begin:end], reduction="sum")
                torch.autograd.backward(loss * (self.world / total))
            with torch.no_grad():
                sums[0] += loss.detach()
                sums[1] += (logits.argmax(1) == labels[begin:end]).sum()
        if self.clip_norm is not None:
            clip_gradients(self.model, self.clip_norm)
        self.optimizer.step()
        sums[2] = count
        return sums

    def _forward(self, pixels: Tensor) -> Tensor:
        if self.precision == "float32":
            logits: Tensor = self.model(pixels)
        else:
            with torch.autocast(pixels.device.type, dtype=torch.bfloat16):
                logits = self.model(pixels)
        return logits


@torch.no_grad()
def evaluate(model: nn.Module, pixels: Tensor, labels: Tensor, *, batch_size: int) -> Tensor:
    """The sums of ``TrainStep`` over these samples, without learning; the model's mode is kept.

    Each rank gives its own piece; the sums of all ranks, added, give exact means.
    """
    training = model.training
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=pixels.device)
    for begin in range(0, len(labels), batch_size):
        logits = model(pixels[begin : begin + batch_size])
        wanted = labels[begin : begin + batch_size]
        sums[0] += functional.cross_entropy(logits, wanted, reduction="sum")
        sums[1] += (logits.argmax(1) == wanted).sum()
        sums[2] += len(wanted)
    model.train(training)
    return sums
