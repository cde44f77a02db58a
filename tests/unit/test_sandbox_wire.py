"""The wire to a kernel: bounded, whatever the other end sends."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from aiinfra_lab.errors import InputError
from aiinfra_lab.grading import Bounds
from aiinfra_lab.grading.messages import Incoming, execute_request, output_of, read_message
from aiinfra_lab.grading.zmtp import Peer, WireError

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x06\x05READY"


def frame(body: bytes, *, more: bool = False) -> bytes:
    return bytes([more]) + bytes([len(body)]) + body


def long_frame(size: int, *, more: bool = False) -> bytes:
    return bytes([2 | more]) + struct.pack(">Q", size) + bytes(size)


@asynccontextmanager
async def other_end(folder: Path, sent: bytes) -> AsyncIterator[Path]:
    """A socket that sends these bytes to whoever connects, and nothing more."""
    path, done = folder / "s", asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.write(sent)
            writer.write_eof()
            await reader.read()
        writer.close()
        done.set()

    async with await asyncio.start_unix_server(serve, path):
        yield path
        await done.wait()


@asynccontextmanager
async def peer_of(folder: Path, sent: bytes) -> AsyncIterator[Peer]:
    """A peer to which the other end sends these bytes after the handshake."""
    async with other_end(folder, GREETING + READY + sent) as path:
        peer = await Peer.connect(path, "SUB", longest=1000)
        try:
            yield peer
        finally:
            peer.close()


async def test_messages_come_whole(tmp_path: Path) -> None:
    sent = frame(b"a", more=True) + frame(b"bc") + frame(b"") + b"\x04\x05\x04PING" + frame(b"d")
    async with peer_of(tmp_path, sent) as peer:
        found = [await peer.receive() for _ in range(3)]
        assert [message.frames for message in found] == [[b"a", b"bc"], [b""], [b"d"]]
        with pytest.raises(WireError):
            await peer.receive()


async def test_what_is_too_long_is_skipped_and_counted(tmp_path: Path) -> None:
    many = b"".join(long_frame(400, more=True) for _ in range(5)) + frame(b"")
    sent = long_frame(2000) + frame(b"x") + many + frame(b"y")
    async with peer_of(tmp_path, sent) as peer:
        found = [await peer.receive() for _ in range(4)]
        assert [(m.frames, m.size) for m in found] == [
            ([], 2000),
            ([b"x"], 1),
            ([], 2000),
            ([b"y"], 1),
        ]
        assert [m.skipped for m in found] == [True, False, True, False]


async def test_many_empty_frames_are_skipped_too(tmp_path: Path) -> None:
    sent = frame(b"", more=True) * 100_000 + frame(b"") + frame(b"after")
    async with peer_of(tmp_path, sent) as peer:
        assert (await peer.receive()).skipped
        assert (await peer.receive()).frames == [b"after"]


@pytest.mark.parametrize("sent", [b"\xff\xff\xff", b"\x00", b"\x02\xff", frame(b"a", more=True)])
async def test_what_is_not_the_protocol_ends_the_connection(tmp_path: Path, sent: bytes) -> None:
    async with peer_of(tmp_path, sent) as peer:
        with pytest.raises(WireError):
            await peer.receive()


async def test_other_end_that_is_no_zeromq_socket_is_refused(tmp_path: Path) -> None:
    async with other_end(tmp_path, b"HTTP/1.1 400 Bad Request\r\n".ljust(64)) as path:
        with pytest.raises(WireError, match="no ZMTP 3"):
            await Peer.connect(path, "SUB", longest=10)


# Messages.


def message(content: object, *, kind: object = "stream", parent: object = None) -> list[bytes]:
    parts = [{"msg_type": kind}, {"msg_id": "r"} if parent is None else parent, {}, content]
    return [b"topic", b"<IDS|MSG>", b"signature", *(json.dumps(part).encode() for part in parts)]


def test_message_is_read() -> None:
    assert read_message(message({"a": 1})) == Incoming("stream", "r", {"a": 1})


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"<IDS|MSG>"],
        [b"<IDS|MSG>", b"", b"{}"],
        message([1]),
        message(None),
        message({}, kind=None),
        message({}, kind=["stream"]),
        message({}, parent={"msg_id": 7}),
        message({}, parent=[1]),
        [*message({})[:-1], b"{"],
        [*message({})[:-1], b"[" * 100_000],
        [*message({})[:-1], b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}"],
        [*message({})[:-1], b'{"a": ' + b"9" * 5000 + b"}"],
        [*message({})[:-1], b"\xff"],
    ],
)
def test_what_cannot_be_read_is_none(frames: list[bytes]) -> None:
    assert read_message(frames) is None


def test_half_a_surrogate_pair_is_replaced() -> None:
    frames = [*message({})[:-1], rb'{"text": "\ud800x", "\uDFFF": [1]}']
    found = read_message(frames)
    assert found is not None
    assert found.content == {"text": "?x", "?": [1]}


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("stream", {"name": "stdout"}),
        ("stream", {"name": "stdin", "text": "x"}),
        ("stream", {"name": "stdout", "text": ["x"]}),
        ("display_data", {"data": "x"}),
        ("status", {"execution_state": "idle"}),
        ("comm_open", {}),
    ],
)
def test_what_is_no_output_gives_none(kind: str, content: dict[str, object]) -> None:
    assert output_of(Incoming(kind, "r", content)) is None


def test_error_of_strange_types_becomes_text() -> None:
    content = {"ename": 1, "evalue": None, "traceback": [1, "two"]}
    assert output_of(Incoming("error", "r", content)) == {
        "output_type": "error", "ename": "1", "evalue": "None", "traceback": ["1", "two"],
    }  # fmt: skip


def test_requests_are_signed_and_have_names_of_their_own() -> None:
    one, frames = execute_request("1", "key")
    other, _ = execute_request("1", "key")
    assert one != other
    assert frames[0] == b"<IDS|MSG>"
    assert len(frames[1]) == 64
    assert json.loads(frames[2])["msg_id"] == one
    assert json.loads(frames[5])["code"] == "1"


@pytest.mark.parametrize("name", ["cell_bytes", "total_bytes", "messages", "cell_s", "grace_s"])
def test_bound_that_is_not_positive_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"the bound {name}"):
        Bounds(**{name: 0})
