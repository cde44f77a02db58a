"""One guarded call as a context manager, for code that is no single function."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, TypeVar

from aiinfra_lab.errors import InputError

T = TypeVar("T")
NOTHING = object()
"""Stands for a result that nobody gave."""


class Guarding(Protocol):
    """What a guard asks of its breaker."""

    def _begin(self) -> tuple[int, float]: ...

    def _end(
        self, generation: int, began: float, error: BaseException | None, result: object
    ) -> int | None: ...


class Guard:
    """Made by ``breaker.guard()``, for one call, with ``with`` or ``async with``.

    Entering takes a permit or raises ``CircuitOpen``; leaving judges what was raised. Neither
    ever waits. An object of its own per call is what keeps two tasks in the same breaker apart.

    Examples
    --------
    >>> async with breaker.guard() as call:  # doctest: +SKIP
    ...     answer = call.result(await session.get(url))
    """

    __slots__ = ("_began", "_breaker", "_generation", "_result")

    def __init__(self, breaker: Guarding) -> None:
        self._breaker, self._result = breaker, NOTHING
        self._generation: int | None = None
        self._began = 0.0

    def result(self, value: T) -> T:
        """Show ``value`` to the result predicate when the block ends; gives it back."""
        self._result = value
        return value

    def __enter__(self) -> Guard:
        if self._generation is not None:
            raise InputError("a guard is for one call", fix="Ask breaker.guard() for another.")
        self._generation, self._began = self._breaker._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._generation is not None
        self._breaker._end(self._generation, self._began, error, self._result)

    async def __aenter__(self) -> Guard:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)
