"""One model server: its breaker, its connections, and one attempt at it with a typed end."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import random
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp

from aiinfra_lab.clock import Clock
from aiinfra_lab.errors import InputError
from aiinfra_lab.resilience.answers import Answer, Question, Source, read_answer
from aiinfra_lab.resilience.breaker import CircuitBreaker
from aiinfra_lab.resilience.failures import (
    AttemptTimedOut,
    ClientClosed,
    ConnectionFailed,
    EndpointFailed,
    PoolExhausted,
    RequestRejected,
    StatusFailed,
    WrongAnswer,
)
from aiinfra_lab.resilience.refusals import CircuitOpen
from aiinfra_lab.resilience.rules import Rules
from aiinfra_lab.resilience.states import State

_log = logging.getLogger(__name__)
_LARGE = 1 << 20  # bytes; aiohttp wants larger bodies as a stream
_NEARLY = 0.95  # share of an attempt's time that is as good as the whole


class Attempt(NamedTuple):
    """One attempt that was sent, as ``observe`` gets it when it has ended.

    ``began`` is on the client's monotonic clock and ``seconds`` long. ``outcome`` is ``ok``,
    ``rejected``, ``timeout``, ``connection``, ``status``, ``wrong_answer``, or ``cancelled`` (by
    the caller, by the deadline, or because a hedge was quicker).
    """

    endpoint: str
    began: float
    seconds: float
    outcome: str


class Endpoint:
    """A server under a base URL, asked by one client.

    The breaker is around one attempt, so retries and hedges are counted one by one. Waiting for
    a connection is outside of it: that the client itself is busy says nothing about the server.

    Parameters
    ----------
    pool : int
        Connections to this endpoint. Its own, so that a server that hangs cannot take those of
        its neighbour.
    limit : float
        Seconds that an attempt may take.
    fair : float
        Seconds after which an attempt without an answer is the server's failure; one that the
        deadline leaves less is not, unless it was slow by the breaker's rules.
    """

    def __init__(
        self,
        url: str,
        *,
        source: Source,
        rules: Rules,
        pool: int,
        limit: float,
        fair: float,
        clock: Clock,
        rng: random.Random,
        observe: Callable[[Attempt], object] | None,
    ) -> None:
        self.url, self.source = url, source
        self.breaker = CircuitBreaker(url, rules, clock=clock, rng=rng)
        self.attempts = 0  # that were sent
        self._address = f"{url}/predict"
        self._pool, self._limit, self._fair = pool, limit, _NEARLY * fair
        self._clock, self._observe = clock, observe
        self._session: aiohttp.ClientSession | None = None
        self._free = asyncio.Semaphore(pool)

    def open(self, session: aiohttp.ClientSession) -> None:
        """Use ``session`` from now on; its loop is the running one."""
        self._session, self._free = session, asyncio.Semaphore(self._pool)

    def close(self) -> None:
        """Begin no more attempts; those that are out end with ``ClientClosed``."""
        self._session = None

    def refusal(self) -> CircuitOpen | None:
        """What the breaker would say to an attempt now, if it refused it; takes no permit."""
        state = self.breaker.state
        if state in (State.OPEN, State.HALF_OPEN, State.FORCED_OPEN):
            seen = self.breaker.snapshot()
            if seen.permits == 0 and seen.retry_after > 0:
                return CircuitOpen(seen.retry_after, self.url, state)
        return None

    async def ask(self, question: Question, remaining: Callable[[], float]) -> Answer:
        """One attempt, in ``remaining()`` seconds at most.

        Raises
        ------
        CircuitOpen, PoolExhausted
            Nothing was sent.
        EndpointFailed
            It was, and no good answer came.
        RequestRejected
            The server says that the request is wrong.
        """
        async with self._connection(remaining):
            left = remaining()
            if left <= 0:
                raise PoolExhausted(self.url, "could not be asked in time")
            if left >= self._fair:
                found = await self.breaker.call(self._send, question, min(left, self._limit))
            else:
                # Too short to blame the server for: the attempt is cancelled, and the breaker
                # judges a cancelled call by the time it took.
                try:
                    async with asyncio.timeout(left):
                        found = await self.breaker.call(self._send, question, None)
                except TimeoutError:
                    raise AttemptTimedOut(
                        self.url, f"gave no answer in the {left:.2g} s that were left"
                    ) from None
        if isinstance(found, RequestRejected):
            raise found  # outside the breaker: whatever its rules, an answer is no outage
        return found

    @contextlib.asynccontextmanager
    async def _connection(self, remaining: Callable[[], float]) -> AsyncIterator[None]:
        free = self._free
        if not free.locked():
            await free.acquire()  # at once
        elif refusal := self.refusal():
            raise refusal  # nobody queues for a circuit that is open
        else:
            try:
                async with asyncio.timeout(remaining()):
                    await free.acquire()
            except TimeoutError:
                raise PoolExhausted(
                    self.url, f"had all its {self._pool} connections in use"
                ) from None
        try:
            yield
        finally:
            free.release()

    async def _send(self, question: Question, seconds: float | None) -> Answer | RequestRejected:
        """Send it once, and tell the observer how it ended."""
        self.attempts += 1
        began, outcome = self._clock.monotonic(), "cancelled"
        try:
            async with asyncio.timeout(seconds):
                found = await self._exchange(question)
            outcome = "rejected" if isinstance(found, RequestRejected) else "ok"
            return found
        except TimeoutError:
            outcome = AttemptTimedOut.outcome
            raise AttemptTimedOut(self.url, f"gave no answer in {seconds:.3g} s") from None
        except EndpointFailed as error:
            outcome = error.outcome
            raise
        finally:
            if self._observe is not None:
                took = self._clock.monotonic() - began
                try:
                    self._observe(Attempt(self.url, began, took, outcome))
                except Exception:
                    _log.exception("the observer of %s failed", self.url)

    async def _exchange(self, question: Question) -> Answer | RequestRejected:
        session = self._session
        if session is None:
            raise ClientClosed
        body: bytes | io.BytesIO = question.body
        if len(question.body) >= _LARGE:
            body = io.BytesIO(question.body)
        try:
            # A redirect would turn POST into GET, and an endpoint is what was configured.
            async with session.post(self._address, data=body, allow_redirects=False) as response:
                status, headers = response.status, response.headers
                payload = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            if session.closed:
                raise ClientClosed from None
            raise self._failure(error) from error
        if status == 200:
            try:
                return read_answer(payload, question, self.url, self.source)
            except ValueError as error:
                raise WrongAnswer(self.url, f"gave a wrong answer ({error})") from None
        if status >= 500 or status == 429:
            raise StatusFailed(self.url, status, headers)
        if status == 408:
            raise AttemptTimedOut(self.url, "gave up waiting for the request (status 408)")
        if status >= 400:
            return RequestRejected(status, _detail(payload), self.url)
        raise WrongAnswer(self.url, f"answers with status {status} instead of 200")

    def _failure(self, error: Exception) -> EndpointFailed:
        if isinstance(error, aiohttp.ServerTimeoutError):
            return AttemptTimedOut(self.url, "did not accept a connection in time")
        if isinstance(error, aiohttp.ClientPayloadError):
            return WrongAnswer(self.url, "broke its answer off")
        return ConnectionFailed(self.url, _in_words(error))


def checked_url(url: object) -> str:
    """``url`` without a slash at its end.

    Raises
    ------
    InputError
        It is no http or https URL with a host, or has a user, a password, a query or a fragment
        (the URL is the breaker's name and stands in errors: secrets go into ``headers``).
    """
    if isinstance(url, str):
        try:
            parts = urlsplit(url)
            whole = parts.scheme in ("http", "https") and bool(parts.hostname)
            more = parts.username or parts.password or parts.query or parts.fragment
            if whole and not more and parts.port != 0:
                return url.rstrip("/")
        except ValueError:
            pass
    raise InputError(
        "an endpoint is the base URL of a model server",
        found=repr(url),
        needed="http:// or https:// and a host, without user, password, query and fragment",
    )


def _in_words(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "has a name that DNS does not know"
    if isinstance(error, aiohttp.ClientSSLError):
        return "shows a certificate that is not trusted"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, ConnectionRefusedError):
        return "refuses connections"
    if isinstance(error, (aiohttp.ServerDisconnectedError, ConnectionResetError)):
        return "closed the connection without an answer"
    return f"cannot be spoken to ({type(cause).__name__})"


def _detail(payload: bytes) -> object:
    """What the server says about a rejected request: ``detail`` of its JSON, else its text."""
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        return payload[:2000].decode(errors="replace")
    return found.get("detail", found) if isinstance(found, dict) else found
