"""The HTTP surface without a socket: what is answered, what is refused, and how much is read."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from test_serving_bundle import LABELS, tiny_bundle

from aiinfra_lab.serving.application import Limits, create_app
from aiinfra_lab.serving.bodies import App, ClientGone, JsonAnswer, read_body
from aiinfra_lab.serving.engine import Engine, Overloaded

ZEROS = [[0, 0, 0], [0, 0, 0]]
RIGHT = [[0, 0, 9], [0, 0, 200]]
NEEDED = "2×3 whole numbers in 0..255"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tiny_bundle(tmp_path / "models" / "one"), threads=1, max_queue=1)
    yield engine
    engine.close()


@asynccontextmanager
async def client(engine: Engine, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    app, _ = create_app(engine, **options)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client


async def test_a_batch_and_a_single_instance(engine: Engine) -> None:
    async with client(engine) as http:
        one = (await http.post("/predict", json={"instance": RIGHT})).json()
        many = (await http.post("/predict", json={"instances": [ZEROS, RIGHT]})).json()
    assert {key: one[key] for key in ("model", "version")} == {"model": "tiny", "version": "1"}
    assert one["prediction"]["label"] == "right"
    assert one["prediction"]["probabilities"] == pytest.approx([0, 0, 1], abs=1e-6)
    assert [p["label"] for p in many["predictions"]] == ["left", "right"]
    assert many["predictions"][0]["probabilities"] == pytest.approx([1 / 3] * 3, abs=1e-6)
    assert "prediction" not in many
    assert "predictions" not in one


def with_corner(value: str) -> bytes:
    return b'{"instance": [[0, 0, 0], [0, 0, %s]]}' % value.encode()


BAD = {
    "empty body": (b"", 400, "no JSON"),
    "half": (b'{"instance": [[0', 400, "no JSON"),
    "not text": (b"\xff\xfe\xff", 400, "no JSON"),
    "deep": (b"[" * 100_000, 400, "nested too deep"),
    "a huge integer": (with_corner("9" * 5000), 400, "no JSON"),
    "a list": (b"[]", 422, "the body must be an object; found a list"),
    "nothing": (b"{}", 422, "found neither"),
    "both": (b'{"instance": 1, "instances": [1]}', 422, "found both"),
    "an unknown field": (b'{"instance": 1, "model": 2}', 422, 'the field "model" is unknown'),
    "half a character": (b'{"\\ud800": 1}', 422, r'the field "\ud800" is unknown'),
    "no batch": (b'{"instances": []}', 422, "instances is empty"),
    "no list": (b'{"instances": 3}', 422, "instances must be a list of instances; found 3"),
    "a number": (b'{"instances": [3]}', 422, "instances[0] has the wrong shape; found a bare"),
    "a flat one": (
        b'{"instance": [0, 0, 0, 0, 0, 0]}',
        422,
        "instance has the wrong shape; found 6",
    ),
    "turned": (b'{"instance": [[0, 0], [0, 0], [0, 0]]}', 422, "found 3×2"),
    "empty rows": (b'{"instance": [[], []]}', 422, "found 2×0"),
    "ragged": (b'{"instance": [[0, 0, 0], [0, 0]]}', 422, "found ragged lists"),
    "the second": (
        json.dumps({"instances": [ZEROS, ZEROS[:1]]}).encode(),
        422,
        "instances[1] has the wrong shape; found 1×3",
    ),
    "deep, within JSON": (
        b'{"instance": ' + b"[" * 900 + b"]" * 900 + b"}",
        422,
        "instance has the wrong shape",
    ),
    "text": (with_corner('"7"'), 422, 'instance[1][2] is no number; found the text "7"'),
    "null": (with_corner("null"), 422, "instance[1][2] is no number; found null"),
    "an object": (with_corner("{}"), 422, "instance[1][2] is no number; found an object"),
    "a truth value": (with_corner("true"), 422, "instance[1][2] is no number; found true"),
    "a hidden one": (
        with_corner("true").decode().encode("utf-16"),
        422,
        "instance[1][2] is no number; found true",
    ),
    "NaN": (with_corner("NaN"), 422, "instance[1][2] is out of range; found nan"),
    "infinity": (with_corner("1e999"), 422, "instance[1][2] is out of range; found inf"),
    "too large": (with_corner("256"), 422, "instance[1][2] is out of range; found 256"),
    "negative": (with_corner("-1"), 422, "instance[1][2] is out of range; found -1"),
    "beyond 64 bits": (with_corner("9" * 30), 422, "instance[1][2] is out of range"),
    "scaled by the client": (
        with_corner("0.5"),
        422,
        "instance[1][2] is no whole number; found 0.5",
    ),
    "five": (
        json.dumps({"instances": [ZEROS] * 5}).encode(),
        422,
        "instances holds too many for one request; found 5; needed at most 4",
    ),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_request_is_told_what_is_needed(engine: Engine, case: str) -> None:
    body, status, words = BAD[case]
    async with client(engine, limits=Limits(max_batch=4)) as http:
        answer = await http.post("/predict", content=body)
    assert answer.status_code == status
    detail = answer.json()["detail"]
    assert words in detail
    if status == 422:
        assert NEEDED in detail
    assert "\n" not in detail


async def test_a_whole_number_with_a_point_is_a_whole_number(engine: Engine) -> None:
    async with client(engine) as http:
        assert (await http.post("/predict", content=with_corner("7.0"))).status_code == 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)
rows = st.lists(st.lists(st.integers(-1, 256) | json_values, min_size=3, max_size=3), max_size=3)
bodies = st.binary() | st.builds(
    lambda document: json.dumps(document).encode(),
    json_values
    | st.fixed_dictionaries({"instance": json_values | rows})
    | st.fixed_dictionaries({"instances": st.lists(json_values | rows, max_size=4)}),
)


@cache
def application(engine: Engine) -> App:
    return create_app(engine)[0]


@hypothesis_settings(
    max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(body=bodies)
def test_no_body_breaks_the_server(engine: Engine, body: bytes) -> None:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(application(engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
            return await http.post("/predict", content=body)

    answer = asyncio.run(ask())
    assert answer.status_code in (200, 400, 422)
    document = answer.json()
    if answer.status_code == 200:
        predictions = document.get("predictions") or [document["prediction"]]
        for prediction in predictions:
            assert sum(prediction["probabilities"]) == pytest.approx(1, abs=1e-5)
            best = int(np.argmax(prediction["probabilities"]))
            assert prediction["label"] == LABELS[best]
    else:
        assert isinstance(document["detail"], str)


async def test_a_body_above_the_limit_is_not_read_to_its_end(engine: Engine) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b" " * 1000

    limits = Limits(max_body=5_000)
    # A receiver that never ends its body: what is read is what the server asks for.
    received: list[int] = []

    async def receive() -> dict[str, Any]:
        received.append(1)
        return {"type": "http.request", "body": b" " * 1000, "more_body": True}

    with pytest.raises(Exception, match="5000"):
        await read_body({}, receive, limits.max_body, 5)
    assert len(received) == 6
    received.clear()
    with pytest.raises(Exception, match="5000"):
        await read_body({"content-length": "5001"}, receive, limits.max_body, 5)
    assert received == []
    async with client(engine, limits=limits) as http:
        chunked = await http.post("/predict", content=endless())
        exact = await http.post("/predict", content=json.dumps({"instance": RIGHT}).ljust(5000))
        above = await http.post("/predict", content=json.dumps({"instance": RIGHT}).ljust(5001))
    assert chunked.status_code == above.status_code == 413
    assert chunked.json() == {"detail": "the body is larger than 5000 bytes"}
    assert chunked.headers["connection"] == "close"
    assert exact.status_code == 200


def test_an_answer_can_repeat_what_utf_8_cannot_say() -> None:
    assert JsonAnswer({"detail": "\ud800 é"}).body == b'{"detail": "\\ud800 \\u00e9"}'


async def test_a_client_that_goes_or_stalls_is_noticed() -> None:
    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def silent() -> dict[str, Any]:
        return await asyncio.Future()

    with pytest.raises(ClientGone):
        await read_body({}, gone, 10, 5)
    with pytest.raises(TimeoutError):
        await read_body({}, silent, 10, 0.01)


class Gate:
    """Jobs that wait inside until they are let go."""

    def __init__(self) -> None:
        self.inside, self.open = threading.Semaphore(0), threading.Event()

    def __call__(self, session: Any) -> str:
        self.inside.release()
        assert self.open.wait(30)
        return str(session.manifest.version)

    async def entered(self) -> None:
        await asyncio.to_thread(self.inside.acquire, timeout=30)


async def test_beyond_thread_and_queue_a_request_is_refused_at_once(engine: Engine) -> None:
    gate = Gate()
    async with client(engine) as http:
        working = asyncio.create_task(engine.run(gate))
        await gate.entered()
        waiting = asyncio.create_task(http.post("/predict", json={"instance": RIGHT}))
        while not engine.waiting:
            await asyncio.sleep(0.001)
        assert (engine.in_flight, engine.waiting) == (1, 1)
        refused = await http.post("/predict", json={"instance": RIGHT})
        with pytest.raises(Overloaded):
            await engine.run(gate)
        health = await http.get("/readyz")
        gate.open.set()
        assert await working == "1"
        assert (await waiting).status_code == 200
        again = await http.post("/predict", json={"instance": RIGHT})
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert health.status_code == again.status_code == 200
    assert (engine.in_flight, engine.waiting) == (0, 0)


async def test_a_deadline_drops_a_job_that_still_waits(engine: Engine) -> None:
    gate = Gate()
    async with client(engine) as http:
        working = asyncio.create_task(engine.run(gate))
        await gate.entered()
        late = await http.post(
            "/predict", json={"instance": RIGHT}, headers={"X-Request-Timeout": "0.01"}
        )
        assert (engine.in_flight, engine.waiting) == (1, 0)
        # The one who gives up on a job at work does not free its thread.
        working.cancel()
        await asyncio.sleep(0)
        assert engine.in_flight == 1
        gate.open.set()
        bad = await http.post("/predict", headers={"X-Request-Timeout": "soon"})
    assert late.status_code == 504
    assert bad.status_code == 422
    assert "X-Request-Timeout".lower() in bad.json()["detail"]


async def test_paths_methods_and_readiness(engine: Engine) -> None:
    async with client(engine) as http:
        unknown, wrong = await http.get("/other"), await http.get("/predict")
        assert (unknown.status_code, unknown.json()) == (404, {"detail": "Not Found"})
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
        for closed in ("/model", "/faults"):
            assert (await http.put(closed, json={})).status_code == 404
        assert (await http.get("/readyz")).json() == {
            "status": "ready",
            "model": "tiny",
            "version": "1",
        }
        engine.draining = True
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.post("/predict", json={"instance": RIGHT})).status_code == 200
        schema = (await http.get("/openapi.json")).json()
    assert set(schema["paths"]) == {"/predict", "/healthz", "/readyz", "/metrics"}


async def test_a_fault_of_ours_is_a_500_in_json(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, instances: Any) -> Any:
        raise RuntimeError("secret")

    monkeypatch.setattr("aiinfra_lab.serving.session.Session.predict", broken)
    app, _ = create_app(engine)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
        answer = await http.post("/predict", json={"instance": RIGHT})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert engine.in_flight == 0


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_metrics_count_what_clients_saw(engine: Engine, tmp_path: Path) -> None:
    async with client(engine) as http:
        for _ in range(3):
            await http.post("/predict", json={"instance": RIGHT})
        await http.post("/predict", content=b"")
        await http.get("/a")
        await http.get("/b")
        found = samples((await http.get("/metrics")).text)
        engine.change(tiny_bundle(tmp_path / "two", version="2"))
        later = samples((await http.get("/metrics")).text)
    assert found["model_server_requests_total", ("/predict", "200")] == 3
    assert found["model_server_requests_total", ("/predict", "400")] == 1
    assert found["model_server_requests_total", ("other", "404")] == 2
    assert found["model_server_request_seconds_count", ("/predict",)] == 4
    assert found["model_server_queue_depth", ()] == found["model_server_in_flight", ()] == 0
    info = [key for key in later if key[0] == "model_server_model_info"]
    assert ("model_server_model_info", ("tiny", "1")) in found
    assert info == [("model_server_model_info", ("tiny", "2"))]


async def test_a_job_keeps_the_model_that_it_began_with(engine: Engine, tmp_path: Path) -> None:
    gate = Gate()
    two = tiny_bundle(tmp_path / "two", version="2")
    old = asyncio.create_task(engine.run(gate))
    await gate.entered()
    waiting = asyncio.create_task(engine.run(gate))
    while not engine.waiting:
        await asyncio.sleep(0.001)
    before = await asyncio.to_thread(engine.change, two)
    gate.open.set()
    assert before.manifest.version == "1"
    assert [await old, await waiting] == ["1", "2"]


async def test_put_model_changes_only_to_a_good_bundle_below_the_root(
    engine: Engine, tmp_path: Path
) -> None:
    root = tmp_path / "models"
    tiny_bundle(root / "two", version="2")
    tiny_bundle(tmp_path / "outside", version="3")
    (root / "link").symlink_to(tmp_path / "outside")
    (tiny_bundle(root / "bad", version="4") / "model.onnx").write_bytes(b"")
    refused = {
        "bad": "damaged",
        "missing": "not a folder",
        "../outside": "outside the models' root",
        str(tmp_path / "outside"): "outside the models' root",
        "link": "outside the models' root",
        "a\0b": "no path",
        "\ud800": "no path",
    }
    async with client(engine, models=root) as http:
        for folder, words in refused.items():
            answer = await http.put("/model", content=json.dumps({"folder": folder}))
            assert answer.status_code == 422, folder
            assert words in answer.json()["detail"]
            assert engine.session.manifest.version == "1"
            assert engine.folder == root / "one"
        documents: list[Any] = [{}, {"folder": 3}, {"folder": "two", "x": 1}, []]
        for document in documents:
            assert (await http.put("/model", json=document)).status_code == 422
        assert (await http.put("/model", content=b"{")).status_code == 400
        changed = await http.put("/model", json={"folder": str(root / "two")})
        predicted = await http.post("/predict", json={"instance": RIGHT})
    assert changed.json() == {
        "model": "tiny",
        "version": "2",
        "before": {"model": "tiny", "version": "1"},
    }
    assert predicted.json()["version"] == "2"
