"""What an error or an answer says about the dependency: success, failure, or nothing.

As in resilience4j, ``ignore`` wins over ``record``, and an error that is neither counts as a
success: the other side answered. Cancellation is not judged here but by the breaker: only the
time it took can tell an outer timeout from a caller that changed its mind.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any

from aiinfra_lab.clock import Clock, SystemClock
from aiinfra_lab.errors import InputError

_log = logging.getLogger(__name__)

ErrorTest = Callable[[Exception], bool]
Errors = type[Exception] | tuple[type[Exception], ...] | ErrorTest


class Verdict(Enum):
    """What one call counts as."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORE = "ignore"
    """Not counted at all; a probe gives its permit back."""


# Results of these types have no status, and looking for one costs a microsecond.
_PLAIN = frozenset({dict, list, tuple, str, bytes, int, float, bool, type(None)})
_SUCCESS = Verdict.SUCCESS  # on Python 3.11 an enum's member is slower to reach than a global
ResultTest = Callable[[Any], Verdict | bool]


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """How a breaker judges; the default counts every ``Exception`` as a failure.

    Parameters
    ----------
    record : exception type, tuple of them, or predicate of an error
        Failures. resilience4j's ``recordExceptions`` and ``recordException``.
    ignore : the same
        Errors that say nothing, such as a fault in the caller's own input.
    result : callable, optional
        Gets what the call returned; a ``Verdict``, or True for a failure
        (``recordResultPredicate``).
    retry_after : callable, optional
        Gets a failure (the error, or the result); the seconds that the other side asked to be
        left alone, or None.

    Raises
    ------
    InputError
        A parameter is of the wrong kind, ``asyncio.CancelledError`` included.

    Notes
    -----
    A predicate that raises is logged, and its case counts as if it were not there: an error as a
    failure, a result as a success. A fault in a predicate costs nobody an answer.
    """

    record: Errors = Exception
    ignore: Errors = ()
    result: ResultTest | None = None
    retry_after: Callable[[Any], float | None] | None = None

    def __post_init__(self) -> None:
        for name in ("record", "ignore"):
            _check_errors(name, getattr(self, name))
        for name in ("result", "retry_after"):
            found = getattr(self, name)
            if found is not None and not callable(found):
                raise InputError(f"{name} is a function of one argument", found=repr(found))

    def of_error(self, error: Exception) -> Verdict:
        """The verdict on an error that the call raised."""
        try:
            if _matches(self.ignore, error):
                return Verdict.IGNORE
            return Verdict.FAILURE if _matches(self.record, error) else Verdict.SUCCESS
        except Exception:
            _log.exception("a predicate on errors failed; the call counts as a failure")
            return Verdict.FAILURE

    def of_result(self, result: object) -> Verdict:
        """The verdict on what the call returned."""
        if self.result is None:
            return Verdict.SUCCESS
        try:
            found = self.result(result)
        except Exception:
            _log.exception("a predicate on results failed; the call counts as a success")
            return Verdict.SUCCESS
        if found is False:
            return _SUCCESS
        if isinstance(found, Verdict):
            return found
        return Verdict.FAILURE if found else Verdict.SUCCESS

    def pause(self, found: object) -> float:
        """Seconds that the failure ``found`` asks for; 0 if none."""
        if self.retry_after is None:
            return 0.0
        try:
            seconds = self.retry_after(found)
            return 0.0 if seconds is None or math.isnan(seconds) else max(0.0, float(seconds))
        except Exception:
            _log.exception("reading Retry-After failed; it is taken as absent")
            return 0.0


def http_verdicts(
    *, ignore: Errors = (), judge_results: bool = True, clock: Clock | None = None
) -> Verdicts:
    """Verdicts for an HTTP client: aiohttp, httpx, requests, or anything with their attributes.

    A status of 5xx is a failure and so is 429; 429 and 503 say by Retry-After how long to wait.
    Any other status is an answer, and an answer is a success: a 404 is no outage. An error
    without a status (refused, reset, timed out, not found in DNS) is a failure.

    Parameters
    ----------
    ignore : as in ``Verdicts``
    judge_results : bool
        False where the client raises for a bad status: then no answer is looked at, and a call
        that succeeds takes the breaker's short way.
    clock : Clock, optional
        Whose ``now()`` a Retry-After given as a date is compared with.

    References
    ----------
    RFC 9110, sections 10.2.3 and 15.6; RFC 6585, section 4.
    """
    now = (clock or SystemClock()).now

    def retry_after(found: object) -> float | None:
        if status_of(found) not in {429, 503}:
            return None
        text = _header(found, "Retry-After")
        if text is None:
            return None
        try:
            seconds = float(text)
        except ValueError:
            try:
                seconds = (parsedate_to_datetime(text) - now()).total_seconds()
            except (ValueError, TypeError):  # no date, or one without a zone
                return None
        return seconds if math.isfinite(seconds) else None

    def outage(error: Exception) -> bool:
        status = status_of(error)
        return status is None or _is_outage(status)

    def refused(result: object) -> bool:
        # Every call of a client comes here: with a good answer of aiohttp, or with parsed JSON.
        if result.__class__ in _PLAIN:
            return False
        status = getattr(result, "status", None)
        if status.__class__ is int and 200 <= status < 300:
            return False
        status = status_of(result)
        return status is not None and _is_outage(status)

    result = refused if judge_results else None
    return Verdicts(record=outage, ignore=ignore, result=result, retry_after=retry_after)


def status_of(found: object) -> int | None:
    """The HTTP status of a response, or of the response an error carries; None without one."""
    for thing in (found, getattr(found, "response", None)):
        for name in ("status", "status_code"):
            status = getattr(thing, name, None)
            if isinstance(status, int) and 100 <= status <= 599:
                return int(status)
    return None


def _is_outage(status: int) -> bool:
    return 500 <= status <= 599 or status == 429


def _header(found: object, name: str) -> str | None:
    for thing in (found, getattr(found, "response", None)):
        headers = getattr(thing, "headers", None)
        if headers is not None:
            for spelling in (name, name.lower()):
                if (text := headers.get(spelling)) is not None:
                    return str(text)
    return None


def _matches(wanted: Errors, error: Exception) -> bool:
    if isinstance(wanted, (type, tuple)):
        return isinstance(error, wanted)
    return bool(wanted(error))


def _check_errors(name: str, wanted: object) -> None:
    kinds = wanted if isinstance(wanted, tuple) else (wanted,)
    if not isinstance(wanted, (tuple, type)) and callable(wanted):
        return
    for kind in kinds:
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            raise InputError(
                f"{name} is made of exception types, or is a predicate",
                found=repr(kind),
                needed="subclasses of Exception",
                fix="Cancellation is judged by slow_call_duration_threshold.",
            )
