"""How a client divides its deadline: what the fallbacks keep, and what an attempt may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from aiinfra_lab.clock import Clock
from aiinfra_lab.errors import InputError
from aiinfra_lab.resilience.checks import positive
from aiinfra_lab.resilience.failures import ClientClosed
from aiinfra_lab.resilience.fallbacks import Fallback, LastGoodModel
from aiinfra_lab.resilience.reopening import Reopening
from aiinfra_lab.resilience.retries import Hedge
from aiinfra_lab.resilience.rules import Rules
from aiinfra_lab.resilience.verdicts import Verdicts, http_verdicts

_SLOW = 0.8  # share of an attempt's time after which it counts as slow


@dataclass(frozen=True)
class Limits:
    """Seconds: of a call, of its live part, of an attempt, of a connection, and kept in reserve."""

    deadline: float
    live: float
    attempt: float
    connect: float
    reserves: Mapping[LastGoodModel, float]


def divide(
    deadline: float,
    attempt_timeout: float,
    connect_timeout: float | None,
    hedge: Hedge | None,
    fallbacks: Sequence[Fallback],
) -> Limits:
    """The limits that follow from a client's parameters.

    Raises
    ------
    InputError
        One is out of its range, or two contradict each other.
    """
    positive("deadline", deadline)
    positive("attempt_timeout", attempt_timeout)
    if connect_timeout is not None:
        positive("connect_timeout", connect_timeout)
    if attempt_timeout > deadline:
        raise InputError(
            "attempt_timeout is longer than the deadline of the whole call",
            found=f"{attempt_timeout:g} s",
            needed=f"up to {deadline:g} s",
        )
    spare = [each for each in fallbacks if isinstance(each, LastGoodModel)]
    reserves = {
        each: min(attempt_timeout, deadline / 2 / len(spare))
        if each.reserve is None
        else each.reserve
        for each in spare
    }
    live = deadline - sum(reserves.values())
    if live <= 0:
        raise InputError(
            "the reserves of the fallbacks leave no time for the endpoints",
            found=f"{sum(reserves.values()):g} s of {deadline:g} s",
        )
    if hedge is not None and hedge.after >= live:
        raise InputError(
            "hedge.after is not below what the endpoints have of the deadline",
            found=f"{hedge.after:g} s",
            needed=f"below {live:g} s",
        )
    attempt = min(attempt_timeout, live)
    return Limits(deadline, live, attempt, connect_timeout or attempt / 2, reserves)


def client_rules(given: Rules | None, attempt: float, clock: Clock) -> Rules:
    """``given`` with verdicts that know HTTP, or the rules of a client whose user gave none.

    Slow is below the timeout, so that calls which the deadline cancels are counted. The first
    wait is long for a caller and short for a restart.
    """
    verdicts = http_verdicts(ignore=ClientClosed, judge_results=False, clock=clock)
    if given is not None:
        return replace(given, verdicts=verdicts) if given.verdicts == Verdicts() else given
    return Rules(
        slow_call_duration_threshold=_SLOW * attempt,
        sliding_window_size=50,
        permitted_calls_in_half_open=3,
        reopening=Reopening(first_wait=2.0, max_wait=60.0),
        verdicts=verdicts,
    )
