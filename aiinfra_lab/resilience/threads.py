"""The breaker for plain functions, shared by any number of threads."""

from __future__ import annotations

import functools
import inspect
import random
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from aiinfra_lab.clock import Clock
from aiinfra_lab.errors import InputError
from aiinfra_lab.resilience.controls import Controls
from aiinfra_lab.resilience.guard import NOTHING
from aiinfra_lab.resilience.rules import Rules

P = ParamSpec("P")
T = TypeVar("T")


class SyncCircuitBreaker(Controls):
    """``CircuitBreaker`` without asyncio; the specification is the same but for loops.

    A lock is held while a call is admitted and while it is counted, never while it runs, and
    never around predicates and listeners. All methods may be used from every thread.

    Parameters
    ----------
    name, rules, clock, rng
        As in ``CircuitBreaker``.

    Examples
    --------
    >>> breaker = SyncCircuitBreaker("registry")
    >>> breaker.call(int, "7")
    7
    """

    def __init__(
        self,
        name: str,
        rules: Rules | None = None,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(name, rules, clock=clock, rng=rng)
        self._step = threading.Lock()

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function(*args, **kwargs)`` under the breaker and give its result.

        Raises
        ------
        CircuitOpen
            The call was refused; ``function`` was not called.
        """
        generation, began = self._begin()
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            self._end(generation, began, error, NOTHING)
            raise
        self._end(generation, began, None, result)
        return result

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Decorate a plain function; each of its calls then goes through the breaker.

        Raises
        ------
        InputError
            ``function`` makes a coroutine or a generator: it would end before its work began.
        """
        lazy = (
            inspect.iscoroutinefunction,
            inspect.isgeneratorfunction,
            inspect.isasyncgenfunction,
        )
        if not callable(function) or any(test(function) for test in lazy):
            raise InputError(
                f"circuit {self.name!r} decorates plain functions",
                found=repr(function),
                fix="CircuitBreaker takes coroutine functions; guard() is for generators.",
            )

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            return self.call(function, *args, **kwargs)

        return guarded
