"""How long to wait before what failed is tried again: the waits of a kubelet."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aiinfra_lab.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """The wait after the n-th failure in a row: min(first * 2**(n - 1 - free), longest).

    Parameters
    ----------
    first, longest : float
        Seconds.
    free : int
        Failures after which it is tried again at once.
    forgiven : float
        Seconds of running after which earlier failures do not count any more.

    References
    ----------
    Kubernetes, "Pod Lifecycle": a container is restarted after 10 s, 20 s, 40 s ... up to 300 s,
    and anew after it ran for 10 minutes. Its very first restart is immediate (kubelet's
    ``doBackOff``).
    """

    first: float = 10.0
    longest: float = 300.0
    free: int = 0
    forgiven: float = 600.0

    def __post_init__(self) -> None:
        if not (0 < self.first <= self.longest < math.inf and self.free >= 0 < self.forgiven):
            raise InputError(
                "the back-off cannot be used",
                found=str(self),
                needed="0 < first <= longest, free >= 0 and forgiven > 0",
            )

    def failed(self, failures: int, ran: float = 0.0) -> int:
        """The failures in a row after one more, which came after running for ``ran`` seconds."""
        return 1 if ran >= self.forgiven else failures + 1

    def wait(self, failures: int) -> float:
        """Seconds to wait after ``failures`` failures in a row."""
        if failures <= self.free:
            return 0.0
        # 2.0**1100 overflows, and a container that crashes at once gets there in some days.
        doublings = min(failures - 1 - self.free, math.ceil(math.log2(self.longest / self.first)))
        return min(self.first * 2.0**doublings, self.longest)


#: The kubelet's own, by what failed.
CRASH = Backoff(free=1)
IMAGE = Backoff()
PREPARATION = Backoff(first=0.05, longest=15.0)  # a ConfigMap that comes late is soon seen
