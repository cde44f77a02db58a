"""The model server as a process: it serves, changes its model under load, and ends in order."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from aiinfra_lab.data import load_digits
from aiinfra_lab.errors import InputError, ProcessError
from aiinfra_lab.serving import ModelServer, digits_bundle

WALL = 60.0  # seconds that something may take on a busy machine


def image(index: int = 0) -> dict[str, Any]:
    return {"instance": load_digits().test.pixels[index].tolist()}


def eventually(holds: Callable[[], Any]) -> None:
    last = time.monotonic() + WALL
    while not holds():
        assert time.monotonic() < last, f"never: {holds}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for version in "12":
        shutil.copytree(digits_bundle(version), root / version)
    return root


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ModelServer]:
    with ModelServer(models / "1", models=models, max_body=1 << 20) as server:
        yield server


def test_it_answers_with_what_the_model_knows(server: ModelServer) -> None:
    test = load_digits().test
    answer = httpx.post(
        f"{server.url}/predict", json={"instances": test.pixels[:100].tolist()}, timeout=WALL
    ).json()
    assert (answer["model"], answer["version"]) == ("digits", "1")
    labels = [int(prediction["label"]) for prediction in answer["predictions"]]
    assert sum(a == b for a, b in zip(labels, test.labels.tolist(), strict=False)) > 80
    assert httpx.get(f"{server.url}/readyz").json()["status"] == "ready"
    assert "model_server_requests_total" in httpx.get(f"{server.url}/metrics").text
    assert httpx.put(f"{server.url}/faults", json={"kind": "hang"}).status_code == 404


def test_a_large_body_is_refused_while_it_still_comes(server: ModelServer) -> None:
    """Chunked, without a length, by a client that reads only after it has sent too much."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=WALL) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        for _ in range(40):
            connection.sendall(piece)
        answer = b""
        # To an orderly end: a reset could have taken the answer away.
        while piece := connection.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer
    assert b"larger than 1048576 bytes" in answer
    big = httpx.post(f"{server.url}/predict", content=b" " * (2 << 20), timeout=WALL)
    assert big.status_code == 413


def test_a_model_is_changed_under_load_and_nobody_notices(
    server: ModelServer, models: Path
) -> None:
    body, stop = json.dumps(image()).encode(), threading.Event()
    answers: list[list[tuple[int, str]]] = [[] for _ in range(8)]

    def ask(mine: list[tuple[int, str]]) -> None:
        with httpx.Client(base_url=server.url, timeout=WALL) as http:
            while not stop.is_set():
                answer = http.post("/predict", content=body)
                mine.append((answer.status_code, answer.json().get("version", "")))

    def await_more(number: int) -> None:
        wanted = number + sum(map(len, answers))
        eventually(lambda: sum(map(len, answers)) >= wanted)

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(ask, mine) for mine in answers]
        try:
            for version in "2121212":
                await_more(60)
                changed = httpx.put(
                    f"{server.url}/model",
                    json={"folder": str(models / version)},
                    timeout=WALL,
                )
                assert changed.status_code == 200
                missing = {"folder": "missing"}
                refused = httpx.put(f"{server.url}/model", json=missing, timeout=WALL)
                assert refused.status_code == 422
            await_more(60)
        finally:
            stop.set()
        for client in clients:
            client.result()
    seen = Counter(answer for mine in answers for answer in mine)
    assert set(seen) == {(200, "1"), (200, "2")}
    assert seen.total() >= 480


def test_sighup_reads_the_folder_again_and_keeps_the_model_if_it_is_bad(
    models: Path, tmp_path: Path
) -> None:
    current = tmp_path / "current"
    current.symlink_to(models / "1")
    with ModelServer(current, log=tmp_path / "log", access_log=True) as server:

        def point(target: Path) -> None:
            (tmp_path / "next").symlink_to(target)
            (tmp_path / "next").replace(current)
            server.reload()

        def version() -> str:
            return str(httpx.get(f"{server.url}/readyz").json()["version"])

        point(tmp_path / "nothing")
        eventually(lambda: "the model stays as it is: there is no bundle" in server.log.read_text())
        assert version() == "1"
        point(models / "2")
        eventually(lambda: version() == "2")
        assert "digits 2 serves from now on" in server.log.read_text()
    lines = [line for line in server.log.read_text().splitlines() if line.startswith("{")]
    fields = json.loads(lines[0])
    assert (fields["method"], fields["path"], fields["status"]) == ("GET", "/readyz", "200")


def half_a_request(connection: socket.socket) -> bytes:
    """Send the head and half of the body; give the rest."""
    body = json.dumps(image()).encode()
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    connection.sendall(head + body[:100])
    return body[100:]


def test_a_request_in_flight_is_answered_after_the_port_is_closed(models: Path) -> None:
    with (
        ModelServer(models / "1", grace=WALL) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=WALL) as slow,
    ):
        rest = half_a_request(slow)
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        assert server.pid is not None
        os.kill(server.pid, signal.SIGTERM)

        def closed() -> bool:
            try:
                socket.create_connection(("127.0.0.1", server.port), timeout=WALL).close()
            except ConnectionRefusedError:
                return True
            return False

        eventually(closed)
        assert server.running
        slow.sendall(rest)
        assert slow.recv(12) == b"HTTP/1.1 200"
        assert server.wait() == 0


def test_the_end_is_announced(models: Path, tmp_path: Path) -> None:
    """Not ready while the port is still open; a fault in force ends; exit status 0."""
    with (
        ModelServer(models / "1", faults=True, drain=1.0, log=tmp_path / "log") as server,
        ThreadPoolExecutor(1) as pool,
        httpx.Client(base_url=server.url, timeout=WALL) as http,
    ):
        order = {"kind": "latency", "seconds": 2, "paths": ["/healthz"]}
        assert http.put("/faults", json=order).status_code == 200
        assert server.pid is not None
        waiting = pool.submit(httpx.get, f"{server.url}/healthz", timeout=WALL)
        eventually(lambda: http.get("/faults").json()["struck"] == 1)
        os.kill(server.pid, signal.SIGTERM)
        eventually(lambda: http.get("/readyz").status_code == 503)
        assert waiting.result().status_code == 200
        assert server.wait() == 0
    assert "Traceback" not in server.log.read_text()


def test_requests_that_outlive_the_grace_are_cut_and_counted(models: Path) -> None:
    with (
        ModelServer(models / "1", grace=0.2) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=WALL) as slow,
    ):
        half_a_request(slow)
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        assert server.stop() == 1


def test_it_comes_back_on_its_port_after_a_stop_and_a_kill(models: Path) -> None:
    server = ModelServer(models / "1")
    with pytest.raises(InputError, match="no address yet"):
        _ = server.url
    with server, httpx.Client(base_url=server.url, timeout=WALL) as http:
        url = server.url
        assert http.post("/predict", json=image()).status_code == 200
        with pytest.raises(InputError, match="runs already"):
            server.start()
        assert server.stop() == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/readyz")
        server.start()
        assert httpx.get(f"{url}/readyz").status_code == 200
        assert server.kill() == -signal.SIGKILL
        assert not server.running
        server.start()
        assert server.url == url
        assert httpx.get(f"{url}/readyz").status_code == 200
        process = psutil.Process(server.pid)
    assert not process.is_running()
    assert server.stop() == 0


async def test_the_same_without_blocking_a_loop(models: Path) -> None:
    async with ModelServer(models / "2") as server, httpx.AsyncClient(timeout=WALL) as http:
        answers = await asyncio.gather(
            *(http.post(f"{server.url}/predict", json=image(n)) for n in range(20))
        )
        assert {answer.status_code for answer in answers} == {200}
        await server.kill_async()
        await server.start_async()
        assert (await http.get(f"{server.url}/readyz")).status_code == 200
    assert not server.running


def test_what_cannot_be_served_is_said_in_one_sentence(models: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^there is no bundle .*/nothing: it is not a folder"):
        ModelServer(tmp_path / "nothing").start()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"^port {port} on 127.0.0.1 cannot be used"):
            ModelServer(models / "1", port=port).start()
    command = [sys.executable, "-m", "aiinfra_lab.serving", "--model", str(models / "1")]
    for words, sentence in (
        (["--admin"], "--admin needs --models"),
        (["--faults", "--host", "0.0.0.0"], "for this machine alone"),
        (["--port", "99999"], "99999 is no port"),
        (["--threads", "0"], "a server needs a thread"),
        (["--host", "no.such.host.invalid"], "cannot be used"),
    ):
        done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=WALL)
        assert done.returncode == 2, words
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr


def test_a_crash_at_the_start_shows_the_log(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ProcessError, match="ended with exit status 1 before it was ready"):
        ModelServer(models / "1").start()


def test_the_command_line_serves_until_ctrl_c(models: Path) -> None:
    command = [sys.executable, "-m", "aiinfra_lab.cli.main", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().decode().strip()
            assert httpx.get(f"{url}/readyz").json()["version"] == "1"
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=WALL)
        finally:
            process.kill()
    assert process.returncode == 130
    assert errors.decode().endswith("aiinfra: interrupted\n")
    assert psutil.wait_procs(children, timeout=WALL)[1] == []
