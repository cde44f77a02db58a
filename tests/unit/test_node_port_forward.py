"""Forwarded ports, with the frames of kubectl and with the channels of other clients."""

import asyncio
import socket
import struct
import zlib

import aiohttp
import pytest
from node_endpoint import Endpoint

from aiinfra_lab.kube.node.serving import spdy
from aiinfra_lab.kube.node.serving.port_forward import CHANNELS, TUNNEL
from aiinfra_lab.kube.node.serving.spdy import DATA, PING, RST_STREAM, SYN_REPLY, Framing, SpdyError

POD_IP = "127.0.0.1"


def test_the_dictionary_is_the_protocols():
    # The length and checksum are those that zlib streams of SPDY/3 name.
    assert (len(spdy.DICTIONARY), zlib.adler32(spdy.DICTIONARY)) == (1423, 0xE3C6A7C2)


@pytest.mark.parametrize("step", [1, 5, 10_000])
def test_frames_arrive_however_their_bytes_are_cut(step):
    ours, theirs = Framing(), Framing()
    headers = {"StreamType": "data", "port": "80", "requestID": "1"}
    sent = b"".join(
        [
            ours.stream(1, headers),
            struct.pack(">HHI", 0x8003, 4, 8) + bytes(8),  # SETTINGS, of which nobody makes use
            ours.data(1, b"abc"),
            ours.stream(3, {"a": "\xe4"}, last=True),  # compressed over the whole connection
            ours.reply(3),
            ours.ping(b"\0\0\0\7"),
            ours.reset(1, spdy.CANCEL),
            ours.data(3, b"", last=True),
        ]
    )
    found = [f for at in range(0, len(sent), step) for f in theirs.feed(sent[at : at + step])]
    assert [(f.kind, f.stream, f.data, dict(f.headers), f.last) for f in found] == [
        (1, 1, b"", {name.lower(): value for name, value in headers.items()}, False),
        (DATA, 1, b"abc", {}, False),
        (1, 3, b"", {"a": "\xe4"}, True),
        (SYN_REPLY, 3, b"", {}, False),
        (PING, 0, b"\0\0\0\7", {}, False),
        (RST_STREAM, 1, b"", {}, False),
        (DATA, 3, b"", {}, True),
    ]


def test_much_data_goes_in_frames_of_which_only_the_last_ends_the_stream():
    data = bytes(range(256)) * 1000
    found = list(Framing().feed(Framing.data(7, data, last=True)))
    assert b"".join(frame.data for frame in found) == data
    assert [frame.last for frame in found] == [False] * (len(found) - 1) + [True]
    assert len(found) > 1


def bad_headers(text):
    packer = zlib.compressobj(zdict=spdy.DICTIONARY)
    block = packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH)
    body = struct.pack(">IIH", 1, 0, 0) + block
    return struct.pack(">HHI", 0x8003, 1, len(body)) + body


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack(">HHI", 0x8002, 1, 0), "another SPDY"),
        (struct.pack(">HHI", 0x8003, 1, 4) + bytes(4), "too short"),
        (struct.pack(">HHI", 0x8003, 6, 0), "too short"),
        (struct.pack(">HHI", 0x8003, 1, 0xFFFFFF), "too large"),
        (struct.pack(">HHI", 0x8003, 1, 20) + bytes(20), "cannot be read"),
        (bad_headers(b""), "cannot be read"),
        (bad_headers(struct.pack(">I", 1)), "cannot be read"),
        (bad_headers(struct.pack(">II", 1, 99) + b"name"), "cut off"),
        (bad_headers(bytes(1 << 20)), "too long"),  # a few hundred bytes on the wire
    ],
)
def test_frames_that_make_no_sense(data, message):
    with pytest.raises(SpdyError, match=message):
        list(Framing().feed(data))


@pytest.fixture
async def node(tmp_path):
    async with Endpoint(tmp_path) as endpoint:
        endpoint.pods.addresses["ns", "p"] = POD_IP
        yield endpoint


@pytest.fixture
async def api_server(node):
    async with node.client() as session:
        yield session


class App:
    """A program of the pod: answers each piece in capitals until its client has no more."""

    def __init__(self):
        self.open, self.writers = 0, []

    async def serve(self, reader, writer):
        self.open += 1
        self.writers.append(writer)
        try:
            while data := await reader.read(1 << 16):
                writer.write(data.upper())
                await writer.drain()
            writer.write(b"bye")
        except ConnectionError:
            pass
        finally:
            writer.close()
            self.open -= 1

    async def hang_up(self):
        for writer in self.writers:
            writer.close()
            await writer.wait_closed()

    async def closed(self):
        async with asyncio.timeout(20):
            while self.open:
                await asyncio.sleep(0.005)

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, POD_IP, 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()


@pytest.fixture
async def app():
    async with App() as running:
        yield running


@pytest.fixture
def silent_port():
    with socket.socket() as taken:
        taken.bind((POD_IP, 0))
        yield taken.getsockname()[1]


class Kubectl:
    """The client's side of the tunnel."""

    def __init__(self, ws):
        self.ws, self.framing = ws, Framing()
        self.data, self.over, self.replies, self.others = {}, set(), [], []

    async def send(self, *frames):
        await self.ws.send_bytes(b"".join(frames))

    async def open(self, port, request, streams):
        errors, data = streams
        asked = {"port": str(port), "requestid": str(request)}
        await self.send(
            self.framing.stream(errors, asked | {"streamtype": "error"}),
            self.framing.data(errors, b"", last=True),
            self.framing.stream(data, asked | {"streamtype": "data"}),
        )

    async def until(self, condition):
        async with asyncio.timeout(20):
            while not condition():
                message = await self.ws.receive()
                assert message.type is aiohttp.WSMsgType.BINARY, message
                for frame in self.framing.feed(message.data):
                    if frame.kind == DATA:
                        self.data[frame.stream] = self.data.get(frame.stream, b"") + frame.data
                        if frame.last:
                            self.over.add(frame.stream)
                    elif frame.kind == SYN_REPLY:
                        self.replies.append(frame.stream)
                    else:
                        self.others.append(frame)


@pytest.fixture
async def kubectl(api_server):
    async with api_server.ws_connect("/portForward/ns/p", protocols=(TUNNEL,)) as ws:
        assert ws.protocol == TUNNEL
        yield Kubectl(ws)


async def test_a_connection_through_the_tunnel(kubectl, app):
    await kubectl.open(app.port, 0, (1, 3))
    await kubectl.send(kubectl.framing.data(3, b"one "))
    await kubectl.until(lambda: kubectl.data.get(3) == b"ONE ")
    await kubectl.send(kubectl.framing.data(3, b"two ", last=True))
    await kubectl.until(lambda: kubectl.over == {1, 3})
    assert kubectl.data == {1: b"", 3: b"ONE TWO bye"}
    assert kubectl.replies == [1, 3]
    await app.closed()


async def test_an_error_stream_belongs_to_one_connection(kubectl, app):
    await kubectl.open(app.port, 0, (1, 3))
    again = {"streamtype": "data", "port": str(app.port), "requestid": "0"}
    await kubectl.send(kubectl.framing.stream(5, again))
    await kubectl.until(lambda: kubectl.others)
    assert [(frame.kind, frame.stream) for frame in kubectl.others] == [(RST_STREAM, 5)]


async def test_connections_side_by_side(kubectl, app):
    for request in range(5):
        await kubectl.open(app.port, request, (4 * request + 1, 4 * request + 3))
    for request in range(5):
        data = str(request).encode()
        await kubectl.send(kubectl.framing.data(4 * request + 3, data, last=True))
    await kubectl.until(lambda: len(kubectl.over) == 10)
    assert [kubectl.data[4 * n + 3] for n in range(5)] == [f"{n}bye".encode() for n in range(5)]


async def test_nobody_listens(kubectl, silent_port):
    await kubectl.open(silent_port, 0, (1, 3))
    await kubectl.until(lambda: kubectl.over == {1, 3})
    said = f"port {silent_port} of the pod: Connection refused"
    assert kubectl.data == {1: said.encode(), 3: b""}


async def test_a_reset_ends_the_connection_and_its_error_stream(kubectl, app):
    await kubectl.open(app.port, 0, (1, 3))
    await kubectl.send(kubectl.framing.data(3, b"x"))
    await kubectl.until(lambda: kubectl.data.get(3) == b"X")
    await kubectl.send(kubectl.framing.reset(3, spdy.CANCEL))
    await kubectl.until(lambda: kubectl.over == {1})
    await app.closed()
    await kubectl.send(kubectl.framing.data(3, b"late"), kubectl.framing.reset(3, spdy.CANCEL))
    await kubectl.open(app.port, 1, (5, 7))  # and the tunnel goes on
    await kubectl.send(kubectl.framing.data(7, b"y", last=True))
    await kubectl.until(lambda: 7 in kubectl.over)
    assert kubectl.data[7] == b"Ybye"


async def test_a_ping_is_answered(kubectl):
    await kubectl.send(kubectl.framing.ping(b"\0\0\0\1"))
    await kubectl.until(lambda: kubectl.others)
    assert [(frame.kind, frame.data) for frame in kubectl.others] == [(PING, b"\0\0\0\1")]


@pytest.mark.parametrize(
    "headers",
    [
        {"streamtype": "data", "port": "80", "requestid": "0"},  # without its error stream
        {"streamtype": "error", "port": "0", "requestid": "0"},
        {"streamtype": "error", "port": "99999", "requestid": "0"},
        {"streamtype": "error", "port": "http", "requestid": "0"},
        {"streamtype": "error", "port": "9" * 5000, "requestid": "0"},
        {"streamtype": "other", "port": "80", "requestid": "0"},
        {},
    ],
)
async def test_streams_that_make_no_sense_are_refused(kubectl, headers):
    await kubectl.send(kubectl.framing.stream(1, headers))
    await kubectl.until(lambda: kubectl.others)
    assert [(frame.kind, frame.stream) for frame in kubectl.others] == [(RST_STREAM, 1)]


async def test_garbage_in_the_tunnel_closes_it(kubectl):
    await kubectl.send(struct.pack(">HHI", 0x8002, 1, 0))
    async with asyncio.timeout(20):
        message = await kubectl.ws.receive()
    assert (message.type, kubectl.ws.close_code) == (aiohttp.WSMsgType.CLOSE, 1002)


async def test_goodbye(kubectl):
    await kubectl.send(struct.pack(">HHIII", 0x8003, 7, 8, 0, 0))
    async with asyncio.timeout(20):
        message = await kubectl.ws.receive()
    assert (message.type, kubectl.ws.close_code) == (aiohttp.WSMsgType.CLOSE, 1000)


@pytest.mark.parametrize("how", ["closes", "breaks"])
async def test_a_client_that_leaves_ends_its_connections(node, app, how):
    async with node.client() as session:
        ws = await session.ws_connect("/portForward/ns/p", protocols=(TUNNEL,))
        kubectl = Kubectl(ws)
        await kubectl.open(app.port, 0, (1, 3))
        await kubectl.send(kubectl.framing.data(3, b"x"))
        await kubectl.until(lambda: kubectl.data.get(3) == b"X")
        assert app.open == 1
        if how == "breaks":
            ws._response.connection.transport.abort()
        await ws.close()
        await app.closed()


async def test_channels(api_server, app, silent_port):
    query = f"port={silent_port},{app.port}"
    async with (
        asyncio.timeout(20),
        api_server.ws_connect(f"/portForward/ns/p?{query}", protocols=(CHANNELS,)) as ws,
    ):
        heads = [await ws.receive_bytes() for _ in range(4)]
        assert heads == [
            struct.pack("<BH", channel, (silent_port, app.port)[channel // 2])
            for channel in range(4)
        ]
        assert await ws.receive_bytes() == (
            b"\x01" + f"port {silent_port} of the pod: Connection refused".encode()
        )
        await ws.send_bytes(b"\x02abc")
        assert await ws.receive_bytes() == b"\x02ABC"
        await ws.send_bytes(b"\x09nobody")
        await ws.send_bytes(b"\x00nobody")
        await ws.send_bytes(b"\x02def")
        assert await ws.receive_bytes() == b"\x02DEF"
    await app.closed()


async def test_channels_end_when_all_connections_have_ended(api_server, app, silent_port):
    query = f"port={silent_port}&port={app.port}"
    async with (
        asyncio.timeout(20),
        api_server.ws_connect(f"/portForward/ns/p?{query}", protocols=(CHANNELS,)) as ws,
    ):
        for _ in range(5):  # four beginnings and the refusal
            await ws.receive_bytes()
        assert app.open == 1
        await app.hang_up()
        assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE
        assert ws.close_code == 1000


@pytest.mark.parametrize("query", ["", "port=", "port=0", "port=80,http", "port=65536"])
async def test_channels_for_ports_that_cannot_be(api_server, query):
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await api_server.ws_connect(f"/portForward/ns/p?{query}", protocols=(CHANNELS,))
    assert caught.value.status == 400


async def test_what_is_no_websocket_or_none_of_ours_or_no_pod(api_server):
    headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
    for method in ("GET", "POST"):
        async with api_server.request(method, "/portForward/ns/p", headers=headers) as response:
            assert response.status == 501
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await api_server.ws_connect("/portForward/ns/p", protocols=("channel.k8s.io",))
    assert caught.value.status == 400
    async with api_server.get("/portForward/ns/other") as response:
        assert (response.status, await response.text()) == (
            404,
            'pod "other" does not run on this node',
        )
