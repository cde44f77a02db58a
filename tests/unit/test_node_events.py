"""Events: counted when they come again, told beside the work, and lost rather than in the way."""

import asyncio
import contextlib

import pytest
from node_fakes import container, pod

from aiinfra_lab.kube.node.api import ApiAway, ApiError
from aiinfra_lab.kube.node.events import Recorder


class FakeApi:
    def __init__(self):
        self.made, self.counted, self.away, self.forgets = [], [], False, False

    async def create(self, path, body):
        if self.away:
            raise ApiAway("nobody answers")
        self.made.append((path, body))
        return body

    async def patch(self, path, body, *, strategy="strategic"):
        if self.forgets:
            raise ApiError("not found", status=404)
        self.counted.append((path, body["count"]))
        return body


@contextlib.asynccontextmanager
async def recorder(api, **options):
    made = Recorder(api, "n1", **options)
    task = asyncio.ensure_future(made.run())
    yield made
    task.cancel()
    await asyncio.wait({task})


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_an_event_names_the_pod_and_the_container():
    api = FakeApi()
    made = pod(container("a"), inits=[container("i")])
    async with recorder(api) as record:
        record.record(made, "Normal", "Started", "Started container a", "a")
        record.record(made, "Normal", "Started", "Started container i", "i")
        await until(lambda: len(api.made) == 2)
    path, event = api.made[0]
    assert path == "/api/v1/namespaces/default/events"
    assert event["involvedObject"]["uid"] == "u1"
    assert event["involvedObject"]["fieldPath"] == "spec.containers{a}"
    assert api.made[1][1]["involvedObject"]["fieldPath"] == "spec.initContainers{i}"
    assert event["source"] == {"component": "kubelet", "host": "n1"}
    assert event["metadata"]["name"] != api.made[1][1]["metadata"]["name"]


async def test_what_comes_again_is_counted():
    api = FakeApi()
    async with recorder(api) as record:
        for _ in range(3):
            record.record(pod(), "Warning", "BackOff", "again", "main")
        record.record(pod(uid="u2"), "Warning", "BackOff", "again", "main")
        await until(lambda: len(api.made) == 2)
    assert [count for _, count in api.counted] == [2, 3]
    assert api.counted[0][0].endswith(api.made[0][1]["metadata"]["name"])


async def test_an_event_that_the_server_forgot_is_made_anew():
    api = FakeApi()
    async with recorder(api) as record:
        record.record(pod(), "Normal", "Killing", "x")
        await until(lambda: api.made)
        api.forgets = True
        record.record(pod(), "Normal", "Killing", "x")
        await until(lambda: len(api.made) == 2)


async def test_an_api_that_is_away_delays_and_the_oldest_are_lost(monkeypatch):
    monkeypatch.setattr("aiinfra_lab.kube.node.events._RETRY_S", 0.01)
    api = FakeApi()
    api.away = True
    async with recorder(api, rate=1e6, burst=1e6) as record:
        for n in range(3000):
            record.record(pod(), "Normal", "Started", f"{n}")
        await asyncio.sleep(0.15)
        api.away = False
        await until(lambda: api.made and api.made[-1][1]["message"] == "2999")
    assert len(api.made) == 2000
    assert api.made[0][1]["message"] == "1000"


async def test_the_rate_holds_after_the_burst():
    api = FakeApi()
    async with recorder(api, rate=20, burst=5) as record:
        began = asyncio.get_running_loop().time()
        for n in range(8):
            record.record(pod(), "Normal", "Started", f"{n}")
        await until(lambda: len(api.made) == 8)
        assert asyncio.get_running_loop().time() - began >= 3 / 20


@pytest.mark.parametrize("length", [10, 5000])
async def test_a_message_fits_the_servers_limit(length):
    api = FakeApi()
    async with recorder(api) as record:
        record.record(pod(), "Normal", "Started", "x" * length)
        await until(lambda: api.made)
    assert len(api.made[0][1]["message"]) == min(length, 1024)
