"""Data drawn for one exercise: new for every seed, the same for the same seed.

Each method returns plain Python lists, so that a learner's code meets nothing it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from aiinfra_lab.seeding import stream

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")


class Draws:
    """Random data that depends on the seed and the exercise's name alone.

    Parameters
    ----------
    seed : int
        The lab's seed: public in the learner's notebook, secret when it is graded.
    exercise : str
        Exercises draw from unrelated streams: editing one never changes another's data.
    """

    def __init__(self, seed: int, exercise: str) -> None:
        self._seed, self._exercise = seed, exercise

    @cached_property
    def generator(self) -> np.random.Generator:
        """The numpy generator underneath, for what the methods do not offer."""
        return stream(self._seed, "exercise", self._exercise)

    def outcomes(self, p: float, n: int) -> list[bool]:
        """``n`` truth values, each True with probability ``p``."""
        return _list(self.generator.random(n) < p)

    def integer(self, low: int, high: int) -> int:
        """One whole number in ``low..high``, both included."""
        return int(self.generator.integers(low, high, endpoint=True))

    def integers(self, low: int, high: int, n: int) -> list[int]:
        """``n`` whole numbers in ``low..high``, both included."""
        return _list(self.generator.integers(low, high, size=n, endpoint=True))

    def number(self, low: float, high: float) -> float:
        """One number, uniform in ``[low, high)``."""
        return float(self.generator.uniform(low, high))

    def uniform(self, low: float, high: float, n: int) -> list[float]:
        """``n`` numbers, uniform in ``[low, high)``."""
        return _list(self.generator.uniform(low, high, size=n))

    def normal(self, mean: float, sd: float, n: int) -> list[float]:
        """``n`` numbers from a normal distribution."""
        return _list(self.generator.normal(mean, sd, size=n))

    def exponential(self, mean: float, n: int) -> list[float]:
        """``n`` waiting times with the given mean."""
        return _list(self.generator.exponential(mean, size=n))

    def lognormal(self, median: float, sigma: float, n: int) -> list[float]:
        """``n`` positive numbers with a long tail, such as latencies of a server."""
        return _list(median * self.generator.lognormal(0.0, sigma, size=n))

    def sample(self, items: Sequence[T], n: int) -> list[T]:
        """``n`` different ones of ``items``, in random order."""
        if n > len(items):
            raise ValueError(f"there are only {len(items)} items, {n} were asked for")
        return [items[i] for i in self.generator.permutation(len(items))[:n]]

    def choices(self, items: Sequence[T], n: int) -> list[T]:
        """``n`` of ``items``, each drawn from all of them."""
        return [items[i] for i in self.generator.integers(len(items), size=n)]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All ``items`` in random order."""
        return self.sample(items, len(items))


def _list(array: np.ndarray[Any, Any]) -> list[Any]:
    return list(array.tolist())
