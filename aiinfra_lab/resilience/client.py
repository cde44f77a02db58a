"""The client of a model server that stays sane in an outage.

One session for its life, one breaker for each endpoint, one deadline for each call. Within the
deadline it asks the endpoints in order, again where the retry budget allows it, and then the
fallbacks. What it never does: wait beyond the deadline, answer a fault with more load than the
budget, hide whose answer it gives, or count the caller's own mistake as an outage.

Time. Waits, the deadline and the breakers are measured on ``clock``; the timers that cut an
attempt off are the event loop's. With the machine's clock both are one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

import aiohttp

from aiinfra_lab.clock import Clock, SystemClock
from aiinfra_lab.errors import InputError
from aiinfra_lab.resilience.answers import Answer, Question, Source, ask_many, ask_one
from aiinfra_lab.resilience.breaker import CircuitBreaker
from aiinfra_lab.resilience.checks import whole
from aiinfra_lab.resilience.dispatch import Dispatcher, Statistics
from aiinfra_lab.resilience.endpoints import Attempt, Endpoint, checked_url
from aiinfra_lab.resilience.failures import (
    ClientClosed,
    EndpointFailed,
    RequestRejected,
    ServiceUnavailable,
)
from aiinfra_lab.resilience.fallbacks import Default, Fallback, checked_fallbacks
from aiinfra_lab.resilience.limits import client_rules, divide
from aiinfra_lab.resilience.refusals import CircuitOpen
from aiinfra_lab.resilience.retries import Hedge, Retry
from aiinfra_lab.resilience.rules import Rules

_KEEP_ALIVE = 4.0  # seconds; uvicorn closes an idle connection after 5
_DNS_TTL = 30  # seconds
_MOST_CONNECTIONS = 65_535


_STANDARD = Retry()  # stands for "as usual"; each client then gets a budget of its own


class MLServiceClient:
    """Ask model servers for predictions, within a deadline, whatever state they are in.

    Parameters
    ----------
    endpoints : str or sequence of str
        Base URLs in order of preference; each has its own breaker and its own connections.
    rules : Rules, optional
        Of every breaker. By default a call is slow after 0.8 of ``attempt_timeout``, and the
        circuit tries again after 2 s, then more rarely. Verdicts left at their default become
        ``http_verdicts``.
    deadline : float
        Seconds for a whole call: waiting for a connection, retries and fallbacks included.
    attempt_timeout : float
        Seconds for one attempt; cut to what the fallbacks' reserves leave of the deadline.
    connect_timeout : float, optional
        Seconds for its TCP connection; by default half of ``attempt_timeout``.
    pool : int
        Connections to each endpoint.
    retry : Retry or None
        None: the first failed attempt ends the call.
    hedge : Hedge, optional
    fallback : LastGoodModel, Default, or a sequence of them, optional
        Asked in order when no endpoint answers. Without one the call raises.
    headers : mapping of str to str, optional
        Sent with every request, for instance ``Authorization``.
    trust_env : bool
        Take proxies from the environment.
    observe : callable, optional
        Gets an ``Attempt`` after each attempt that was sent. What it raises is logged.
    clock : Clock, optional
    rng : random.Random, optional
        Draws all jitter. Give a seed to tests, not to a fleet.

    Raises
    ------
    InputError
        A parameter out of its range or of the wrong kind.

    Notes
    -----
    For the tasks of one event loop. An attempt that the deadline cuts short is judged by the
    breaker as cancelled: it counts if it was slow. An attempt that had its time and gave no whole
    answer is a failure.

    Examples
    --------
    >>> async with MLServiceClient(
    ...     ["http://a:8000", "http://b:8000"],
    ...     fallback=[LastGoodModel("http://c:8000"), Default(label="unknown")],
    ... ) as client:  # doctest: +SKIP
    ...     answer = await client.predict(image)
    ...     print(answer.prediction.label, answer.source, answer.reason)
    """

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        rules: Rules | None = None,
        deadline: float = 1.0,
        attempt_timeout: float = 0.4,
        connect_timeout: float | None = None,
        pool: int = 100,
        retry: Retry | None = _STANDARD,
        hedge: Hedge | None = None,
        fallback: Fallback | Sequence[Fallback] | None = None,
        headers: Mapping[str, str] | None = None,
        trust_env: bool = False,
        observe: Callable[[Attempt], object] | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._fallbacks = checked_fallbacks(fallback)
        urls = _checked_urls(endpoints)
        _refuse_twins(
            [*urls, *(each.url for each in self._fallbacks if not isinstance(each, Default))]
        )
        whole("pool", pool, 1, _MOST_CONNECTIONS)
        for name, value, kind in (
            ("rules", rules, Rules),
            ("retry", retry, Retry),
            ("hedge", hedge, Hedge),
        ):
            if value is not None and not isinstance(value, kind):
                raise InputError(f"{name} is a {kind.__name__} or None", found=repr(value))
        if observe is not None and not callable(observe):
            raise InputError("observe is a function of one argument", found=repr(observe))
        limits = divide(deadline, attempt_timeout, connect_timeout, hedge, self._fallbacks)
        self._limits, self._clock = limits, clock or SystemClock()
        rng = rng or random.Random()
        rules = client_rules(rules, limits.attempt, self._clock)

        def endpoint(url: str, source: Source, limit: float, fair: float) -> Endpoint:
            return Endpoint(
                url,
                source=source,
                rules=rules,
                pool=pool,
                limit=limit,
                fair=fair,
                clock=self._clock,
                rng=rng,
                observe=observe,
            )

        self._live = tuple(endpoint(url, "live", limits.attempt, limits.attempt) for url in urls)
        # A fallback has no retry to save time for, so its attempt may have all that is left.
        self._spare = {
            each: endpoint(each.url, "last_good", deadline, reserve)
            for each, reserve in limits.reserves.items()
        }
        self._statistics = Statistics()
        self._dispatcher = Dispatcher(
            self._live,
            retry=Retry() if retry is _STANDARD else retry,
            hedge=hedge,
            statistics=self._statistics,
            clock=self._clock,
            rng=rng,
        )
        self._trust_env = trust_env
        self._headers = {
            "Accept": "application/json",
            "Content-Type": "application/json",
            **(headers or {}),
        }
        self._session: aiohttp.ClientSession | None = None

    # ---- its life

    async def __aenter__(self) -> Self:
        """Make the session; connections come with the first calls."""
        if self._session is not None:
            raise InputError("the client is open already", fix="Share it between the tasks.")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # each endpoint counts its own
                keepalive_timeout=_KEEP_ALIVE,
                ttl_dns_cache=_DNS_TTL,
            ),
            # Cookies would tie every user of a program to one session of the server.
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._limits.connect),
            trust_env=self._trust_env,
        )
        for endpoint in self._all():
            endpoint.open(self._session)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all connections at once; calls that are under way end with ``ClientClosed``."""
        session, self._session = self._session, None
        for endpoint in self._all():
            endpoint.close()
        if session is not None:
            await session.close()

    # ---- questions

    async def predict(self, instance: object) -> Answer:
        """The prediction for one instance.

        Parameters
        ----------
        instance : array or nested lists
            One input of the model, such as an image. Whatever has ``tolist`` is an array.

        Raises
        ------
        InputError
            It cannot be sent as JSON, or the client is not open (``ClientClosed``).
        RequestRejected
            The server says that the request is wrong; nobody else is asked.
        ServiceUnavailable
            No endpoint answered within the deadline, and no fallback did.
        """
        return await self._answer(ask_one(instance))

    async def predict_batch(self, instances: object) -> Answer:
        """The predictions for several instances in one request; raises as ``predict`` does.

        Parameters
        ----------
        instances : array or sequence of instances
            At least one.
        """
        return await self._answer(ask_many(instances))

    async def _answer(self, question: Question) -> Answer:
        if self._session is None:
            raise ClientClosed
        began, statistics = self._clock.monotonic(), self._statistics
        statistics.requests += 1
        try:
            try:
                return await self._dispatcher.answer(question, began + self._limits.live)
            except ServiceUnavailable as error:
                outage = error
            return await self._fall_back(question, outage, began + self._limits.live)
        except RequestRejected:
            statistics.rejected += 1
            raise
        except ServiceUnavailable:
            statistics.unavailable += 1
            raise

    async def _fall_back(
        self, question: Question, outage: ServiceUnavailable, until: float
    ) -> Answer:
        """What the first fallback that has an answer says.

        ``until`` is the end of the live part. Each fallback adds its reserve, and with it has
        all that those before it left over.
        """
        if self._session is None:
            raise ClientClosed
        reason, causes = str(outage), dict(outage.causes)
        for fallback in self._fallbacks:
            if isinstance(fallback, Default):
                predictions = (fallback.prediction(),) * question.size
                answer = Answer(predictions, "", "", source="default", reason=reason)
            else:
                endpoint = self._spare[fallback]
                until += self._limits.reserves[fallback]
                remaining = partial(self._until, until)
                try:
                    answer = await endpoint.ask(question, remaining)
                except (CircuitOpen, EndpointFailed) as error:
                    causes[endpoint.url] = error
                    continue
                answer = replace(answer, reason=reason)
            counts = self._statistics.fallbacks
            counts[answer.source] = counts.get(answer.source, 0) + 1
            return answer
        raise ServiceUnavailable(outage.reason, causes, outage.retry_after)

    def _until(self, moment: float) -> float:
        return moment - self._clock.monotonic()

    # ---- looks

    @property
    def breakers(self) -> tuple[CircuitBreaker, ...]:
        """The breakers of all endpoints and fallbacks, for a ``BreakerCollector``."""
        return tuple(endpoint.breaker for endpoint in self._all())

    @property
    def statistics(self) -> Statistics:
        """What the client has done so far, as a copy."""
        return replace(
            self._statistics,
            attempts={endpoint.url: endpoint.attempts for endpoint in self._all()},
            fallbacks=dict(self._statistics.fallbacks),
        )

    def _all(self) -> Iterator[Endpoint]:
        yield from self._live
        yield from self._spare.values()


def _checked_urls(given: object) -> list[str]:
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, (list, tuple)) or not listed:
        raise InputError("endpoints is a list of at least one URL", found=repr(given))
    return [checked_url(url) for url in listed]


def _refuse_twins(urls: list[str]) -> None:
    if len(set(urls)) < len(urls):
        raise InputError(
            "a server is named twice",
            found=", ".join(urls),
            fix="Name it once: it has one breaker, and is an endpoint or a fallback.",
        )
