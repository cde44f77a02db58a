"""Ordered faults as a client meets them on a real connection."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aiinfra_lab.data import load_digits
from aiinfra_lab.serving import ModelServer, digits_bundle

WALL = 60.0  # seconds that something may take on a busy machine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    log = tmp_path_factory.mktemp("outages") / "log"
    with ModelServer(digits_bundle("1"), faults=True, log=log) as server:
        yield server
    assert "Traceback" not in log.read_text()
    assert "ASGI" not in log.read_text()


@pytest.fixture(autouse=True)
def _calm(server: ModelServer) -> Iterator[None]:
    yield
    httpx.delete(f"{server.url}/faults")


def order(server: ModelServer, **document: Any) -> None:
    answer = httpx.put(f"{server.url}/faults", json=document)
    assert answer.status_code == 200, answer.text


BODY = json.dumps({"instance": load_digits().test.pixels[0].tolist()}).encode()
REQUEST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


def connect(server: ModelServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=WALL)


def listens(server: ModelServer) -> bool:
    try:
        connect(server).close()
    except ConnectionRefusedError:
        return False
    return True


def eventually(holds: Callable[[], bool]) -> None:
    last = time.monotonic() + WALL
    while not holds():
        assert time.monotonic() < last
        time.sleep(0.01)


def predict(server: ModelServer, timeout: float = WALL) -> httpx.Response:
    return httpx.post(f"{server.url}/predict", content=BODY, timeout=timeout)


def test_reset_is_a_reset(server: ModelServer) -> None:
    order(server, kind="reset")
    with connect(server) as connection:
        connection.sendall(REQUEST)
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(httpx.ReadError):
        predict(server)
    assert httpx.get(f"{server.url}/readyz").status_code == 200


def test_half_is_the_head_half_the_body_and_an_end(server: ModelServer) -> None:
    whole = predict(server).content
    order(server, kind="half")
    with connect(server) as connection:
        connection.sendall(REQUEST)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert f"content-length: {len(whole)}".encode() in head
    assert body == whole[: len(whole) // 2]
    with pytest.raises(httpx.RemoteProtocolError):
        predict(server)


def test_hang_ends_when_the_client_goes_or_the_fault_does(server: ModelServer) -> None:
    order(server, kind="hang")
    with pytest.raises(httpx.ReadTimeout):
        predict(server, timeout=0.2)
    with connect(server) as connection:
        connection.sendall(REQUEST)
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        httpx.delete(f"{server.url}/faults")
        connection.settimeout(WALL)
        assert connection.recv(12) == b"HTTP/1.1 200"
    # The first request was dropped with its client and left nothing behind.
    text = httpx.get(f"{server.url}/metrics").text
    assert "model_server_in_flight 0.0" in text


def test_a_client_that_resets_while_it_hangs_leaves_no_trace(server: ModelServer) -> None:
    order(server, kind="hang")
    with connect(server) as connection:
        connection.sendall(REQUEST)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    httpx.delete(f"{server.url}/faults")
    assert predict(server).status_code == 200


def test_refuse_closes_the_port_drops_who_is_there_and_opens_again(server: ModelServer) -> None:
    with connect(server) as idle, httpx.Client(base_url=server.url) as http:
        assert http.get("/readyz").status_code == 200
        answer = httpx.put(f"{server.url}/faults", json={"kind": "refuse", "for_s": 1.0})
        assert answer.status_code == 200
        assert answer.json()["fault"]["kind"] == "refuse"
        with pytest.raises(ConnectionResetError):
            idle.recv(1)
        with pytest.raises(ConnectionRefusedError):
            connect(server)
        # Nobody else gets the port meanwhile: it is still the server's.
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                thief.bind(("127.0.0.1", server.port))
        eventually(lambda: listens(server))
        assert predict(server).status_code == 200
        assert http.get("/faults").json() == {"fault": None}
    # And again: the port that was opened anew can be closed like the first.
    order(server, kind="refuse", for_s=0.3)
    eventually(lambda: not listens(server))
    eventually(lambda: listens(server))
    assert predict(server).status_code == 200


def test_a_server_ends_while_it_refuses(tmp_path: Path) -> None:
    with ModelServer(digits_bundle("1"), faults=True, log=tmp_path / "log") as server:
        order(server, kind="refuse", for_s=600)
        eventually(lambda: not listens(server))
        assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()
