"""The frames of SPDY 3.1, as far as ``kubectl port-forward`` needs them, and no connection.

kubectl forwards ports in SPDY streams, which it sends through a websocket. There is no flow
control in it: Kubernetes' own implementation has none either.

The format is that of the SPDY protocol's draft 3.1, section 2.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from aiinfra_lab.errors import AIInfraLabError

SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY, HEADERS = 1, 2, 3, 6, 7, 8
DATA = -1  # not a number of the protocol: data frames have none
FIN = 1
REFUSED, CANCEL = 3, 5  # reasons of RST_STREAM

_VERSION = 3
_CONTROL = 1 << 15
_HEAD = 8
_LONGEST_DATA = 1 << 16  # per frame that we send
_LONGEST_FRAME = 1 << 20
_LONGEST_HEADERS = 1 << 16
_STREAM = 0x7FFFFFFF

# What both sides take for sent before the first header; the protocol fixes it, letter by letter.
# One of the words has a space in it, which stands here as @.
_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language "
    "accept-ranges age allow authorization cache-control connection content-base content-encoding "
    "content-language content-length content-location content-md5 content-range content-type date "
    "etag expect expires from host if-match if-modified-since if-none-match if-range "
    "if-unmodified-since last-modified location max-forwards pragma proxy-authenticate "
    "proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200@OK version HTTP/1.1 url "
    "public set-cookie keep-alive origin"
)
_REST = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request"
    "401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented"
    "503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 "
    "Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,"
    "application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age="
    "gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _counted(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


DICTIONARY = b"".join(
    [*(_counted(word.replace("@", " ").encode()) for word in _WORDS.split()), _REST.encode()]
)


class SpdyError(AIInfraLabError):
    """The other side does not speak SPDY 3.1; the connection cannot go on."""


@dataclass(frozen=True)
class Frame:
    """One frame: its kind, its stream (0 where it has none), and what it carries."""

    kind: int
    stream: int = 0
    data: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    last: bool = False  # its sender sends nothing more on this stream


class Framing:
    """The frames of one connection: bytes to frames, and frames to bytes.

    Header blocks are compressed over the whole connection, so every frame has to pass here, in
    its order.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete with ``data``; those of no use here are left out.

        Raises
        ------
        SpdyError
            A frame makes no sense or is too large.
        """
        self._rest += data
        while len(self._rest) >= _HEAD:
            first, second = struct.unpack_from(">II", self._rest)
            flags, length = second >> 24, second & 0xFFFFFF
            if length > _LONGEST_FRAME:
                raise SpdyError("a SPDY frame is too large", found=f"{length} bytes")
            if len(self._rest) < _HEAD + length:
                return
            body = bytes(self._rest[_HEAD : _HEAD + length])
            del self._rest[: _HEAD + length]
            frame = self._frame(first, flags, body)
            if frame is not None:
                yield frame

    def _frame(self, first: int, flags: int, body: bytes) -> Frame | None:
        last = bool(flags & FIN)
        if not first >> 31:
            return Frame(DATA, first, body, last=last)
        version, kind = first >> 16 & 0x7FFF, first & 0xFFFF
        if version != _VERSION:
            raise SpdyError("the client speaks another SPDY", found=f"version {version}")
        before = {SYN_STREAM: 10, SYN_REPLY: 4, HEADERS: 4, RST_STREAM: 8, PING: 4}.get(kind, 0)
        if len(body) < before:
            raise SpdyError("a SPDY frame is too short", found=f"{len(body)} bytes of kind {kind}")
        if kind == PING:
            return Frame(PING, data=body[:4])
        if kind == GOAWAY:
            return Frame(GOAWAY)
        if not before:  # SETTINGS and WINDOW_UPDATE, which nobody obeys
            return None
        stream = struct.unpack_from(">I", body)[0] & _STREAM
        if kind == RST_STREAM:
            return Frame(RST_STREAM, stream)
        return Frame(kind, stream, headers=self._headers(body[before:]), last=last)

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            text = self._inflate.decompress(block, _LONGEST_HEADERS)
            if self._inflate.unconsumed_tail:
                raise SpdyError("the headers of a SPDY stream are too long")
            (count,), at = struct.unpack_from(">I", text), 4
            parts: list[str] = []
            for _ in range(2 * count):
                (length,) = struct.unpack_from(">I", text, at)
                part = text[at + 4 : at + 4 + length]
                if len(part) < length:
                    raise SpdyError("the headers of a SPDY stream are cut off")
                parts.append(part.decode("latin-1"))
                at += 4 + length
        except (zlib.error, struct.error) as error:
            raise SpdyError(f"the headers of a SPDY stream cannot be read: {error}") from None
        return {name.lower(): value for name, value in zip(parts[::2], parts[1::2], strict=True)}

    def stream(self, stream: int, headers: Mapping[str, str], *, last: bool = False) -> bytes:
        """Open a stream."""
        body = struct.pack(">IIH", stream, 0, 0) + self._block(headers)
        return _control(SYN_STREAM, body, FIN * last)

    def reply(self, stream: int) -> bytes:
        """Accept a stream."""
        return _control(SYN_REPLY, struct.pack(">I", stream) + self._block({}))

    def _block(self, headers: Mapping[str, str]) -> bytes:
        parts = [struct.pack(">I", len(headers))]
        for name, value in headers.items():
            parts += [_counted(name.lower().encode("latin-1")), _counted(value.encode("latin-1"))]
        return self._deflate.compress(b"".join(parts)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    @staticmethod
    def data(stream: int, data: bytes, *, last: bool = False) -> bytes:
        """Data on a stream, in as many frames as it takes; ``last`` ends our side of it."""
        pieces = [data[at : at + _LONGEST_DATA] for at in range(0, len(data), _LONGEST_DATA)]
        frames = []
        for number, piece in enumerate(pieces or [b""], 1):
            fin = FIN * (last and number >= len(pieces))
            frames.append(struct.pack(">II", stream, fin << 24 | len(piece)) + piece)
        return b"".join(frames)

    @staticmethod
    def reset(stream: int, reason: int) -> bytes:
        """End a stream in both directions."""
        return _control(RST_STREAM, struct.pack(">II", stream, reason))

    @staticmethod
    def ping(number: bytes) -> bytes:
        """A ping, or the answer to one."""
        return _control(PING, number)


def _control(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack(">HHI", _CONTROL | _VERSION, kind, flags << 24 | len(body)) + body
