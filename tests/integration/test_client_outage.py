"""What the client does about an outage: other endpoints, retries in a budget, hedges, fallbacks."""

import asyncio
import random

import pytest
from scripted_server import HANG, OK, closed_port, serving, status

from aiinfra_lab.clock import ManualClock
from aiinfra_lab.resilience import (
    Backoff,
    CircuitOpen,
    Default,
    Hedge,
    LastGoodModel,
    MLServiceClient,
    RequestRejected,
    Retry,
    RetryBudget,
    Rules,
    ServiceUnavailable,
    State,
)

IMAGE = [[0, 1], [2, 3]]
PATIENT = {"deadline": 20.0, "attempt_timeout": 10.0}
NEVER = Rules(sliding_window_size=10_000, minimum_number_of_calls=10_000)  # opens
SOON = Backoff(first_wait=1e-4, max_wait=1e-3)
FULL = RetryBudget(1.0, capacity=1000)


def retry(attempts=3, **budget):
    return Retry(attempts=attempts, budget=RetryBudget(**budget), backoff=SOON)


class Drawing(random.Random):
    """Draws the same number for ever."""

    def __init__(self, number):
        super().__init__(0)
        self.number = number

    def random(self):
        return self.number


async def outage(client):
    with pytest.raises(ServiceUnavailable) as caught:
        await client.predict(IMAGE)
    return caught.value


# ---- several endpoints


async def test_a_failed_attempt_is_repeated_at_the_other_endpoint():
    async with (
        serving(status(500)) as first,
        serving() as second,
        MLServiceClient([first.url, second.url], retry=retry(), **PATIENT) as client,
    ):
        answer = await client.predict(IMAGE)
    assert (answer.endpoint, answer.source) == (second.url, "live")
    assert (len(first.bodies), len(second.bodies)) == (1, 1)
    assert client.statistics.retries == 1


async def test_while_the_first_circuit_is_open_the_second_costs_no_retry():
    async with (
        serving() as second,
        MLServiceClient([closed_port(), second.url], retry=None, **PATIENT) as client,
    ):
        client.breakers[0].force_open()
        answers = [await client.predict(IMAGE) for _ in range(5)]
    assert {answer.endpoint for answer in answers} == {second.url}
    assert sum(client.statistics.attempts.values()) == 5


async def test_the_preferred_endpoint_is_found_again_when_it_is_back():
    clock = ManualClock()
    rules = Rules(sliding_window_size=1)
    async with (
        serving(script=[status(500)]) as first,
        serving() as second,
        MLServiceClient(
            [first.url, second.url], rules=rules, clock=clock, rng=Drawing(0.0), **PATIENT
        ) as client,
    ):
        endpoints = [(await client.predict(IMAGE)).endpoint for _ in range(2)]
        clock.advance(60)
        endpoints.append((await client.predict(IMAGE)).endpoint)
        assert client.breakers[0].state is State.CLOSED
    assert endpoints == [second.url, second.url, first.url]


async def test_a_retry_probes_nobody_while_a_closed_circuit_is_at_hand():
    clock = ManualClock()
    rules = Rules(sliding_window_size=2)
    async with (
        serving(script=[status(500)]) as first,
        serving(status(500)) as second,
        MLServiceClient(
            [first.url, second.url],
            rules=rules,
            retry=retry(2),
            clock=clock,
            rng=Drawing(0.0),
            **PATIENT,
        ) as client,
    ):
        client.breakers[1]._open(clock.monotonic(), "a test")
        clock.advance(600)  # it may be probed
        answer = await client.predict(IMAGE)
    assert answer.endpoint == first.url
    assert len(second.bodies) == 0


# ---- retries


async def test_an_outage_of_all_endpoints_is_told_by_endpoint():
    refused = closed_port()
    async with (
        serving(status(503)) as server,
        MLServiceClient([refused, server.url], retry=retry(), **PATIENT) as client,
    ):
        error = await outage(client)
    assert set(error.causes) == {refused, server.url}
    assert str(error) == (
        f"no model server answered (3 attempts failed): {refused} refuses connections; "
        f"{server.url} answers with status 503"
    )
    assert sum(client.statistics.attempts.values()) == 3


@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_no_call_makes_more_attempts_than_allowed(attempts):
    async with (
        serving(status(500)) as server,
        MLServiceClient(
            server.url, rules=NEVER, retry=Retry(attempts=attempts, budget=FULL, backoff=SOON)
        ) as client,
    ):
        await outage(client)
    assert len(server.bodies) == attempts


async def test_in_a_whole_outage_the_attempts_stay_within_the_budget():
    calls, ratio, capacity = 400, 0.1, 5
    clock = ManualClock()  # it stands: the share by time alone brings nothing
    budget = RetryBudget(ratio, per_second=1.0, capacity=capacity)
    async with (
        serving(status(500)) as server,
        MLServiceClient(
            server.url,
            rules=NEVER,
            retry=Retry(attempts=4, budget=budget, backoff=SOON),
            clock=clock,
            rng=Drawing(0.0),
            **PATIENT,
        ) as client,
    ):
        errors = [await outage(client) for _ in range(calls)]
    done = client.statistics
    assert len(server.bodies) == done.attempts[server.url] == calls + done.retries
    assert capacity < done.retries <= calls * ratio + capacity
    assert "the retry budget is spent" in str(errors[-1])
    assert done.budget_refusals == sum("budget" in str(error) for error in errors) > 300


async def test_without_retries_each_call_is_one_attempt():
    async with (
        serving(status(500)) as server,
        MLServiceClient(server.url, rules=NEVER, retry=None, **PATIENT) as client,
    ):
        error = await outage(client)
    assert len(server.bodies) == 1
    assert "1 attempt failed" in str(error)


async def test_the_waits_are_full_jitter_under_a_doubling_bound():
    clock = ManualClock()
    waits = []
    slept = clock.sleep

    async def sleep(seconds):
        waits.append(seconds)
        clock.advance(seconds)
        await slept(0)

    clock.sleep = sleep
    backoff = Backoff(first_wait=1.0, multiplier=2.0, max_wait=5.0)
    async with (
        serving(status(500)) as server,
        MLServiceClient(
            server.url,
            rules=NEVER,
            deadline=100,
            attempt_timeout=10,
            retry=Retry(attempts=6, budget=FULL, backoff=backoff),
            clock=clock,
            rng=Drawing(0.5),
        ) as client,
    ):
        await outage(client)
    assert waits == [0.5, 1.0, 2.0, 2.5, 2.5]


async def test_a_retry_that_does_not_fit_into_the_deadline_is_not_waited_for():
    async with (
        serving(status(503, Retry_After="30")) as server,
        MLServiceClient(server.url, retry=retry(), **PATIENT) as client,
    ):
        error = await asyncio.wait_for(outage(client), 10)
    assert len(server.bodies) == 1
    assert "the deadline leaves no time" in str(error)
    assert 29 < error.retry_after <= 30


async def test_retry_after_is_kept_and_only_for_the_endpoint_that_said_so():
    clock = ManualClock()
    busy = status(503, Retry_After="2")
    options = {"clock": clock, "rng": Drawing(0.0), "retry": retry(), **PATIENT}
    async with serving(script=[busy]) as first, serving() as second:
        async with MLServiceClient([first.url, second.url], **options) as client:
            answer = await client.predict(IMAGE)
            assert answer.endpoint == second.url
        first.script.append(busy)
        async with MLServiceClient(first.url, **options) as client:
            call = asyncio.create_task(client.predict(IMAGE))
            while not clock._sleepers:
                await asyncio.sleep(0.001)
            clock.advance(1.99)
            await asyncio.sleep(0.01)
            assert (call.done(), len(first.bodies)) == (False, 2)
            clock.advance(0.01)
            assert (await call).endpoint == first.url
    assert (len(first.bodies), len(second.bodies)) == (3, 1)


async def test_the_deadline_holds_for_a_call_whatever_its_servers_do():
    async with (
        serving(HANG) as first,
        serving(HANG) as second,
        MLServiceClient(
            [first.url, second.url], rules=NEVER, deadline=0.6, attempt_timeout=0.2
        ) as client,
    ):
        loop = asyncio.get_running_loop()
        began = loop.time()
        await outage(client)
        took = loop.time() - began
    assert 0.39 < took < 5  # the upper limit is generous; the deadline itself is the timers'
    assert sum(client.statistics.attempts.values()) >= 2


# ---- hedges


async def test_a_hedge_answers_for_a_slow_endpoint_and_the_loser_is_let_go():
    clock = ManualClock()
    rules = Rules(sliding_window_size=1, permitted_calls_in_half_open=1)
    async with (
        serving(HANG) as slow,
        serving() as quick,
        MLServiceClient(
            [slow.url, quick.url],
            rules=rules,
            hedge=Hedge(0.02),
            clock=clock,
            **PATIENT,
        ) as client,
    ):
        client.breakers[0]._open(clock.monotonic(), "a test")
        clock.advance(600)
        answer = await client.predict(IMAGE)
        assert answer.endpoint == quick.url
        seen = client.breakers[0].snapshot()
        assert (seen.state, seen.permits, seen.calls["cancelled"]) == (State.HALF_OPEN, 1, 1)
        assert not client._session.connector._acquired
        while slow.active:
            await asyncio.sleep(0.001)
    assert (client.statistics.hedges, client.statistics.retries) == (1, 0)


async def test_a_quick_endpoint_is_not_hedged():
    async with (
        serving() as first,
        serving() as second,
        MLServiceClient([first.url, second.url], hedge=Hedge(5.0), **PATIENT) as client,
    ):
        for _ in range(5):
            await client.predict(IMAGE)
    assert (len(first.bodies), len(second.bodies)) == (5, 0)
    assert client.statistics.hedges == 0


async def test_a_single_endpoint_is_hedged_by_itself_and_the_budget_pays():
    async with (
        serving(script=[HANG, OK, HANG]) as server,
        MLServiceClient(
            server.url,
            deadline=5,
            attempt_timeout=0.8,
            hedge=Hedge(0.02),
            retry=retry(1, ratio=0, per_second=0, capacity=1),
        ) as client,
    ):
        await client.predict(IMAGE)
        error = await outage(client)
    assert len(server.bodies) == 3
    assert client.statistics.hedges == client.statistics.budget_refusals == 1
    assert "gave no answer in 0.8 s" in str(error)


async def test_when_the_hedge_fails_the_first_attempt_may_still_answer():
    async with (
        serving(0.5) as slow,
        serving(status(500)) as broken,
        MLServiceClient([slow.url, broken.url], hedge=Hedge(0.01), **PATIENT) as client,
    ):
        answer = await client.predict(IMAGE)
    assert answer.endpoint == slow.url
    assert len(broken.bodies) == client.statistics.hedges == 1
    assert client.statistics.retries == 0


async def test_a_rejection_ends_a_hedged_call_at_once():
    async with (
        serving(HANG) as slow,
        serving(status(422, "no")) as other,
        MLServiceClient([slow.url, other.url], hedge=Hedge(0.01), **PATIENT) as client,
    ):
        with pytest.raises(RequestRejected):
            await client.predict(IMAGE)


async def test_a_cancelled_call_takes_its_hedge_along():
    async with (
        serving(HANG) as first,
        serving(HANG) as second,
        MLServiceClient([first.url, second.url], hedge=Hedge(0.01), **PATIENT) as client,
    ):
        before = asyncio.all_tasks()
        task = asyncio.create_task(client.predict(IMAGE))
        while not second.active:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not client._session.connector._acquired
        left = [each for each in asyncio.all_tasks() - before if "_attempt" in repr(each)]
        assert left == []
        while first.active or second.active:
            await asyncio.sleep(0.001)


# ---- fallbacks


async def test_the_last_good_model_answers_and_says_why():
    async with (
        serving(version="1") as old,
        MLServiceClient(
            closed_port(), retry=None, fallback=LastGoodModel(old.url), **PATIENT
        ) as client,
    ):
        answer = await client.predict(IMAGE)
    assert (answer.source, answer.version, answer.endpoint) == ("last_good", "1", old.url)
    assert "refuses connections" in answer.reason
    assert client.statistics.fallbacks == {"last_good": 1}
    assert client.statistics.unavailable == 0
    assert len(client.breakers) == 2


async def test_a_default_answers_for_every_instance_when_nobody_else_does():
    fallbacks = [LastGoodModel(closed_port()), Default("unknown", [0.5, 0.5])]
    async with MLServiceClient(closed_port(), retry=None, fallback=fallbacks, **PATIENT) as client:
        one = await client.predict(IMAGE)
        many = await client.predict_batch([IMAGE, IMAGE])
    assert (one.source, one.prediction.label, one.model) == ("default", "unknown", "")
    assert one.prediction.probabilities == (0.5, 0.5)
    assert [each.label for each in many.predictions] == ["unknown", "unknown"]
    assert "refuses connections" in one.reason
    assert client.statistics.fallbacks == {"default": 2}


async def test_while_the_endpoint_answers_no_fallback_is_asked():
    async with (
        serving() as server,
        serving() as old,
        MLServiceClient(server.url, fallback=LastGoodModel(old.url), **PATIENT) as client,
    ):
        assert (await client.predict(IMAGE)).source == "live"
    assert len(old.bodies) == 0


async def test_a_rejected_request_never_falls_back():
    async with (
        serving(status(422, "no image")) as server,
        MLServiceClient(server.url, fallback=Default("7"), **PATIENT) as client,
    ):
        with pytest.raises(RequestRejected):
            await client.predict(IMAGE)
    assert client.statistics.fallbacks == {}


async def test_the_fallback_has_its_share_of_the_deadline():
    async with (
        serving(HANG) as server,
        serving(0.05) as old,
        MLServiceClient(
            server.url,
            rules=NEVER,
            retry=Retry(attempts=50, budget=FULL, backoff=SOON),
            deadline=1.2,
            attempt_timeout=0.1,
            fallback=LastGoodModel(old.url, reserve=0.9),
        ) as client,
    ):
        answer = await client.predict(IMAGE)
    assert answer.source == "last_good"


async def test_where_all_the_fallbacks_fail_too_the_outage_names_them():
    live = closed_port()
    async with (
        serving(status(500)) as old,
        MLServiceClient(
            live,
            rules=Rules(sliding_window_size=1),
            retry=None,
            fallback=LastGoodModel(old.url),
            **PATIENT,
        ) as client,
    ):
        error = await outage(client)
        assert set(error.causes) == {live, old.url}
        assert "status 500" in str(error)
        error = await outage(client)
    assert [type(cause) for cause in error.causes.values()] == [CircuitOpen, CircuitOpen]
    assert len(old.bodies) == 1
    assert error.retry_after > 0


async def test_a_fallback_that_hangs_leaves_the_next_one_its_share():
    async with (
        serving(HANG) as first,
        serving(version="0") as second,
        MLServiceClient(
            closed_port(),
            retry=None,
            deadline=6.0,
            attempt_timeout=0.1,
            fallback=[LastGoodModel(first.url, 0.1), LastGoodModel(second.url, 5.7)],
        ) as client,
    ):
        answer = await asyncio.wait_for(client.predict(IMAGE), 4)
    assert (answer.endpoint, answer.version) == (second.url, "0")
    assert client.statistics.attempts[first.url] == 1


# ---- all of it at once


@pytest.mark.parametrize("hedge", [None, Hedge(0.01)], ids=["plain", "hedged"])
async def test_after_a_storm_with_cancellations_everything_is_free_again(hedge):
    draw = random.Random(3)
    acts = [OK, OK, 0.02, HANG, status(500), status(503, Retry_After="0"), b"no", "reset", "half"]
    acts.append(status(422))
    before = asyncio.all_tasks()
    async with (
        serving(script=draw.choices(acts, k=400)) as first,
        serving(script=draw.choices(acts, k=400)) as second,
        MLServiceClient(
            [first.url, second.url],
            rules=Rules(sliding_window_size=10, failure_rate_threshold=0.9),
            pool=7,
            deadline=0.3,
            attempt_timeout=0.1,
            hedge=hedge,
            fallback=LastGoodModel(closed_port(), 0.05),
            rng=random.Random(4),
        ) as client,
    ):

        async def call():
            await asyncio.sleep(draw.random() * 0.5)
            return await client.predict(IMAGE)

        tasks = [asyncio.create_task(call()) for _ in range(300)]
        for task in draw.sample(tasks, 80):
            asyncio.get_running_loop().call_later(draw.random(), task.cancel)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = {type(result).__name__ for result in results}
        assert kinds <= {"Answer", "RequestRejected", "ServiceUnavailable", "CancelledError"}
        assert "Answer" in kinds
        assert not client._session.connector._acquired
        for endpoint in client._all():
            assert endpoint._free._value == 7
            seen = endpoint.breaker.snapshot()
            calls = sum(n for name, n in seen.calls.items() if name != "refused")
            assert calls == endpoint.attempts
    assert {each for each in asyncio.all_tasks() - before if not each.done()} == set()
