"""The two errors a breaker raises of itself; every other error is the guarded call's own."""

from __future__ import annotations

from aiinfra_lab.errors import AIInfraLabError
from aiinfra_lab.resilience.states import State


class CircuitOpen(AIInfraLabError):
    """The call was refused and never began.

    Parameters
    ----------
    retry_after : float
        Seconds until another attempt makes sense; finite, never negative. While open it is the
        rest of the wait, half-open the longest that the probes may take, forced open the longest
        wait of the reopening (nobody knows what the operator will do).
    name : str
        The breaker's name.
    state : State
        ``OPEN``, ``HALF_OPEN`` (all probes are taken) or ``FORCED_OPEN``.
    """

    def __init__(self, retry_after: float, name: str, state: State) -> None:
        self.retry_after, self.name, self.state = max(0.0, retry_after), name, state
        super().__init__(
            f"circuit {name!r} is {state.value.replace('_', ' ')}",
            fix=f"Retry in {self.retry_after:.3g} s.",
        )


class ForeignLoop(AIInfraLabError):
    """An asyncio breaker was called from the event loop of a second thread; the first one lives."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"circuit {name!r} belongs to the event loop of another thread",
            fix="Give each loop a breaker of its own, or use SyncCircuitBreaker between threads.",
        )
