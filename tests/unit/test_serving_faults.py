"""Ordered faults without a socket: what is taken, whom they strike, and how they end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_serving_bundle import tiny_bundle

from aiinfra_lab.clock import ManualClock
from aiinfra_lab.serving.application import Limits, create_app
from aiinfra_lab.serving.engine import Engine
from aiinfra_lab.serving.faults import Faults

BODY = {"instance": [[0, 0, 9], [0, 0, 200]]}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tiny_bundle(tmp_path / "one"))
    yield engine
    engine.close()


class FakeConnection:
    def __init__(self) -> None:
        self.ends: list[str] = []

    def reset(self) -> None:
        self.ends.append("RST")

    def close(self) -> None:
        self.ends.append("FIN")


@asynccontextmanager
async def client(
    engine: Engine, faults: Faults, limits: Limits | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    app, _ = create_app(engine, faults=faults, limits=limits)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client


async def order(http: httpx.AsyncClient, **document: Any) -> None:
    answer = await http.put("/faults", json=document)
    assert answer.status_code == 200, answer.text


async def predicted(http: httpx.AsyncClient) -> int:
    return (await http.post("/predict", json=BODY)).status_code


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


REFUSED = {
    "an unknown kind": ({"kind": "fire"}, "kind"),
    "no kind": ({}, "kind"),
    "no object": (3, "object"),
    "an unknown field": ({"kind": "hang", "colour": 1}, "colour"),
    "a field of another kind": ({"kind": "hang", "status": 500}, "status"),
    "no seconds": ({"kind": "latency"}, "seconds"),
    "negative seconds": ({"kind": "latency", "seconds": -1}, "seconds"),
    "endless seconds": ({"kind": "latency", "seconds": 1e9}, "seconds"),
    "seconds as text": ({"kind": "latency", "seconds": "1"}, "seconds"),
    "NaN": ({"kind": "latency", "seconds": float("nan")}, "seconds"),
    "a status that is none": ({"kind": "error", "status": 200}, "status"),
    "a truth value as status": ({"kind": "error", "status": True}, "status"),
    "more than certain": ({"kind": "reset", "probability": 1.1}, "probability"),
    "less than never": ({"kind": "reset", "probability": -0.1}, "probability"),
    "over at once": ({"kind": "half", "for_s": 0}, "for_s"),
    "no paths": ({"kind": "half", "paths": []}, "paths"),
    "a path without slash": ({"kind": "half", "paths": ["predict"]}, "paths"),
    "no capacity": ({"kind": "overload"}, "capacity"),
    "refuse without end": ({"kind": "refuse"}, "for_s"),
    "refuse by chance": ({"kind": "refuse", "for_s": 1, "probability": 0.5}, "probability"),
    "refuse without a port": ({"kind": "refuse", "for_s": 1}, "no port"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_wrong_order_is_refused_and_the_one_before_stays(engine: Engine, case: str) -> None:
    document, words = REFUSED[case]
    async with client(engine, Faults()) as http:
        await order(http, kind="error", status=418)
        answer = await http.put("/faults", content=json.dumps(document))
        assert answer.status_code == 422
        assert words in answer.json()["detail"]
        assert (await http.put("/faults", content=b"{")).status_code == 400
        assert await predicted(http) == 418


async def test_an_error_strikes_its_paths_until_it_is_deleted(engine: Engine) -> None:
    async with client(engine, Faults()) as http:
        assert (await http.get("/faults")).json() == {"fault": None}
        await order(http, kind="error", status=503, retry_after=7)
        answer = await http.post("/predict", json=BODY)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
        assert (await http.get("/readyz")).status_code == 200
        found = (await http.get("/faults")).json()
        assert found["fault"]["kind"] == "error"
        assert found["struck"] == 1
        await order(http, kind="error", paths=["/readyz", "/faults"])
        assert await predicted(http) == 200
        assert (await http.get("/readyz")).status_code == 500
        assert (await http.delete("/faults")).json() == {"fault": None}
        assert (await http.get("/readyz")).status_code == 200


async def test_it_ends_by_itself(engine: Engine) -> None:
    clock = ManualClock()
    async with client(engine, Faults(clock)) as http:
        await order(http, kind="error", for_s=10)
        clock.advance(9.5)
        assert await predicted(http) == 500
        assert (await http.get("/faults")).json()["remaining_s"] == 0.5
        clock.advance(0.5)
        assert (await http.get("/faults")).json() == {"fault": None}
        assert await predicted(http) == 200


async def test_the_draws_are_those_of_the_seed(engine: Engine) -> None:
    async def drawn(http: httpx.AsyncClient, seed: int) -> list[int]:
        await order(http, kind="error", probability=0.3, seed=seed)
        return [await predicted(http) for _ in range(100)]

    async with client(engine, Faults()) as http:
        first, again, other = await drawn(http, 1), await drawn(http, 1), await drawn(http, 2)
        assert first == again != other
        assert 15 <= first.count(500) <= 45
        await order(http, kind="error", probability=0)
        assert await predicted(http) == 200


async def test_latency_waits_on_the_clock_and_jitter_comes_on_top(engine: Engine) -> None:
    clock = ManualClock()
    async with client(engine, Faults(clock)) as http:
        await order(http, kind="latency", seconds=2, jitter=1)
        asked = asyncio.create_task(predicted(http))
        await settle()
        clock.advance(2)
        await settle()
        assert not asked.done()
        clock.advance(1)
        assert await asyncio.wait_for(asked, 30) == 200


@pytest.mark.parametrize("end", ["delete", "another order", "its time", "the server's end"])
async def test_a_hanging_request_goes_on_when_the_fault_ends(engine: Engine, end: str) -> None:
    clock = ManualClock()
    faults = Faults(clock)
    async with client(engine, faults) as http:
        await order(http, kind="hang", for_s=60)
        asked = asyncio.create_task(predicted(http))
        await settle()
        clock.advance(59)
        await settle()
        assert not asked.done()
        if end == "delete":
            await http.delete("/faults")
        elif end == "another order":
            await order(http, kind="error")
        elif end == "its time":
            clock.advance(1)
        else:
            faults.clear()
        assert await asyncio.wait_for(asked, 30) == 200


async def test_overload_has_room_for_its_capacity(engine: Engine) -> None:
    clock = ManualClock()
    async with client(engine, Faults(clock)) as http:
        await order(http, kind="overload", capacity=2, seconds=1, retry_after=3)
        inside = [asyncio.create_task(predicted(http)) for _ in range(2)]
        await settle()
        third = await http.post("/predict", json=BODY)
        assert (third.status_code, third.headers["retry-after"]) == (503, "3")
        clock.advance(1)
        assert await asyncio.gather(*inside) == [200, 200]
        again = asyncio.create_task(predicted(http))
        await settle()
        assert not again.done()
        clock.advance(1)
        assert await again == 200
        await order(http, kind="overload", capacity=0)
        assert await predicted(http) == 503


async def raw(app: Any, body: bytes) -> tuple[list[dict[str, Any]], list[str], int]:
    """What the application sends, how it ends the connection, and how often it reads."""
    connection, sent, reads = FakeConnection(), [], 0

    async def receive() -> dict[str, Any]:
        nonlocal reads
        reads += 1
        if connection.ends:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "raw_path": b"/predict",
        "query_string": b"",
        "headers": [],
        "state": {"connection": connection},
    }
    await app(scope, receive, send)
    return sent, connection.ends, reads


async def test_reset_and_half_end_the_connection(engine: Engine) -> None:
    faults = Faults()
    app, _ = create_app(engine, faults=faults)
    whole, ends, _ = await raw(app, json.dumps(BODY).encode())
    assert ends == []
    answer = whole[1]["body"]
    faults.put({"kind": "reset"})
    sent, ends, reads = await raw(app, json.dumps(BODY).encode())
    assert (sent, ends, reads) == ([], ["RST"], 2)
    faults.put({"kind": "half"})
    sent, ends, _ = await raw(app, json.dumps(BODY).encode())
    assert ends == ["FIN"]
    assert sent[0] == whole[0]
    assert [(m["body"], m["more_body"]) for m in sent[1:]] == [(answer[: len(answer) // 2], True)]


async def test_a_struck_request_keeps_its_limits(engine: Engine) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    async with client(engine, Faults(), Limits(max_body=5000)) as http:
        await order(http, kind="latency", seconds=0)
        assert (await http.post("/predict", content=endless())).status_code == 413
        assert await predicted(http) == 200
