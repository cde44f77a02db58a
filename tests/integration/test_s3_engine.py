"""The embedded S3: it keeps objects, hangs, dies, comes back empty, and leaves nothing."""

from __future__ import annotations

import asyncio
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from processes_family import alive, eventually

from aiinfra_lab.engines import S3Access, S3Server, open_s3, open_s3_async
from aiinfra_lab.errors import ProcessError
from aiinfra_lab.settings import settings

pytestmark = pytest.mark.needs("moto", "boto3")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch, server: S3Server) -> Iterator[None]:
    monkeypatch.setenv("AIINFRA_S3_URL", f"http://key:secret@{server.url.removeprefix('http://')}")
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_it_keeps_objects(server: S3Server) -> None:
    body = bytes(range(256)) * (6 << 12)  # 6 MiB
    with server.access.client() as client:
        client.create_bucket(Bucket="models")
        client.put_object(Bucket="models", Key="a/b", Body=body, ChecksumAlgorithm="SHA256")
        found = client.get_object(Bucket="models", Key="a/b")["Body"].read()
        listed = client.list_objects_v2(Bucket="models", Prefix="a/")["Contents"]
        with pytest.raises(client.exceptions.NoSuchKey):
            client.get_object(Bucket="models", Key="c")
    assert found == body
    assert [(entry["Key"], entry["Size"]) for entry in listed] == [("a/b", len(body))]


def test_it_is_reached_from_this_machine_only(server: S3Server) -> None:
    listening = {
        connection.laddr
        for connection in psutil.Process(server.child.pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {("127.0.0.1", int(server.url.rpartition(":")[2]))}


def test_two_servers_share_nothing(server: S3Server) -> None:
    with (
        S3Server() as other,
        other.access.client() as theirs,
        server.access.client() as ours,
    ):
        theirs.create_bucket(Bucket="only-there")
        names = {bucket["Name"] for bucket in ours.list_buckets()["Buckets"]}
    assert "only-there" not in names


def test_a_hanging_server_costs_a_call_its_deadline_and_once(server: S3Server) -> None:
    from botocore.exceptions import ReadTimeoutError  # type: ignore[import-untyped]

    server.child.send_signal(signal.SIGSTOP)
    try:
        process = psutil.Process(server.child.pid)
        eventually(lambda: process.status() == psutil.STATUS_STOPPED)
        began = time.monotonic()
        with server.access.client(timeout=0.3) as client, pytest.raises(ReadTimeoutError):
            client.list_buckets()
        assert time.monotonic() - began < 15  # boto3's own deadline is 60 s, five times over
    finally:
        server.child.send_signal(signal.SIGCONT)
    with server.access.client() as client:
        client.list_buckets()


def test_a_crashed_server_comes_back_empty_at_the_same_address_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    server = S3Server().start()
    try:
        url, first = server.url, server.child.pid
        with server.access.client() as client:
            client.create_bucket(Bucket="models")
        with pytest.raises(RuntimeError, match="runs already"):
            server.start()
        server.child.send_signal(signal.SIGKILL)
        server.child.wait(30)
        server.start()
        assert server.url == url
        with server.access.client() as client:
            assert client.list_buckets()["Buckets"] == []
        pids = [first, server.child.pid]
    finally:
        server.stop()
    assert not any(alive(pid) for pid in pids if pid)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("aiinfra-s3")] == []
    server.stop()


def test_a_taken_port_is_said_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as holder:
        server = S3Server(port=holder.getsockname()[1])
        with pytest.raises(ProcessError, match="in use"):
            server.start()
    assert list(tmp_path.glob("aiinfra-s3*")) == []


async def test_a_cancelled_start_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    server = S3Server()
    task = asyncio.create_task(server.start_async())
    while not (server._child and server._child.pid):
        await asyncio.sleep(0.01)
    pid = server.child.pid
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pid is not None
    assert not alive(pid)
    assert list(tmp_path.glob("aiinfra-s3*")) == []


@pytest.mark.usefixtures("configure")
async def test_the_configured_server_is_taken(server: S3Server) -> None:
    wanted = S3Access(server.url, "key", "secret")
    with open_s3() as access:
        assert access == wanted
    async with open_s3_async() as access:
        assert access == wanted


async def test_unset_means_an_embedded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIINFRA_S3_URL", raising=False)
    settings.cache_clear()
    async with open_s3_async() as access:
        with access.client() as client:
            assert client.list_buckets()["Buckets"] == []
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(access.url.rpartition(":")[2])), 1)
