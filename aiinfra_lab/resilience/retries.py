"""When an attempt may be repeated: backoff, a budget against retry storms, and hedging.

A server in trouble gets more load from every client that asks again: three attempts each are
three times the traffic, at the worst moment. The budget bounds that. Retries are a small share of
the requests, however many of those fail.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from aiinfra_lab.errors import InputError
from aiinfra_lab.resilience.checks import positive, whole
from aiinfra_lab.resilience.reopening import Jitter, Reopening

_MOST_ATTEMPTS = 100
_ROUNDING = 1e-9  # ten times 0.1 is a little less than 1


class RetryBudget:
    """A token bucket: a request brings ``ratio`` tokens, a retry or a hedge costs one.

    So in any T seconds with N requests at most ``N * ratio + T * per_second + capacity`` retries
    are sent.

    Parameters
    ----------
    ratio : float
        Retries per request in the long run, 0 to 1.
    per_second : float
        Tokens that come by time alone: a client with little traffic may still retry.
    capacity : float
        Most tokens that are kept, and what a new bucket holds. It bounds the burst after a quiet
        time.

    Raises
    ------
    InputError
        A parameter out of its range.

    Notes
    -----
    Not for several threads. Clients of one program that speak to the same servers may share one.

    References
    ----------
    Finagle's ``RetryBudget(ttl, minRetriesPerSec, percentCanRetry)`` has the deposit per request
    and the floor per second; gRPC's retry throttling (proposal A6: ``maxTokens``, ``tokenRatio``)
    has the cap that takes the place of Finagle's expiry here.
    """

    __slots__ = ("_seen", "_tokens", "capacity", "per_second", "ratio")

    def __init__(
        self, ratio: float = 0.1, *, per_second: float = 1.0, capacity: float = 10.0
    ) -> None:
        _between("ratio", ratio, 0, 1)
        _between("per_second", per_second, 0, 1e6)
        _between("capacity", capacity, 0, 1e6)
        self.ratio, self.per_second, self.capacity = ratio, per_second, capacity
        self._tokens = float(capacity)
        self._seen: float | None = None

    def deposit(self, now: float) -> None:
        """Count a request at ``now`` seconds on the caller's monotonic clock."""
        self._refill(now)
        self._tokens = min(self.capacity, self._tokens + self.ratio)

    def withdraw(self, now: float) -> bool:
        """Take a token for one more attempt; False, and nothing taken, where there is none."""
        self._refill(now)
        if self._tokens < 1 - _ROUNDING:
            return False
        self._tokens = max(0.0, self._tokens - 1)
        return True

    def balance(self, now: float) -> float:
        """Tokens at ``now``."""
        self._refill(now)
        return self._tokens

    def _refill(self, now: float) -> None:
        if self._seen is not None and now > self._seen:
            grown = self._tokens + (now - self._seen) * self.per_second
            self._tokens = min(self.capacity, grown)
        if self._seen is None or now > self._seen:
            self._seen = now


@dataclass(frozen=True, kw_only=True)
class Backoff(Reopening):
    """The wait before the k-th retry: full jitter under an exponential bound, in seconds.

    It is the formula of ``Reopening`` with the numbers of a call instead of those of an outage.
    """

    first_wait: float = 0.025
    multiplier: float = 2.0
    max_wait: float = 1.0
    jitter: Jitter = "full"


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often a call may be repeated, and after which wait.

    Parameters
    ----------
    attempts : int
        Attempts of one call in all, the first included, 1 to 100.
    budget : RetryBudget
        Shared by all calls of the client.
    backoff : Backoff or Reopening

    Raises
    ------
    InputError
        A parameter out of its range or of the wrong kind.
    """

    attempts: int = 3
    budget: RetryBudget = field(default_factory=RetryBudget)
    backoff: Reopening = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        whole("attempts", self.attempts, 1, _MOST_ATTEMPTS)
        if not isinstance(self.budget, RetryBudget):
            raise InputError("budget is a RetryBudget", found=repr(self.budget))
        if not isinstance(self.backoff, Reopening):
            raise InputError("backoff is a Backoff", found=repr(self.backoff))


@dataclass(frozen=True)
class Hedge:
    """A second attempt beside a slow first one, paid from the retry budget; the first answer wins.

    Parameters
    ----------
    after : float
        Seconds. About the 95th percentile of the server's time keeps the extra load near 5 %.

    References
    ----------
    J. Dean and L. A. Barroso, "The Tail at Scale", Communications of the ACM 56(2), 2013.
    """

    after: float

    def __post_init__(self) -> None:
        positive("hedge.after", self.after)


def _between(name: str, value: object, low: float, high: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # type: ignore[operator]
        raise InputError(f"{name} is a number in {low:g}..{high:g}", found=repr(value))
