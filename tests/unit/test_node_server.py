"""Who gets in at a node, and what `kubectl logs` is told; over real TLS on this machine."""

import asyncio
import ssl

import aiohttp
import pytest
from node_endpoint import HOST, Endpoint, Pods

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube.node.serving.server import API_SERVER, NodeServer, waiting_sentence
from aiinfra_lab.tls import Authority, server_context

ENTRY = "2026-05-01T11:00:0{n}.000000000Z {stream} F {n}\n"


@pytest.fixture
async def node(tmp_path):
    async with Endpoint(tmp_path) as endpoint:
        yield endpoint


@pytest.fixture
def pods(node):
    return node.pods


@pytest.fixture
async def api_server(node):
    async with node.client(groups=["system:masters"]) as session:
        yield session


async def test_the_api_server_is_let_in(api_server, pods, tmp_path):
    (tmp_path / "log").write_text(ENTRY.format(n=1, stream="stdout"))
    pods.logs["ns", "p", "c", False] = tmp_path / "log"
    async with api_server.get("/containerLogs/ns/p/c") as response:
        assert (response.status, await response.text()) == (200, "1\n")
        assert response.content_type == "text/plain"


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("admin", ["system:masters"]),
        ("system:node:n", ["system:nodes"]),
        (f"{API_SERVER} ", []),
        ("x", [API_SERVER]),
    ],
)
async def test_nobody_else_of_the_cluster_is(node, tmp_path, pods, name, groups):
    (tmp_path / "log").write_text("")
    pods.logs["ns", "p", "c", False] = tmp_path / "log"
    async with node.client(name, groups=groups) as session:
        for path in ("/containerLogs/ns/p/c", "/exec/ns/p/c?command=id", "/portForward/ns/p", "/x"):
            async with session.get(path) as response:
                assert response.status == 403
                assert "may not use this node" in await response.text()
        async with session.get("/healthz") as response:
            assert (response.status, await response.text()) == (200, "ok")


async def test_strangers_get_no_answer_at_all(node):
    impostor = Authority.create("test cluster")
    for stranger in (node.client(""), node.client(API_SERVER, issuer=impostor)):
        async with stranger as session:
            with pytest.raises((aiohttp.ClientError, OSError)):
                await session.get("/healthz")


def test_a_server_that_lets_anybody_in_is_refused(node):
    with pytest.raises(InputError, match="CERT_REQUIRED"):
        NodeServer(Pods(), None, host=HOST, context=server_context(*node.certificate))
    optional = server_context(*node.certificate)
    optional.verify_mode = ssl.CERT_OPTIONAL
    with pytest.raises(InputError, match="CERT_OPTIONAL"):
        NodeServer(Pods(), None, host=HOST, context=optional)


async def test_the_options_of_a_log_are_obeyed(api_server, pods, tmp_path):
    lines = [ENTRY.format(n=n, stream="stderr" if n == 2 else "stdout") for n in (1, 2, 3)]
    (tmp_path / "log").write_text("".join(lines))
    (tmp_path / "before").write_text(ENTRY.format(n=9, stream="stdout"))
    pods.logs["ns", "p", "c", False] = tmp_path / "log"
    pods.logs["ns", "p", "c", True] = tmp_path / "before"
    for query, text in {
        "tailLines=2": "2\n3\n",
        "limitBytes=3": "1\n2",
        "stream=Stderr": "2\n",
        "sinceTime=2026-05-01T11:00:03Z": "3\n",
        "tailLines=1&timestamps=true": "2026-05-01T11:00:03.000000000Z 3\n",
        "previous=true": "9\n",
        "previous=false": "1\n2\n3\n",
        "follow=true": "1\n2\n3\n",  # it does not run: the end
    }.items():
        async with api_server.get(f"/containerLogs/ns/p/c?{query}") as response:
            assert (query, await response.text()) == (query, text)


async def test_a_log_is_followed_until_its_own_run_ends(api_server, pods, tmp_path):
    log = tmp_path / "log"
    log.write_text(ENTRY.format(n=1, stream="stdout"))
    pods.logs["ns", "p", "c", False], pods.runs["ns", "p", "c"] = log, "uid.c.0"
    async with (
        asyncio.timeout(20),
        api_server.get("/containerLogs/ns/p/c?follow=true") as response,
    ):
        assert await response.content.readline() == b"1\n"
        with log.open("a") as file:
            file.write(ENTRY.format(n=2, stream="stdout"))
        assert await response.content.readline() == b"2\n"
        with log.open("a") as file:
            file.write(ENTRY.format(n=3, stream="stdout"))
        pods.runs["ns", "p", "c"] = "uid.c.1"  # started again, with a log of its own
        assert await response.content.read() == b"3\n"


async def test_the_headers_of_a_silent_log_come_at_once(api_server, pods, tmp_path):
    pods.logs["ns", "p", "c", False] = tmp_path / "not yet"
    pods.runs["ns", "p", "c"] = "uid.c.0"
    async with asyncio.timeout(20):
        response = await api_server.get("/containerLogs/ns/p/c?follow=true")
        assert response.status == 200
        response.close()


async def test_a_reader_that_leaves_ends_its_reading(api_server, pods, tmp_path, monkeypatch):
    from aiinfra_lab.kube.node.serving import server

    ended = asyncio.Event()

    async def watched(*arguments, **options):
        try:
            async for part in honest(*arguments, **options):
                yield part
        finally:
            ended.set()

    honest = server.read_log
    monkeypatch.setattr(server, "read_log", watched)
    (tmp_path / "log").write_text(ENTRY.format(n=1, stream="stdout"))
    pods.logs["ns", "p", "c", False] = tmp_path / "log"
    pods.runs["ns", "p", "c"] = "uid.c.0"
    async with asyncio.timeout(20):
        response = await api_server.get("/containerLogs/ns/p/c?follow=true")
        assert await response.content.readline() == b"1\n"
        assert not ended.is_set()
        response.close()
        await ended.wait()


async def test_the_end_of_the_server_cuts_followers_off(node, api_server, pods, tmp_path):
    (tmp_path / "log").write_text(ENTRY.format(n=1, stream="stdout"))
    pods.logs["ns", "p", "c", False] = tmp_path / "log"
    pods.runs["ns", "p", "c"] = "uid.c.0"
    async with (
        asyncio.timeout(20),
        api_server.get("/containerLogs/ns/p/c?follow=true") as response,
    ):
        assert await response.content.readline() == b"1\n"
        await node.server.close()
        await node.server.close()  # once is enough, twice is no harm
        with pytest.raises(aiohttp.ClientError):
            await response.content.read()


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("ContainerCreating", "ContainerCreating"),
        ("ErrImagePull", "image can't be pulled"),
        ("ImagePullBackOff", "trying and failing to pull image"),
    ],
)
async def test_why_there_is_no_log_yet(api_server, pods, reason, text):
    pods.waiting["ns", "p", "c"] = waiting_sentence("p", "c", reason)
    async with api_server.get("/containerLogs/ns/p/c") as response:
        expected = f'container "c" in pod "p" is waiting to start: {text}'
        assert (response.status, await response.text()) == (400, expected)


async def test_there_was_no_run_before(api_server, pods, tmp_path):
    pods.logs["ns", "p", "first", False] = tmp_path / "log"
    pods.waiting["ns", "p", "waits"] = "it is waiting"
    for name in ("first", "waits"):
        async with api_server.get(f"/containerLogs/ns/p/{name}?previous=true") as response:
            expected = f'previous terminated container "{name}" in pod "p" not found'
            assert (response.status, await response.text()) == (400, expected)


async def test_a_container_that_nobody_knows(api_server):
    for query in ("", "?previous=true"):
        async with api_server.get(f"/containerLogs/ns/p/c{query}") as response:
            assert response.status == 404
            assert '"c" of pod "p"' in await response.text()


async def test_an_option_that_cannot_be_used(api_server, pods, tmp_path):
    pods.logs["ns", "p", "c", False] = tmp_path / "log"
    async with api_server.get("/containerLogs/ns/p/c?tailLines=-1") as response:
        assert response.status == 400
        assert await response.text() == (
            "tailLines cannot be used; found '-1'; needed a whole number from 0"
        )


async def test_attaching_is_refused_in_one_sentence(api_server):
    for method in ("GET", "POST"):
        async with api_server.request(method, "/attach/ns/p/c") as response:
            assert response.status == 501
            assert "kubectl exec" in await response.text()


async def test_a_client_that_stays_does_not_keep_the_server(node, api_server):
    async with api_server.get("/healthz") as response:
        assert await response.text() == "ok"
    # The client keeps its connection for the next request, as the API server does.
    (connection,) = node.server._runner.server.connections
    socket = connection.transport.get_extra_info("socket")
    assert socket.fileno() >= 0
    await node.server.close()
    assert socket.fileno() == -1
