"""Where several processes keep the state of their circuits: a Redis or Valkey server.

Only changes of state and probes go through it. While a circuit is closed, calls are counted in
their own process and cost what they cost without a store; who sees its rates break tells the
others, by a message and, should that be lost, at their next look.

Each state has an *epoch*, and every change is a compare-and-set on it: of two processes that
change the same state, one is first, and the other learns what it changed to. A probe holds a
*lease*, renewed while its process lives: who is killed with a permit in hand loses it after
``lease`` seconds. Times are the server's own, as what is left of them: clocks are never compared.

The store may go away at any time. Then nothing waits for it (``timeout`` once), each circuit goes
on with its own state and its own permits, a warning says so, and when the store is back the more
careful word holds: a circuit opened meanwhile, here or there, is open for all.
"""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections.abc import Coroutine
from importlib import resources
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from redis.exceptions import RedisError

from aiinfra_lab.errors import InputError
from aiinfra_lab.resilience.checks import positive
from aiinfra_lab.resilience.states import State
from aiinfra_lab.resilience.windows import Tally

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import PubSub

_log = logging.getLogger(__name__)
_KEEP_S = 24 * 3600.0  # past its state's end; a record that nobody has changed for so long is gone
_LONGEST_BACKOFF_S = 5.0
ABSENT, ANY = 0, -1
"""Epochs: of a circuit without a record, and of an operator, whose word holds in each."""


class Record(NamedTuple):
    """What the store holds of one circuit.

    ``done`` tells whether the operation that gave this record took effect; ``remaining`` are
    seconds until the state ends, ``asked`` those that a Retry-After still asks for, ``tally`` the
    results of the probes, ``probes`` the leases that are out.
    """

    done: bool
    state: State
    epoch: int
    remaining: float
    attempt: int
    tally: Tally
    asked: float
    probes: int


class Member(Protocol):
    """What the store asks of a circuit."""

    name: str

    async def _catch_up(self) -> None:
        """Look, take the store's word or give one's own, and renew leases."""
        ...

    def _go_alone(self) -> None:
        """Hear that the store is lost."""
        ...


class CircuitStore:
    """The circuits of this process in a store that others share.

    Parameters
    ----------
    client : redis.asyncio.Redis
        For this store alone: give it socket timeouts, and close it after the store.
    prefix : str
        Begins all keys, and names the channel of the messages. Processes share a circuit if they
        share server, prefix and the circuit's name.
    lease : float
        Seconds after which the permit of a process that died is free again.
    timeout : float
        Seconds that one operation may take; after that the store counts as lost.

    Raises
    ------
    InputError
        A parameter is of the wrong kind or outside its range.

    Notes
    -----
    Belongs to one event loop. It begins to listen with the first call of a circuit, or in
    ``async with``, and ends with ``aclose()``.
    """

    def __init__(
        self,
        client: Redis,
        *,
        prefix: str = "circuit:",
        lease: float = 2.0,
        timeout: float = 0.25,
    ) -> None:
        if not hasattr(client, "register_script") or not hasattr(client, "aclose"):
            raise InputError("client is a redis.asyncio.Redis", found=repr(client))
        if not isinstance(prefix, str) or not prefix:
            raise InputError("prefix is a text that is not empty", found=repr(prefix))
        positive("lease", lease)
        positive("timeout", timeout)
        self._client, self._prefix, self._lease, self._timeout = client, prefix, lease, timeout
        source = resources.files(__package__).joinpath("circuit.lua").read_text("utf-8")
        self._script = client.register_script(source)
        self._members: dict[str, Member] = {}
        self._own_name = uuid.uuid4().hex
        self._leases = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._lost = self._closed = False

    @property
    def connected(self) -> bool:
        """Whether the store is in use and has answered when it was last asked."""
        return self._loop is not None and not self._lost

    # ---- what circuits ask for

    def add(self, member: Member) -> None:
        """Watch a circuit.

        Raises
        ------
        InputError
            This store has a circuit of that name: two in one process would count apart.
        """
        if member.name in self._members:
            raise InputError(
                f"the store has a circuit {member.name!r} in this process",
                fix="Share the breaker, or keep it in a registry.",
            )
        self._members[member.name] = member

    def remove(self, name: str) -> None:
        """Watch it no more; its record stays until it expires."""
        self._members.pop(name, None)

    def here(self) -> bool:
        """Whether the running event loop is the store's."""
        return self._loop is not None and self._loop is asyncio._get_running_loop()

    def begin(self) -> None:
        """Listen, if this loop does not yet.

        Raises
        ------
        InputError
            The store belongs to another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None and not self._closed:
            self._loop = loop
            self.spawn(self._watch())
        elif self._loop is not loop and not self._closed:
            raise InputError(
                "the store of the circuits belongs to another event loop",
                fix="Make a CircuitStore and its breakers in the loop that uses them.",
            )

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` beside everything else, at most until ``aclose``."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def look(self, name: str) -> Record | None:
        """The record of a circuit; None if the store is lost."""
        return await self._ask(name, "look", ABSENT)

    async def turn(
        self, name: str, epoch: int, state: State, lasts: float, attempt: int
    ) -> Record | None:
        """Enter a state for ``lasts`` seconds, if ``epoch`` is still the current one."""
        keep = _KEEP_S + (lasts if lasts < math.inf else 0.0)
        words = (state.value, _ms(lasts), attempt, _ms(keep), self._prefix, name)
        return await self._ask(name, "turn", epoch, *words)

    async def take(self, name: str, epoch: int, permits: int) -> tuple[Record | None, str]:
        """Take the permit of a probe; the record, and the name of the lease."""
        self._leases += 1
        holder = f"{self._own_name}:{self._leases}"
        return await self._ask(name, "take", epoch, holder, permits, _ms(self._lease)), holder

    async def renew(self, name: str, epoch: int, holders: list[str]) -> Record | None:
        """Keep the permits of probes that are still out."""
        return await self._ask(name, "renew", epoch, _ms(self._lease), *holders)

    async def settle(
        self, name: str, epoch: int, holder: str, code: int | None, pause: float
    ) -> Record | None:
        """Give a permit back with the result of its probe, or without one (``code`` None)."""
        result = "" if code is None else code
        return await self._ask(name, "settle", epoch, holder, result, _ms(pause))

    async def _ask(self, name: str, operation: str, epoch: int, *words: str | int) -> Record | None:
        if self._lost:
            return None
        # The braces keep both keys of a circuit on one node of a cluster.
        key = f"{self._prefix}{{{name}}}"
        known = "*" if epoch == ANY else str(epoch)
        try:
            async with asyncio.timeout(self._timeout):
                found = await self._script(
                    keys=[key, f"{key}:probes"], args=[operation, known, *words]
                )
        except (RedisError, OSError, TimeoutError) as error:
            self._lose(error)
            return None
        done, state, number, remaining, attempt, calls, failures, slow, asked, probes = found
        left = float(remaining)
        return Record(
            bool(done),
            State(state.decode() if isinstance(state, bytes) else state),
            int(number),
            math.inf if left < 0 else left / 1000,
            int(attempt),
            Tally(int(calls), int(failures), int(slow)),
            float(asked) / 1000,
            int(probes),
        )

    # ---- coming and going

    def _lose(self, error: Exception) -> None:
        if not self._lost:
            reason = str(error) or type(error).__name__
            _log.warning("the store of the circuits is lost, each goes on alone: %s", reason)
        self._lost = True
        for member in self._members.values():
            member._go_alone()

    async def _watch(self) -> None:
        """Listen to the others; where the store is lost, try again and again."""
        attempt = 0
        while not self._ending():
            try:
                if self._lost:  # what the pool still has are connections to the server that was
                    await self._client.connection_pool.disconnect(inuse_connections=False)
                async with self._client.pubsub(ignore_subscribe_messages=True) as messages:
                    async with asyncio.timeout(self._timeout):
                        await messages.subscribe(self._prefix)
                    if self._lost:
                        self._lost = False
                        _log.warning("the store of the circuits is back")
                    attempt = 0
                    await self._listen(messages)
            except (RedisError, OSError, TimeoutError) as error:
                self._lose(error)
            attempt += 1
            if not self._ending():
                await asyncio.sleep(min(self._timeout * 2 ** min(attempt, 10), _LONGEST_BACKOFF_S))

    def _ending(self) -> bool:
        """Whether this task is to end.

        Asked, because its cancellation may get lost: on Python 3.11 ``asyncio.wait_for``, which
        redis-py sends by, swallows one that comes as the sending ends.
        """
        task = asyncio.current_task()
        return self._closed or task is None or task.cancelling() > 0

    async def _listen(self, messages: PubSub) -> None:
        """Hear what changes, and look at everything three times within a lease.

        The looks are the heartbeat: they renew leases, catch what a message did not bring, and
        notice a server that no longer answers.
        """
        clock = asyncio.get_running_loop().time
        beat = clock()
        while not (self._lost or self._ending()):
            if (left := beat - clock()) > 0:
                message = await messages.get_message(timeout=left)
                name = message["data"] if message else ""
                name = name.decode() if isinstance(name, bytes) else name
                called = [self._members[name]] if name in self._members else []
            else:
                beat = clock() + self._lease / 3
                called = list(self._members.values())
            for member in called:
                await member._catch_up()

    async def aclose(self) -> None:
        """Stop listening; circuits then go on alone. The client is left open."""
        self._lost = self._closed = True
        for member in self._members.values():
            member._go_alone()
        while tasks := self._tasks - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=self._timeout)  # and again: see _ending

    async def __aenter__(self) -> Self:
        self.begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


def _ms(seconds: float) -> int:
    return -1 if seconds == math.inf else math.ceil(seconds * 1000)
