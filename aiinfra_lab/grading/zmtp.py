"""The client's end of ZeroMQ's wire protocol (ZMTP 3.0, NULL mechanism) with hard bounds.

libzmq bounds the bytes of a frame and the number of queued messages, but not the frames of one
message: whoever owns the other end's socket, as a submission does, can have it collect frames
until memory is full. Here a message that is too long is skipped as it comes, and nothing is read
ahead of who asks. The protocol is RFC 23 (rfc.zeromq.org/spec/23).
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_MORE, _LONG, _COMMAND = 1, 2, 4
_MOST_FRAMES = 64
_PIECE = 1 << 16


class WireError(Exception):
    """The other end does not speak the protocol, or has closed the connection."""


@dataclass(frozen=True)
class Message:
    """Frames, or none where they were more than allowed; ``size`` counts the bytes in any case."""

    frames: list[bytes]
    size: int

    @property
    def skipped(self) -> bool:
        """Whether it was too long to be kept."""
        return not self.frames


class Peer:
    """One connection to a bound ZeroMQ socket.

    Parameters
    ----------
    reader, writer
        The connection.
    longest : int
        Bytes of a message; what is longer is skipped.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, longest: int
    ) -> None:
        self._reader, self._writer, self._longest = reader, writer, longest

    @classmethod
    async def connect(cls, path: Path, kind: str, *, longest: int) -> Self:
        """Connect to the socket at ``path`` as a socket of this ``kind`` (DEALER, SUB).

        Raises
        ------
        WireError
            The other end does not answer as a ZeroMQ socket does.
        """
        reader, writer = await asyncio.open_unix_connection(path, limit=_PIECE)
        peer = cls(reader, writer, longest)
        try:
            await peer._greet(kind.encode())
        except BaseException:
            peer.close()
            raise
        return peer

    async def _greet(self, kind: bytes) -> None:
        self._writer.write(_GREETING)
        greeting = await self._exactly(len(_GREETING))
        if greeting[0] != 0xFF or greeting[9] != 0x7F or greeting[10] < 3:
            raise WireError("no ZMTP 3 at the other end")
        ready = b"\x05READY" + _property(b"Socket-Type", kind) + _property(b"Identity", b"")
        self._writer.write(bytes([_COMMAND, len(ready)]) + ready)
        flags, size = await self._head()
        if not flags & _COMMAND or size > _PIECE:
            raise WireError("no READY from the other end")
        if not (await self._exactly(size)).startswith(b"\x05READY"):
            raise WireError("the other end refuses")

    async def send(self, frames: list[bytes]) -> None:
        """Send one message.

        Raises
        ------
        WireError
            The connection has ended.
        """
        for number, frame in enumerate(frames, start=1):
            flags = _MORE if number < len(frames) else 0
            head = bytes([flags | _LONG]) + struct.pack(">Q", len(frame))
            self._writer.write(head + frame)
        try:
            await self._writer.drain()
        except OSError as error:
            raise WireError(str(error)) from None

    async def receive(self) -> Message:
        """The next message, also one that was skipped.

        A cancelled call may have read a part of a message: the peer is of no use after it.

        Raises
        ------
        WireError
            The connection has ended, or what came is not the protocol.
        """
        frames: list[bytes] = []
        total, keep = 0, True
        while True:
            flags, size = await self._head()
            if flags & _COMMAND:
                await self._skip(size)
                continue
            total += size
            keep = keep and total <= self._longest and len(frames) < _MOST_FRAMES
            if keep:
                frames.append(await self._exactly(size))
            else:
                frames.clear()
                await self._skip(size)
            if not flags & _MORE:
                return Message(frames, total)

    async def _head(self) -> tuple[int, int]:
        flags = (await self._exactly(1))[0]
        if flags & ~(_MORE | _LONG | _COMMAND):
            raise WireError("flags that ZMTP does not have")
        if flags & _LONG:
            return flags, int(struct.unpack(">Q", await self._exactly(8))[0])
        return flags, (await self._exactly(1))[0]

    async def _exactly(self, size: int) -> bytes:
        try:
            return await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError):
            raise WireError("the connection has ended") from None

    async def _skip(self, size: int) -> None:
        while size:
            size -= len(await self._exactly(min(size, _PIECE)))

    def close(self) -> None:
        """Close the connection at once."""
        self._writer.transport.abort()


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
