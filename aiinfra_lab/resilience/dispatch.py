"""One question among several endpoints: in order, again within the budget, or side by side."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from aiinfra_lab.clock import Clock
from aiinfra_lab.errors import AIInfraLabError
from aiinfra_lab.resilience.answers import Answer, Question
from aiinfra_lab.resilience.endpoints import Endpoint
from aiinfra_lab.resilience.failures import EndpointFailed, PoolExhausted, ServiceUnavailable
from aiinfra_lab.resilience.refusals import CircuitOpen
from aiinfra_lab.resilience.retries import Hedge, Retry, RetryBudget
from aiinfra_lab.resilience.states import State
from aiinfra_lab.resilience.verdicts import http_verdicts

_NO_ANSWER = (EndpointFailed, CircuitOpen)
_RESOLUTION = 1e-3  # seconds by which a sleep may end early


@dataclass
class Statistics:
    """What a client has done so far; ``client.statistics`` is a copy.

    ``attempts`` were sent, by endpoint, those of fallbacks and hedges included; ``fallbacks``
    answered, by ``source``. ``budget_refusals`` are retries and hedges that the budget forbade,
    ``unavailable`` the calls that ended without any answer.
    """

    requests: int = 0
    attempts: dict[str, int] = field(default_factory=dict)
    retries: int = 0
    hedges: int = 0
    budget_refusals: int = 0
    fallbacks: dict[str, int] = field(default_factory=dict)
    rejected: int = 0
    unavailable: int = 0


@dataclass
class _Call:
    """What one call has met so far."""

    question: Question
    until: float  # on the clock
    causes: dict[str, AIInfraLabError] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    not_before: dict[str, float] = field(default_factory=dict)  # by Retry-After
    retries: int = 0
    hedged: bool = False


class Dispatcher:
    """Sends a question to the live endpoints until one answers or there is a reason to stop."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        retry: Retry | None,
        hedge: Hedge | None,
        statistics: Statistics,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._endpoints, self._retry, self._hedge = endpoints, retry, hedge
        self._budget = retry.budget if retry else RetryBudget()  # hedges are paid from it too
        self._statistics, self._now, self._sleep = statistics, clock.monotonic, clock.sleep
        self._rng = rng
        self._pause_of = http_verdicts(judge_results=False, clock=clock).pause

    async def answer(self, question: Question, until: float) -> Answer:
        """The first good answer, before ``until`` on the clock.

        Raises
        ------
        RequestRejected
        ServiceUnavailable
        """
        call = _Call(question, until)
        self._budget.deposit(self._now())
        candidates = self._endpoints
        while True:
            for endpoint in candidates:
                try:
                    if self._hedge is None:
                        return await self._attempt(endpoint, call)
                    return await self._hedged(endpoint, call, self._hedge.after)
                except (CircuitOpen, PoolExhausted):
                    continue  # nothing was sent: to ask the next one is no retry
                except EndpointFailed:
                    break
            else:
                raise self._unavailable(call, "no endpoint takes calls")
            candidates = await self._wait(call)

    async def _attempt(self, endpoint: Endpoint, call: _Call) -> Answer:
        try:
            return await endpoint.ask(call.question, lambda: call.until - self._now())
        except (CircuitOpen, PoolExhausted) as error:
            call.causes.setdefault(endpoint.url, error)
            raise
        except EndpointFailed as error:
            call.causes[endpoint.url] = error
            call.tries[endpoint.url] = call.tries.get(endpoint.url, 0) + 1
            if pause := self._pause_of(error):
                call.not_before[endpoint.url] = self._now() + pause
            raise

    async def _hedged(self, first: Endpoint, call: _Call, after: float) -> Answer:
        """An attempt at ``first``, and one more beside it if it is slow; the quicker answer."""
        tasks = [asyncio.create_task(self._attempt(first, call))]
        try:
            running = set(tasks)
            done, _ = await asyncio.wait(running, timeout=after)
            if not done and (second := self._second(first, call)):
                tasks.append(asyncio.create_task(self._attempt(second, call)))
                running.add(tasks[-1])
            while running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    if task in done and not isinstance(task.exception(), _NO_ANSWER):
                        return task.result()  # or its error: the request was rejected
            return tasks[0].result()  # its error
        finally:
            for task in tasks:
                task.cancel()
            # Until the loser has ended, its connection and its permit are not free.
            await asyncio.gather(*tasks, return_exceptions=True)

    def _second(self, first: Endpoint, call: _Call) -> Endpoint | None:
        """Who gets the hedge: another endpoint, or ``first`` again where there is no other."""
        candidates = self._order(call)
        if not candidates or call.hedged:
            return None
        if not self._budget.withdraw(self._now()):
            self._statistics.budget_refusals += 1
            return None
        call.hedged = True
        self._statistics.hedges += 1
        return next((each for each in candidates if each is not first), candidates[0])

    async def _wait(self, call: _Call) -> Sequence[Endpoint]:
        """Wait before a retry and give the endpoints for it, or raise if there is to be none."""
        retry, now = self._retry, self._now()
        sent = sum(call.tries.values())
        if retry is None or sent >= retry.attempts:
            raise self._unavailable(call, f"{sent} attempt{'s' if sent > 1 else ''} failed")
        candidates = self._order(call)
        if not candidates:
            raise self._unavailable(call, "no endpoint takes calls")
        asked = max(0.0, call.not_before.get(candidates[0].url, now) - now)
        pause = retry.backoff.wait(call.retries, self._rng, asked)
        if now + pause >= call.until:
            raise self._unavailable(call, "the deadline leaves no time for a retry")
        if not self._budget.withdraw(now):
            self._statistics.budget_refusals += 1
            raise self._unavailable(call, "the retry budget is spent")
        call.retries += 1
        self._statistics.retries += 1
        await self._sleep(pause)
        now = self._now()
        return [
            each
            for each in self._order(call)
            if call.not_before.get(each.url, now) <= now + _RESOLUTION
        ]

    def _order(self, call: _Call) -> list[Endpoint]:
        """The endpoints that may be asked, the most promising first.

        Nobody is probed by a retry while a closed circuit is at hand: a call that has failed once
        needs an answer, not an experiment.
        """
        now = self._now()

        def rank(endpoint: Endpoint) -> tuple[float, bool, int]:
            return (
                max(0.0, call.not_before.get(endpoint.url, now) - now),
                endpoint.breaker.state is not State.CLOSED,
                call.tries.get(endpoint.url, 0),
            )

        return sorted((each for each in self._endpoints if not each.refusal()), key=rank)

    def _unavailable(self, call: _Call, reason: str) -> ServiceUnavailable:
        now = self._now()
        waits = []
        for endpoint in self._endpoints:
            refusal = endpoint.refusal()
            asked = call.not_before.get(endpoint.url, now) - now
            waits.append(max(0.0, asked, refusal.retry_after if refusal else 0.0))
        return ServiceUnavailable(reason, call.causes, min(waits))
