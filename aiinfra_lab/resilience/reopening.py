"""How long a circuit stays open: exponential waits, spread so that clients do not come in step."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

from aiinfra_lab.resilience.checks import at_least_one, choice, positive

Jitter = Literal["full", "equal", "none"]


@dataclass(frozen=True, kw_only=True)
class Reopening:
    """The wait before attempt k = 0, 1, 2 ... to reopen: min(first_wait * multiplier**k, max_wait).

    Of that bound b, ``full`` jitter waits U(0, b), ``equal`` b/2 + U(0, b/2), ``none`` b.

    Parameters
    ----------
    first_wait : float
        Seconds; resilience4j's ``waitDurationInOpenState``.
    multiplier : float
        At least 1; 1 makes all waits alike.
    max_wait : float
        Seconds, at least ``first_wait``, finite.
    jitter : {"equal", "full", "none"}
        Equal by default: full jitter spreads best but may wait for next to nothing.

    Raises
    ------
    InputError
        A value outside its range; the sentence names the parameter.

    References
    ----------
    M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    first_wait: float = 60.0
    multiplier: float = 2.0
    max_wait: float = 600.0
    jitter: Jitter = "equal"

    def __post_init__(self) -> None:
        positive("first_wait", self.first_wait)
        positive("max_wait", self.max_wait, at_least=self.first_wait)
        at_least_one("multiplier", self.multiplier)
        choice("jitter", self.jitter, ("full", "equal", "none"))

    def bound(self, attempt: int) -> float:
        """The longest wait in seconds before attempt ``attempt``, Retry-After aside."""
        # Compared as logarithms: 2.0**1100 overflows, and a dead server gets there in a week.
        growth = attempt * math.log(self.multiplier)
        if growth >= math.log(self.max_wait / self.first_wait):
            return self.max_wait
        return min(self.first_wait * self.multiplier**attempt, self.max_wait)

    def wait(self, attempt: int, rng: random.Random, at_least: float = 0.0) -> float:
        """Draw a wait in seconds.

        ``at_least`` is what a server asked for (Retry-After). The jitter comes on top of it: all
        clients were told the same number.
        """
        bound = self.bound(attempt)
        spread = {"full": 1.0, "equal": 0.5, "none": 0.0}[self.jitter] * bound
        return max(bound - spread, at_least) + spread * rng.random()
