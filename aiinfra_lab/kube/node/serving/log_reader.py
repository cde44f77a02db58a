"""A container's log as ``kubectl logs`` wants it: the end of it, a part of it, or as it grows.

The file is the CRI's: one entry a line with its time, stream and tag, then what the container
wrote. The tag ``P`` says that the line goes on in the next entry. The runtime rotates by renaming
``log`` to ``log.1``; a reader that follows keeps its file until it has read all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Literal, Self

from aiinfra_lab.errors import InputError

Stream = Literal["All", "Stdout", "Stderr"]

# The standard library has no inotify: a follower looks this often, and nobody else pays for it.
POLL_S = 0.05
_STREAMS = {"All": (b"stdout", b"stderr"), "Stdout": (b"stdout",), "Stderr": (b"stderr",)}
_CHUNK = 1 << 18  # a few ms of work, after which the event loop has its turn
_BLOCK = 1 << 16  # read at once, going back from the end


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """What of a log is wanted; the fields are those of Kubernetes' ``PodLogOptions``.

    Attributes
    ----------
    follow : bool
        Go on until the container has ended.
    tail_lines : int, optional
        Lines from the end.
    limit_bytes : int, optional
        No more than this.
    since : datetime, optional
        Aware; nothing before it.
    timestamps : bool
        Begin each line with its time.
    stream : str
        ``All``, ``Stdout`` or ``Stderr``.
    """

    follow: bool = False
    tail_lines: int | None = None
    limit_bytes: int | None = None
    since: datetime | None = None
    timestamps: bool = False
    stream: Stream = "All"

    @classmethod
    def from_query(cls, query: Mapping[str, str], *, now: datetime | None = None) -> Self:
        """The options in a URL's query, as the API server sends them.

        Raises
        ------
        InputError
            A value that cannot be used.
        """
        since = None
        if "sinceSeconds" in query and "sinceTime" in query:
            raise InputError("give one of sinceSeconds and sinceTime, not both")
        if "sinceSeconds" in query:
            seconds = _whole(query, "sinceSeconds", 1) or 0
            with contextlib.suppress(OverflowError):  # before the first year: everything
                since = (now or datetime.now(UTC)) - timedelta(seconds=seconds)
        elif "sinceTime" in query:
            since = _time(query["sinceTime"])
            if since is None:
                raise InputError(
                    "sinceTime cannot be used",
                    found=repr(query["sinceTime"]),
                    needed="a time such as 2026-01-31T12:00:00Z",
                )
        stream = query.get("stream", "All")
        if stream not in _STREAMS:
            raise InputError(
                "stream cannot be used", found=repr(stream), needed=", ".join(_STREAMS)
            )
        return cls(
            follow=truth(query, "follow"),
            tail_lines=_whole(query, "tailLines", 0),
            limit_bytes=_whole(query, "limitBytes", 1),
            since=since,
            timestamps=truth(query, "timestamps"),
            stream=stream,  # type: ignore[arg-type]
        )


async def read_log(
    path: Path, options: LogOptions, *, ended: Callable[[], bool] = lambda: True
) -> AsyncGenerator[bytes, None]:
    """Yield what ``options`` ask for of the log at ``path`` and the file it was rotated to.

    Parameters
    ----------
    path : Path
        It need not exist yet.
    options : LogOptions
        Without ``follow`` the log ends where it ends now.
    ended : callable
        Whether the container has ended, so that nothing comes after what is in the file.
    """
    files = _open(path)
    while options.follow and not files and not ended():
        await asyncio.sleep(POLL_S)
        files = _open(path)
    try:
        left = None if options.follow else sum(os.fstat(file.fileno()).st_size for file in files)
        if options.tail_lines is not None:
            skipped = _seek_tail(files, options.tail_lines, options.stream)
            left = None if left is None else left - skipped
        selection, rest = _Selection(options), b""
        while files and not selection.full:
            # Both asked before the look: what was written until then is then read.
            over, renamed = ended(), len(files) > 1
            chunk = files[0].read(_CHUNK if left is None else min(_CHUNK, left))
            if chunk:
                left = None if left is None else left - len(chunk)
                *entries, rest = (rest + chunk).split(b"\n")
            elif not renamed and left is None and (newer := _newer(path, files[0])) is not None:
                files.append(newer)
                continue
            elif renamed or left is not None or over:
                entries, rest = [rest], b""
                files.pop(0).close()
            else:
                await asyncio.sleep(POLL_S)
                continue
            if taken := selection.take(entries):
                yield taken
            else:
                await asyncio.sleep(0)
    finally:
        for file in files:
            file.close()


class _Selection:
    """What of the entries is wanted, as the bytes that are sent."""

    def __init__(self, options: LogOptions) -> None:
        self.full = False
        self._options, self._left = options, options.limit_bytes
        self._line_begins = True

    def take(self, entries: Sequence[bytes]) -> bytes:
        """The wanted bytes of some entries; what is no entry is left out."""
        options, taken = self._options, []
        for entry in entries:
            parts = entry.split(b" ", 3)
            if len(parts) != 4 or parts[1] not in _STREAMS[options.stream]:
                continue
            time, _, tag, text = parts
            if options.since is not None:
                at = _time(time.decode(errors="replace"))
                if at is None or at < options.since:
                    continue
            if options.timestamps and self._line_begins:
                taken += [time, b" "]
            self._line_begins = not _partial(tag)
            taken += [text, b"\n"] if self._line_begins else [text]
        found = b"".join(taken)
        if self._left is not None:
            found = found[: self._left]
            self._left -= len(found)
            self.full = self._left == 0
        return found


def _open(path: Path) -> list[BinaryIO]:
    """The rotated file, if there is one, and the log."""
    rotated = path.with_name(path.name + ".1")
    while True:
        files: list[BinaryIO] = []
        for name in (path, rotated):
            with contextlib.suppress(FileNotFoundError):
                files.insert(0, name.open("rb", buffering=0))
        if len(files) < 2 or not os.path.sameopenfile(files[0].fileno(), files[1].fileno()):
            return files
        for file in files:  # renamed in between, the same file has been opened twice
            file.close()


def _newer(path: Path, file: BinaryIO) -> BinaryIO | None:
    """What comes after ``file`` if it is the log no longer."""
    now, rotated = os.fstat(file.fileno()), path.with_name(path.name + ".1")
    try:
        if os.path.samestat(path.stat(), now):
            return None
        # Rotated twice since we looked: the one in between comes first.
        with contextlib.suppress(FileNotFoundError):
            if not os.path.samestat(rotated.stat(), now):
                return rotated.open("rb", buffering=0)
        return path.open("rb", buffering=0)
    except FileNotFoundError:  # not written yet
        return None


def _seek_tail(files: Sequence[BinaryIO], lines: int, stream: Stream) -> int:
    """Move each file to where the last ``lines`` begin; give the bytes that are left out."""
    skipped, ends, newest = 0, 0, True
    for file in reversed(files):
        size = file.seek(0, os.SEEK_END)
        start = size if ends > lines else 0
        for after, entry in _backwards(file, size) if ends <= lines else ():
            parts = entry.split(b" ", 3)
            if len(parts) == 4 and parts[1] in _STREAMS[stream]:
                # The last entry ends a line for us, even if its line goes on.
                ends += newest or not _partial(parts[2])
                newest = False
            if ends > lines:
                start = after
                break
        file.seek(start)
        skipped += start
    return skipped


def _backwards(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    """The entries from the last to the first, each with the offset of what comes after it."""
    begin = end = size
    head = b""
    while begin > 0:
        begin -= (step := min(_BLOCK, begin))
        file.seek(begin)
        head, *entries = (file.read(step) + head).split(b"\n")
        for entry in reversed(entries):
            if entry:
                yield min(end + 1, size), entry
            end -= len(entry) + 1
    if head:
        yield min(end + 1, size), head


def _partial(tag: bytes) -> bool:
    return tag.partition(b":")[0] == b"P"


def truth(query: Mapping[str, str], name: str) -> bool:
    """A yes or no in a URL's query, read as Kubernetes reads it."""
    return query.get(name, "false").lower() not in ("false", "0")


def _whole(query: Mapping[str, str], name: str, least: int) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20) or int(text) < least:
        raise InputError(
            f"{name} cannot be used", found=repr(text), needed=f"a whole number from {least}"
        )
    return int(text)


def _time(text: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo is not None else None
