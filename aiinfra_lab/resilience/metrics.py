"""Prometheus metrics of breakers, read when they are scraped.

Nothing is added to a call: the breaker counts for itself, and a scrape takes a ``snapshot()``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from aiinfra_lab.resilience.states import Snapshot, State


class Observable(Protocol):
    """What is asked of a breaker."""

    def snapshot(self) -> Snapshot:
        """A look that changes nothing."""
        ...


class BreakerCollector:
    """A collector for a ``prometheus_client`` registry.

    Parameters
    ----------
    breakers : iterable of breakers
        Walked anew at every scrape: a ``BreakerRegistry`` shows the breakers it then holds.

    Notes
    -----
    ``circuit_state`` is 1 for the state that holds and 0 for the others, so that an alert needs
    no table of numbers. The two rates are shares of 1, and absent while the window holds too few
    calls to decide: a rate of one call is no news. ``circuit_shared`` is there for shared breakers
    only: alert on 0, for then each process protects the other side alone.

    Examples
    --------
    >>> from prometheus_client import REGISTRY  # doctest: +SKIP
    >>> REGISTRY.register(BreakerCollector(breakers))  # doctest: +SKIP
    """

    def __init__(self, breakers: Iterable[Observable]) -> None:
        self._breakers = breakers

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering a collector must not walk the breakers."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The metrics of all breakers at this moment."""
        state = GaugeMetricFamily(
            "circuit_state", "1 for the current state", labels=["name", "state"]
        )
        calls = CounterMetricFamily(
            "circuit_calls", "Calls by what they counted as", labels=["name", "outcome"]
        )
        entered = CounterMetricFamily(
            "circuit_transitions", "How often a state was entered", labels=["name", "state"]
        )
        failures = GaugeMetricFamily(
            "circuit_failure_rate", "Failures in the window", labels=["name"]
        )
        slow = GaugeMetricFamily(
            "circuit_slow_call_rate", "Slow calls in the window", labels=["name"]
        )
        held = GaugeMetricFamily("circuit_window_calls", "Calls in the window", labels=["name"])
        permits = GaugeMetricFamily(
            "circuit_half_open_permits", "Probes that may still begin", labels=["name"]
        )
        shared = GaugeMetricFamily(
            "circuit_shared", "1 while the state is shared with other processes", labels=["name"]
        )
        for breaker in tuple(self._breakers):
            seen = breaker.snapshot()
            name = seen.name
            for each in State:
                state.add_metric([name, each.value], float(seen.state is each))
                entered.add_metric([name, each.value], seen.transitions[each])
            for outcome, number in seen.calls.items():
                calls.add_metric([name, outcome], number)
            if seen.enough:
                failures.add_metric([name], seen.window.failure_rate)
                slow.add_metric([name], seen.window.slow_call_rate)
            held.add_metric([name], seen.window.calls)
            permits.add_metric([name], seen.permits)
            if seen.shared is not None:
                shared.add_metric([name], float(seen.shared))
        yield from (state, calls, entered, failures, slow, held, permits, shared)
