"""When a circuit opens and closes: the options, checked once, shared by many breakers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from aiinfra_lab.errors import InputError
from aiinfra_lab.resilience.checks import choice, positive, share, whole
from aiinfra_lab.resilience.reopening import Reopening
from aiinfra_lab.resilience.verdicts import Verdicts
from aiinfra_lab.resilience.windows import CountWindow, Tally, TimeWindow

_LARGEST = 1_000_000  # calls or seconds in a window; a count window takes one byte each
_DEFAULT_CALLS = 10


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The options of a breaker, under resilience4j's names where it has the option.

    Parameters
    ----------
    failure_rate_threshold : float
        Share of failures, above 0 and up to 1, at which the circuit opens.
    slow_call_rate_threshold : float
        The same for slow calls.
    slow_call_duration_threshold : float
        Seconds; a call that takes longer is slow. Put it below the timeout that callers set
        around the breaker, or calls that time out are never counted. ``math.inf`` for never.
    sliding_window_type : {"count", "time"}
        Whether the window is the last calls or the last seconds.
    sliding_window_size : int
        Calls or seconds.
    minimum_number_of_calls : int, optional
        Calls the window must hold before its rates decide. 10, or the window's size if less;
        resilience4j waits for 100, and a quiet service would be out for long before that.
    permitted_calls_in_half_open : int, optional
        Probes let through, and results after which half-open decides. 10, or the window's size if
        less (``permittedNumberOfCallsInHalfOpenState``).
    max_wait_in_half_open : float
        Seconds after which a half-open circuit without enough results opens again
        (``maxWaitDurationInHalfOpenState``). resilience4j waits for ever, and a probe that hangs
        then holds its permit for ever; ``math.inf`` asks for that.
    max_retry_after : float
        Seconds; a longer Retry-After is cut to this, so that one bad header cannot shut a
        dependency off for a year.
    verdicts : Verdicts
    reopening : Reopening

    Raises
    ------
    InputError
        A value outside its range, or two that contradict each other; the sentence names the
        parameter.
    """

    failure_rate_threshold: float = 0.5
    slow_call_rate_threshold: float = 1.0
    slow_call_duration_threshold: float = 60.0
    sliding_window_type: Literal["count", "time"] = "count"
    sliding_window_size: int = 100
    minimum_number_of_calls: int | None = None
    permitted_calls_in_half_open: int | None = None
    max_wait_in_half_open: float = 60.0
    max_retry_after: float = 600.0
    verdicts: Verdicts = field(default_factory=Verdicts)
    reopening: Reopening = field(default_factory=Reopening)

    minimum_calls: int = field(init=False, repr=False)
    """``minimum_number_of_calls`` with its default worked out."""
    permitted_calls: int = field(init=False, repr=False)
    """``permitted_calls_in_half_open`` with its default worked out."""

    def __post_init__(self) -> None:
        share("failure_rate_threshold", self.failure_rate_threshold)
        share("slow_call_rate_threshold", self.slow_call_rate_threshold)
        positive("slow_call_duration_threshold", self.slow_call_duration_threshold, infinite=True)
        choice("sliding_window_type", self.sliding_window_type, ("count", "time"))
        whole("sliding_window_size", self.sliding_window_size, 1, _LARGEST)
        positive("max_wait_in_half_open", self.max_wait_in_half_open, infinite=True)
        positive("max_retry_after", self.max_retry_after)
        for name, kind in (("verdicts", Verdicts), ("reopening", Reopening)):
            if not isinstance(getattr(self, name), kind):
                raise InputError(f"{name} is a {kind.__name__}", found=repr(getattr(self, name)))
        self._settle("minimum_calls", "minimum_number_of_calls")
        self._settle("permitted_calls", "permitted_calls_in_half_open")

    def _settle(self, name: str, option: str) -> None:
        """Check an option that counts calls; a count window cannot hold more than its size."""
        by_count = self.sliding_window_type == "count"
        limit = self.sliding_window_size if by_count else _LARGEST
        value = getattr(self, option)
        if value is None:
            value = min(_DEFAULT_CALLS, limit)
        whole(option, value, 1, _LARGEST)
        if value > limit:
            raise InputError(
                f"{option} is above sliding_window_size", found=str(value), needed=f"1..{limit}"
            )
        object.__setattr__(self, name, value)

    def new_window(self) -> CountWindow | TimeWindow:
        """An empty window for the closed state."""
        kind = CountWindow if self.sliding_window_type == "count" else TimeWindow
        return kind(self.sliding_window_size)

    def broken(self, tally: Tally) -> str | None:
        """Which rate of ``tally`` has reached its threshold, in words; None if neither.

        Whether there are enough calls is for the caller to say.
        """
        # Divided, not multiplied: 3 / 10 is the very float that 0.3 is, and 0.1 * 3 is not.
        if tally.failure_rate >= self.failure_rate_threshold:
            return "failure rate"
        if tally.slow_call_rate >= self.slow_call_rate_threshold:
            return "slow call rate"
        return None

    def is_slow(self, seconds: float) -> bool:
        """Whether a call of this length is slow."""
        return seconds > self.slow_call_duration_threshold
