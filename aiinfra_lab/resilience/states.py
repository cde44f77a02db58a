"""The states of a circuit, what is told about a change, and what a look at one shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from aiinfra_lab.resilience.windows import Tally


class State(StrEnum):
    """Where a circuit stands; the values are the labels of its metrics."""

    CLOSED = "closed"
    """Calls pass and are counted."""
    OPEN = "open"
    """Calls are refused until the wait is over."""
    HALF_OPEN = "half_open"
    """A few calls pass as probes."""
    FORCED_OPEN = "forced_open"
    """An operator refuses all calls, until ``reset()``."""
    DISABLED = "disabled"
    """An operator lets all calls pass, and nothing is counted."""
    METRICS_ONLY = "metrics_only"
    """All calls pass and are counted, and no rate opens the circuit."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state, as listeners get it.

    ``at`` is in seconds on the breaker's monotonic clock, ``generation`` the number of the state
    that began, ``reason`` a phrase for people, ``tally`` what the window held that was left.
    """

    name: str
    before: State
    after: State
    at: float
    generation: int
    reason: str
    tally: Tally


Listener = Callable[[Transition], object]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A circuit at one moment, for a dashboard: copies, which no later call changes.

    Attributes
    ----------
    window : Tally
        What the sliding window holds.
    enough : bool
        Whether the window holds the minimum number of calls, so that its rates decide something.
    permits : int
        Probes that may still begin; 0 outside half-open.
    retry_after : float
        Seconds until a refused call may try again; 0 where calls pass.
    calls : mapping of str to int
        Since the breaker was made: ``success``, ``failure``, ``slow_success``, ``slow_failure``
        (recorded), ``ignored``, ``cancelled`` (before they were slow), ``late`` (they ended in a
        newer generation), ``refused``.
    transitions : mapping of State to int
        How often each state was entered.
    shared : bool or None
        Whether other processes share the state at this moment; None for a breaker without a
        store, False while the store does not answer.
    """

    name: str
    state: State
    generation: int
    window: Tally
    enough: bool
    permits: int
    retry_after: float
    calls: Mapping[str, int]
    transitions: Mapping[State, int]
    shared: bool | None = None
