"""Latencies: the tail of a steady service, with an interval for each quantile.

Quantiles are by nearest rank. Their intervals are distribution-free: the number of values below
the true quantile is binomial, so two order statistics enclose it with known probability (David and
Nagaraja, *Order Statistics*, section 7.1). Where too few values were taken for the level, the
interval is open and says so with an infinity, instead of pretending.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiinfra_lab.errors import InputError

_WINDOW = 20  # calls whose medians are compared to find the end of the warm-up
_STEADY = 0.10  # medians of two windows in a row that differ by less than this are steady


@dataclass(frozen=True)
class Quantile:
    """One quantile in seconds, with its interval; ``high`` may be infinite."""

    q: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Latency:
    """What a call takes: seconds; ``warm_up`` calls came before and are not in the numbers."""

    p50: Quantile
    p95: Quantile
    p99: Quantile
    mean: float
    calls: int
    warm_up: int
    steady: bool


def latency(
    call: Callable[[], object],
    *,
    calls: int = 1_000,
    most_warm_up: int = 1_000,
    level: float = 0.95,
    timer: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Call until steady, then measure; one call after the other (a closed loop).

    Parameters
    ----------
    call : callable without arguments
    calls : int
        Measured calls.
    most_warm_up : int
        Unmeasured calls at most; if their medians still move then, ``steady`` is False.
    level : float
        Coverage of the intervals, in (0, 1).
    timer : callable
        Gives seconds; only differences count.

    Raises
    ------
    InputError
        Fewer than one call, or a level that is none.
    """
    if calls < 1:
        raise InputError("a latency needs calls", found=str(calls))
    warm_up, steady = _warm_up(call, most_warm_up, timer)
    values = [_seconds(call, timer) for _ in range(calls)]
    p50, p95, p99 = (quantile(values, q, level=level) for q in (0.50, 0.95, 0.99))
    return Latency(p50, p95, p99, statistics.fmean(values), calls, warm_up, steady)


def _warm_up(call: Callable[[], object], most: int, timer: Callable[[], float]) -> tuple[int, bool]:
    before = math.inf
    for done in range(_WINDOW, most + 1, _WINDOW):
        median = statistics.median(_seconds(call, timer) for _ in range(_WINDOW))
        if abs(median - before) <= _STEADY * median:
            return done, True
        before = median
    return most // _WINDOW * _WINDOW, False


def _seconds(call: Callable[[], object], timer: Callable[[], float]) -> float:
    begin = timer()
    call()
    return timer() - begin


def quantile(values: Sequence[float], q: float, *, level: float = 0.95) -> Quantile:
    """The ``q`` quantile by nearest rank, with its distribution-free interval.

    Parameters
    ----------
    values : sequence of float
        Independent measurements, in any order and unit.
    q : float
        In (0, 1).
    level : float
        The interval covers the true quantile with at least this probability, in (0, 1).

    Raises
    ------
    InputError
        There are no values, or ``q`` or ``level`` lies outside its range.
    """
    from scipy.stats import binom

    for name, number in (("q", q), ("level", level)):
        if not 0 < number < 1:
            raise InputError(name, needed="a number between 0 and 1", found=str(number))
    if not values:
        raise InputError("a quantile needs values", found="none")
    ordered = sorted(values)
    n = len(ordered)
    tail = (1 - level) / 2
    # Ranks count from 1. P(fewer than `lower` values lie below the quantile) <= tail, and so on.
    lower = int(binom.ppf(tail, n, q))
    upper = int(binom.ppf(1 - tail, n, q)) + 1
    return Quantile(
        q,
        ordered[math.ceil(q * n) - 1],
        ordered[lower - 1] if lower >= 1 else -math.inf,
        ordered[upper - 1] if upper <= n else math.inf,
    )
