"""Which samples a rank takes, in which order: a function of seed, epoch and position alone.

The order belongs to the run, not to its ranks: an epoch is one permutation, a step takes the next
``batch_size`` of it, and every rank takes its piece of that. So another number of ranks sees the
same samples in the same steps, and a run that resumes needs no more than (epoch, offset).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiinfra_lab.errors import InputError
from aiinfra_lab.seeding import stream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def piece(length: int, rank: int, world: int) -> slice:
    """The part of ``range(length)`` that belongs to ``rank``: contiguous, sizes differ by one.

    The pieces of all ranks are disjoint and together everything: nothing is padded, so nothing
    is counted twice. A rank may get nothing.
    """
    return slice(length * rank // world, length * (rank + 1) // world)


@dataclass(frozen=True)
class Batch:
    """One step's samples, over all ranks.

    Attributes
    ----------
    epoch : int
        From 0.
    offset : int
        Samples of the epoch that come before this batch.
    indices : array of int64, shape (n,)
        ``n`` is the batch size, or less at the end of an epoch.
    """

    epoch: int
    offset: int
    indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def end(self) -> int:
        """Samples of the epoch up to the end of this batch."""
        return self.offset + len(self.indices)

    def of(self, rank: int, world: int) -> NDArray[np.int64]:
        """The indices that ``rank`` takes."""
        return self.indices[piece(len(self.indices), rank, world)]


class BatchOrder:
    """The batches of every epoch.

    Parameters
    ----------
    length : int
        Samples in the data set.
    batch_size : int
        Samples of a step, over all ranks.
    seed : int
    shuffle : bool
        False: in the order of the data set, in every epoch.
    """

    def __init__(self, length: int, batch_size: int, *, seed: int, shuffle: bool = True) -> None:
        if not 1 <= batch_size <= length:
            raise InputError(
                f"a batch of {batch_size} cannot be taken from {length} samples",
                needed=f"a batch size in 1..{length}",
            )
        self.length, self.batch_size, self.seed, self.shuffle = length, batch_size, seed, shuffle

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch; the last one may be smaller."""
        return -(-self.length // self.batch_size)

    def permutation(self, epoch: int) -> NDArray[np.int64]:
        """The order of all samples in ``epoch``."""
        import numpy as np

        if not self.shuffle:
            return np.arange(self.length, dtype=np.int64)
        return stream(self.seed, "order", str(epoch)).permutation(self.length).astype(np.int64)

    def batches(self, epochs: int, *, epoch: int = 0, offset: int = 0) -> Iterator[Batch]:
        """The batches from (``epoch``, ``offset``) to the end of ``epochs`` epochs."""
        for number in range(epoch, epochs):
            order = self.permutation(number)
            for begin in range(offset if number == epoch else 0, self.length, self.batch_size):
                yield Batch(number, begin, order[begin : begin + self.batch_size])
