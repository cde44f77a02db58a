"""What both breakers offer beside calling: guards, operators' switches, listeners, a look.

A step of the circuit runs inside ``self._step``: nothing in one event loop, a lock between
threads. Foreign code (predicates, listeners) always runs outside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from aiinfra_lab.errors import InputError
from aiinfra_lab.resilience.circuit import Circuit
from aiinfra_lab.resilience.guard import NOTHING, Guard
from aiinfra_lab.resilience.states import Listener, Snapshot, State
from aiinfra_lab.resilience.verdicts import Verdict


class Controls(Circuit):
    """Base of ``CircuitBreaker`` and ``SyncCircuitBreaker``."""

    _step: contextlib.AbstractContextManager[object] = contextlib.nullcontext()

    @property
    def state(self) -> State:
        """The state as the last call left it."""
        return self._state

    def snapshot(self) -> Snapshot:
        """A look at the circuit that changes nothing."""
        with self._step:
            return self._look(self._now())

    def guard(self) -> Guard:
        """A context manager for one call; see ``Guard``."""
        return Guard(self)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener(transition)`` after every change of state; gives the way to stop it.

        Raises
        ------
        InputError
            ``listener`` cannot be called.
        """
        if not callable(listener):
            raise InputError("listener is a function of one argument", found=repr(listener))
        self._listeners.append(listener)

        def stop() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return stop

    def reset(self) -> None:
        """Close the circuit with an empty window, from whatever state."""
        self._set(State.CLOSED, "reset")

    def force_open(self) -> None:
        """Refuse all calls until ``reset()``."""
        self._set(State.FORCED_OPEN, "forced open")

    def disable(self) -> None:
        """Let all calls pass and count nothing until ``reset()``."""
        self._set(State.DISABLED, "disabled")

    def only_measure(self) -> None:
        """Let all calls pass and count them until ``reset()``: a rehearsal of the thresholds."""
        self._set(State.METRICS_ONLY, "only measuring")

    def retire(self) -> None:
        """Hear that nobody will ask for this breaker again; calls in flight end as they would."""

    def _set(self, after: State, reason: str) -> None:
        with self._step:
            self._move(after, reason)
        self._tell()

    def _begin(self) -> tuple[int, float]:
        """Let a call begin; its generation, and when it began."""
        began = self._now()
        return self._enter(began), began

    def _enter(self, now: float) -> int:
        try:
            with self._step:
                return self._admit(now)
        finally:
            self._tell()

    def _end(
        self, generation: int, began: float, error: BaseException | None, result: object
    ) -> int | None:
        """Judge a call that has ended, and count it."""
        now, verdicts = self._now(), self.rules.verdicts
        if error is None:
            verdict = Verdict.SUCCESS if result is NOTHING else verdicts.of_result(result)
            return self._count(generation, began, now, verdict, result)
        if isinstance(error, Exception):
            return self._count(generation, began, now, verdicts.of_error(error), error)
        with self._step:
            code = self._interrupted(generation, now, now - began, error)
        self._tell()
        return code

    def _count(
        self, generation: int, began: float, ended: float, verdict: Verdict, outcome: object
    ) -> int | None:
        """Count a call that was judged; ``outcome`` is its error or its result."""
        pause = self.rules.verdicts.pause(outcome) if verdict is Verdict.FAILURE else 0.0
        with self._step:
            code = self._ended(generation, ended, ended - began, verdict, pause)
        self._tell()
        return code
