"""The client against a server that fails in every way a server can, one attempt at a time."""

import asyncio
import logging
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
from scripted_server import HALF, HANG, OK, RESET, closed_port, serving, status

from aiinfra_lab.clock import ManualClock
from aiinfra_lab.errors import InputError
from aiinfra_lab.resilience import (
    AttemptTimedOut,
    BreakerCollector,
    CircuitOpen,
    ClientClosed,
    ConnectionFailed,
    MLServiceClient,
    PoolExhausted,
    RequestRejected,
    Retry,
    Rules,
    ServiceUnavailable,
    State,
    StatusFailed,
    Verdicts,
    WrongAnswer,
)
from aiinfra_lab.resilience.answers import ask_one

IMAGE = [[0, 1], [2, 3]]
PATIENT = {"deadline": 20.0, "attempt_timeout": 10.0}  # where time is not the point


class AtOnce(random.Random):
    """Draws no jitter: full jitter then waits for nothing."""

    def random(self):
        return 0.0


def counts(client, place=0):
    return client.breakers[place].snapshot().calls


async def outage(client, image=IMAGE):
    with pytest.raises(ServiceUnavailable) as caught:
        await client.predict(image)
    return caught.value


async def test_a_prediction_comes_with_its_model_and_its_source():
    async with serving(version="3") as server, MLServiceClient(server.url, **PATIENT) as client:
        answer = await client.predict(IMAGE)
        many = await client.predict_batch([IMAGE, IMAGE, IMAGE])
    assert (answer.prediction.label, answer.prediction.probabilities) == ("7", (0.1, 0.9))
    assert (answer.model, answer.version, answer.source, answer.reason) == (
        "digits",
        "3",
        "live",
        "",
    )
    assert answer.endpoint == server.url
    assert len(many.predictions) == 3
    assert server.bodies == [{"instance": IMAGE}, {"instances": [IMAGE] * 3}]


async def test_arrays_go_as_numbers_in_every_spelling():
    image = np.array(IMAGE, dtype=np.uint8)
    async with serving() as server, MLServiceClient(server.url, **PATIENT) as client:
        await client.predict(image)
        await client.predict([image[0], [np.uint8(2), 3]])
        await client.predict_batch(np.stack([image, image]))
        await client.predict_batch([image, IMAGE])
    assert server.bodies == [{"instance": IMAGE}] * 2 + [{"instances": [IMAGE, IMAGE]}] * 2


def test_the_client_does_not_import_numpy():
    script = """
import sys
from aiinfra_lab.resilience import MLServiceClient
from aiinfra_lab.resilience.answers import ask_many
ask_many([[1, 2]])
MLServiceClient("http://a")
sys.exit("numpy" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


async def test_two_hundred_calls_use_one_connection_and_no_cookies():
    async with serving() as server, MLServiceClient(server.url, **PATIENT) as client:
        for _ in range(200):
            await client.predict(IMAGE)
    assert len(server.peers) == 1
    assert server.headers[-1]["Accept"] == server.headers[-1]["Content-Type"] == "application/json"
    assert client.statistics.requests == client.statistics.attempts[server.url] == 200


async def test_a_cookie_is_not_kept_and_headers_of_the_program_are_sent():
    first = status(503, Set_Cookie="session=7", Retry_After="0")
    async with (
        serving(script=[first]) as server,
        MLServiceClient(server.url, headers={"Authorization": "Bearer t"}, **PATIENT) as client,
    ):
        await client.predict(IMAGE)
    assert len(server.headers) == 2
    assert all("Cookie" not in headers for headers in server.headers)
    assert server.headers[1]["Authorization"] == "Bearer t"


async def test_a_proxy_of_the_environment_is_used_only_where_asked_for(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, closed_port())
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with serving() as server:
        async with MLServiceClient(server.url, **PATIENT) as client:
            await client.predict(IMAGE)
        async with MLServiceClient(server.url, trust_env=True, retry=None, **PATIENT) as client:
            error = await outage(client)
    assert type(error.causes[server.url]) is ConnectionFailed


async def test_a_large_batch_goes_as_a_stream_and_again_as_a_whole():
    batch = np.full((40, 28, 28, 20), 255, dtype=np.uint8)
    async with (
        serving(script=[status(500)]) as server,
        MLServiceClient(server.url, **PATIENT) as client,
    ):
        answer = await client.predict_batch(batch)
    assert len(answer.predictions) == 40
    assert server.bodies[0] == server.bodies[1] == {"instances": batch.tolist()}


WRONG = {
    "no JSON": b"<html>",
    "empty": b"",
    "a list": b"[]",
    "no version": b'{"model": "digits", "prediction": {"label": "7", "probabilities": []}}',
    "no prediction": b'{"model": "digits", "version": "1"}',
    "no label": b'{"model": "digits", "version": "1", "prediction": {"probabilities": [1]}}',
    "no probabilities": b'{"model": "digits", "version": "1", "prediction": {"label": "7"}}',
    "label of another type": (
        b'{"model": "d", "version": "1", "prediction": {"label": 7, "probabilities": [1]}}'
    ),
    "a number in quotes": (
        b'{"model": "d", "version": "1", "prediction": {"label": "7", "probabilities": ["1"]}}'
    ),
    "not a number": (
        b'{"model": "d", "version": "1", "prediction": {"label": "7", "probabilities": [NaN]}}'
    ),
    "a batch": b'{"model": "d", "version": "1", "predictions": []}',
    "redirect": status(302, Location="/"),
    "no content": status(204),
    "half": HALF,
}


@pytest.mark.parametrize("act", WRONG.values(), ids=WRONG.keys())
async def test_a_wrong_answer_is_a_failure_of_the_endpoint(act):
    async with serving(act) as server, MLServiceClient(server.url, retry=None, **PATIENT) as client:
        error = await outage(client)
        cause = error.causes[server.url]
        assert type(cause) is WrongAnswer
        assert cause.outcome == "wrong_answer"
        assert (counts(client)["failure"], counts(client)["success"]) == (1, 0)
    assert str(cause) in str(error)
    assert "\n" not in str(error)


async def test_a_batch_with_too_few_predictions_is_a_failure():
    body = b'{"model": "d", "version": "1", "predictions": [{"label": "7", "probabilities": [1]}]}'
    async with (
        serving(body) as server,
        MLServiceClient(server.url, retry=None, **PATIENT) as client,
    ):
        assert len((await client.predict_batch([IMAGE])).predictions) == 1
        with pytest.raises(ServiceUnavailable, match="1 predictions for 2 instances"):
            await client.predict_batch([IMAGE, IMAGE])
        assert counts(client)["failure"] == 1


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (RESET, ConnectionFailed, "closed the connection without an answer"),
        (status(500), StatusFailed, "status 500"),
        (status(503), StatusFailed, "status 503"),
        (status(429), StatusFailed, "status 429"),
        (status(408), AttemptTimedOut, "status 408"),
    ],
    ids=["reset", "500", "503", "429", "408"],
)
async def test_what_the_server_or_the_network_does_is_a_failure(act, kind, words):
    async with serving(act) as server, MLServiceClient(server.url, retry=None, **PATIENT) as client:
        error = await outage(client)
        assert counts(client)["failure"] == 1
    assert type(error.causes[server.url]) is kind
    assert words in str(error)


async def test_refused_connections_open_the_circuit_and_are_then_not_tried():
    url = closed_port()
    rules = Rules(sliding_window_size=3)
    async with MLServiceClient(url, rules=rules, retry=None, **PATIENT) as client:
        for _ in range(3):
            error = await outage(client)
            assert type(error.causes[url]) is ConnectionFailed
            assert "refuses connections" in str(error)
        assert client.breakers[0].state is State.OPEN
        error = await outage(client)
    assert type(error.causes[url]) is CircuitOpen
    assert 0 < error.retry_after <= 60
    assert "Retry in" in str(error)
    assert client.statistics.attempts == {url: 3}
    assert client.statistics.unavailable == 4


async def test_a_name_that_does_not_exist_is_a_failed_connection():
    url = "http://no-such-host.invalid"
    async with MLServiceClient(url, retry=None, **PATIENT) as client:
        error = await outage(client)
    assert type(error.causes[url]) is ConnectionFailed


@pytest.mark.parametrize("number", [400, 401, 404, 413, 422])
@pytest.mark.parametrize(
    "verdicts", [Verdicts(), Verdicts(record=(Exception,))], ids=["http", "all errors"]
)
async def test_a_rejected_request_is_the_callers_whatever_the_rules(number, verdicts):
    detail = [{"loc": ["instance"], "msg": "8 x 8 pixels are needed"}]
    async with (
        serving(status(number, detail)) as server,
        serving() as other,
        MLServiceClient(
            [server.url, other.url], rules=Rules(verdicts=verdicts), **PATIENT
        ) as client,
    ):
        for _ in range(20):
            with pytest.raises(RequestRejected, match="8 x 8 pixels") as caught:
                await client.predict(IMAGE)
        assert client.breakers[0].state is State.CLOSED
        assert counts(client)["failure"] == 0
        assert counts(client)["success"] == 20
    assert (caught.value.status, caught.value.detail) == (number, detail)
    assert caught.value.endpoint == server.url
    assert (len(server.bodies), len(other.bodies)) == (20, 0)
    assert client.statistics.rejected == 20
    assert client.statistics.retries == 0


async def test_an_attempt_without_an_answer_times_out_and_counts():
    rules = Rules(sliding_window_size=2)
    async with (
        serving(HANG) as server,
        MLServiceClient(
            server.url, rules=rules, deadline=10, attempt_timeout=0.05, retry=None
        ) as client,
    ):
        for _ in range(2):
            error = await outage(client)
            assert type(error.causes[server.url]) is AttemptTimedOut
        assert client.breakers[0].state is State.OPEN


@pytest.mark.parametrize("rules", [None, Rules()], ids=["own rules", "slow after a minute"])
async def test_hanging_calls_open_the_circuit_where_attempt_and_deadline_end_together(rules):
    async with (
        serving(HANG) as server,
        MLServiceClient(server.url, rules=rules, deadline=0.8, attempt_timeout=0.8) as client,
    ):
        await asyncio.gather(*(outage(client) for _ in range(10)))
        assert client.breakers[0].state is State.OPEN
        assert counts(client)["slow_failure"] + counts(client)["failure"] == 10


async def test_an_attempt_that_the_deadline_cuts_short_is_not_blamed_on_the_server():
    clock = ManualClock()

    def most_of_the_deadline():
        clock.advance(9.95)
        return status(500)()

    async with (
        serving(HANG, [most_of_the_deadline]) as server,
        MLServiceClient(
            server.url,
            deadline=10,
            attempt_timeout=5,
            retry=Retry(attempts=2),
            clock=clock,
            rng=AtOnce(),
        ) as client,
    ):
        error = await outage(client)
        seen = counts(client)
    assert (seen["slow_failure"], seen["failure"], seen["cancelled"]) == (1, 0, 1)
    assert type(error.causes[server.url]) is AttemptTimedOut
    assert "0.05 s that were left" in str(error)


async def test_connections_of_a_hanging_server_do_not_starve_the_next_one():
    async with (
        serving(HANG) as hanging,
        serving() as sound,
        MLServiceClient([hanging.url, sound.url], pool=2, **PATIENT) as client,
    ):
        calls = [asyncio.create_task(client.predict(IMAGE)) for _ in range(6)]
        while hanging.active < 2:
            await asyncio.sleep(0.001)
        answer = await client._live[1].ask(ask_one(IMAGE), lambda: 10)
        assert answer.endpoint == sound.url
        assert len(hanging.bodies) == 2
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    assert len(hanging.bodies) == 2


async def test_waiting_for_a_connection_counts_against_the_deadline_and_not_the_server():
    async with (
        serving(HANG) as server,
        MLServiceClient(server.url, pool=1, **PATIENT) as client,
    ):
        first = asyncio.create_task(client.predict(IMAGE))
        while not server.active:
            await asyncio.sleep(0.001)
        # On a connection that stays busy for as long as anybody can wait.
        endpoint = client._live[0]
        with pytest.raises(PoolExhausted, match="all its 1 connections"):
            await endpoint.ask(ask_one(IMAGE), lambda: 0.02)
        assert endpoint.attempts == 1
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_nobody_queues_for_an_open_circuit():
    async with (
        serving(HANG) as server,
        MLServiceClient(server.url, pool=1, **PATIENT) as client,
    ):
        first = asyncio.create_task(client.predict(IMAGE))
        while not server.active:
            await asyncio.sleep(0.001)
        client.breakers[0].force_open()
        error = await outage(client)
        assert type(error.causes[server.url]) is CircuitOpen
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_a_cancelled_call_leaves_no_task_no_connection_and_no_permit():
    rules = Rules(sliding_window_size=1, permitted_calls_in_half_open=1)
    clock = ManualClock()
    async with (
        serving(HANG, [status(500)]) as server,
        MLServiceClient(server.url, rules=rules, retry=None, clock=clock, **PATIENT) as client,
    ):
        await outage(client)
        clock.advance(60)
        before = asyncio.all_tasks()
        task = asyncio.create_task(client.predict(IMAGE))
        while not server.active:
            await asyncio.sleep(0.001)
        assert client.breakers[0].snapshot().permits == 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.breakers[0].snapshot().permits == 1
        assert client._live[0]._free._value == client._live[0]._pool
        assert not client._session.connector._acquired
        while server.active:  # the server sees that the connection has gone
            await asyncio.sleep(0.001)
        assert {t for t in asyncio.all_tasks() - before if "client" in repr(t)} == set()
        server.usual = OK
        await client.predict(IMAGE)
        assert client.breakers[0].state is State.CLOSED


async def test_closing_waits_for_nobody_and_ends_what_is_under_way():
    async with serving(HANG) as server:
        async with MLServiceClient(server.url, **PATIENT) as client:
            task = asyncio.create_task(client.predict(IMAGE))
            while not server.active:
                await asyncio.sleep(0.001)
        with pytest.raises(ClientClosed):
            await asyncio.wait_for(task, 5)
        assert counts(client)["failure"] == counts(client)["success"] == 0
        assert len(server.bodies) == 1
        with pytest.raises(ClientClosed, match="async with"):
            await client.predict(IMAGE)


async def test_outside_its_block_a_client_refuses_and_it_may_be_opened_again():
    async with serving() as server:
        client = MLServiceClient(server.url, **PATIENT)
        with pytest.raises(ClientClosed):
            await client.predict(IMAGE)
        for _ in range(2):
            async with client:
                await client.predict(IMAGE)
                with pytest.raises(InputError, match="open already"):
                    await client.__aenter__()
                await client.predict(IMAGE)
    assert client.statistics.requests == 4
    assert len(server.peers) == 2


async def test_the_observer_sees_every_attempt_and_cannot_break_one(caplog):
    seen = []

    def observe(attempt):
        seen.append(attempt)
        raise RuntimeError("the observer is broken")

    acts = [status(500), b"no", RESET, status(422)]
    async with (
        serving(script=acts) as server,
        MLServiceClient(server.url, retry=None, observe=observe, **PATIENT) as client,
    ):
        with caplog.at_level(logging.ERROR):
            for _ in range(3):
                await outage(client)
            with pytest.raises(RequestRejected):
                await client.predict(IMAGE)
            await client.predict(IMAGE)
    assert [each.outcome for each in seen] == [
        "status",
        "wrong_answer",
        "connection",
        "rejected",
        "ok",
    ]
    assert {each.endpoint for each in seen} == {server.url}
    assert all(each.seconds >= 0 for each in seen)
    assert [a.began for a in seen] == sorted(a.began for a in seen)
    assert "observer" in caplog.text


async def test_the_breakers_can_be_collected():
    urls = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    client = MLServiceClient(urls)
    (state, *_) = BreakerCollector(client.breakers).collect()
    assert {sample.labels["name"] for sample in state.samples} == set(urls)


async def test_an_outage_can_cross_a_process_border():
    async with MLServiceClient(closed_port(), retry=None, **PATIENT) as client:
        error = await outage(client)
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert [type(cause) for cause in copy.causes.values()] == [ConnectionFailed]
