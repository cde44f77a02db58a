"""One breaker for each version of each model: a bad release must not shut the good one out."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from aiinfra_lab.clock import Clock
from aiinfra_lab.errors import InputError
from aiinfra_lab.resilience.controls import Controls
from aiinfra_lab.resilience.rules import Rules
from aiinfra_lab.resilience.states import Listener, Transition
from aiinfra_lab.seeding import substream_seed

_log = logging.getLogger(__name__)

Key = tuple[str, str]
B = TypeVar("B", bound=Controls)


class BreakerRegistry(Generic[B]):
    """Makes breakers at first use and gives the same one for the same model and version.

    Parameters
    ----------
    kind : type or function
        ``CircuitBreaker``, ``SyncCircuitBreaker``, or what makes a breaker when called like them:
        ``functools.partial(SharedCircuitBreaker, store=store)``.
    rules : Rules, optional
        For all that ``overrides`` does not name.
    overrides : mapping of (model, version) to Rules, optional
    clock : Clock, optional
    seed : int, optional
        Each breaker draws its jitter from a stream of its own under this seed; by default the
        operating system seeds. For tests: clients with one seed reopen in step.

    Notes
    -----
    ``get`` may be called from any thread. Versions come and go: ``retire`` one that is no longer
    served, or the registry and its metrics grow for ever. Never make keys of what a user sends.
    """

    def __init__(
        self,
        kind: Callable[..., B],
        rules: Rules | None = None,
        *,
        overrides: Mapping[Key, Rules] | None = None,
        clock: Clock | None = None,
        seed: int | None = None,
    ) -> None:
        if not _makes_breakers(kind):
            raise InputError("kind is a class of breakers, or makes one", found=repr(kind))
        self._kind = kind
        self._rules, self._clock, self._seed = rules, clock, seed
        self._overrides = {_key(*key): value for key, value in (overrides or {}).items()}
        self._breakers: dict[Key, B] = {}
        self._listeners: list[Listener] = []
        self._making = threading.Lock()

    def get(self, model: str, version: str | int) -> B:
        """The breaker of this version of this model; its name is ``model/version``.

        Raises
        ------
        InputError
            ``model`` is empty or holds a slash, or ``version`` is empty.
        """
        key = _key(model, version)
        if found := self._breakers.get(key):
            return found
        with self._making:
            if key not in self._breakers:
                name = "/".join(key)
                rng = random.Random(
                    None if self._seed is None else substream_seed(self._seed, *key)
                )
                made = self._kind(
                    name, self._overrides.get(key, self._rules), clock=self._clock, rng=rng
                )
                made.listen(self._relay)
                self._breakers[key] = made
            return self._breakers[key]

    def retire(self, model: str, version: str | int) -> None:
        """Forget a version; calls in flight end as they would. No error if it is unknown."""
        with self._making:
            breaker = self._breakers.pop(_key(model, version), None)
        if breaker is not None:
            breaker.retire()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Listen to all breakers, also to those not yet made; gives the way to stop it."""
        if not callable(listener):
            raise InputError("listener is a function of one argument", found=repr(listener))
        self._listeners.append(listener)

        def stop() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return stop

    def _relay(self, change: Transition) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(change)
            except Exception:
                _log.exception("a listener of circuit %r failed", change.name)

    def __iter__(self) -> Iterator[B]:
        """The breakers that exist, in the order in which they were made."""
        return iter(tuple(self._breakers.values()))

    def __len__(self) -> int:
        return len(self._breakers)


def _makes_breakers(kind: object) -> bool:
    return issubclass(kind, Controls) if isinstance(kind, type) else callable(kind)


def _key(model: str, version: str | int) -> Key:
    if not isinstance(model, str) or not model or "/" in model:
        raise InputError("model is a name without a slash", found=repr(model))
    if isinstance(version, bool) or not isinstance(version, (str, int)) or version == "":
        raise InputError("version is a number or a name", found=repr(version))
    return model, str(version)
