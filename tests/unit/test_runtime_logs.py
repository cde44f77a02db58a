"""The log of a container, line by line as a CRI runtime writes it."""

from __future__ import annotations

import datetime
import errno
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiinfra_lab.kube.runtime.logs import LINE, LogFile, Stream, stamp

NOW = 1_700_000_000_123_456_789
LONG = st.builds(
    lambda n, end: b"x" * n + end, st.integers(0, 3 * LINE), st.sampled_from([b"", b"\n"])
)
PIECES = st.lists(st.one_of(st.binary(max_size=50), LONG), max_size=8)


def written(path: Path) -> list[tuple[bytes, bytes]]:
    """(tag, text) of every line."""
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert all(re.match(rb"(\d{4}-\d\d-\d\dT\S{18}Z|t) std(out|err) [FP] ", line) for line in lines)
    return [(line.split(b" ", 3)[2], line.split(b" ", 3)[3]) for line in lines]


def stream(path: Path, **options: int) -> Stream:
    return Stream(os.open(os.devnull, os.O_RDONLY), "stdout", LogFile(path, **options))


@settings(max_examples=60, deadline=None)
@given(PIECES)
def test_every_byte_is_written_once_however_it_arrives(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("log") / "a.log"
    out = stream(path)
    for piece in pieces:
        out.take(piece)
    out.close()
    lines = written(path)
    assert b"".join(t + (b"\n" if tag == b"F" else b"") for tag, t in lines) == b"".join(pieces)
    assert all(len(text) <= LINE for _, text in lines)
    # Only a piece that is full, or the very last one, is not the end of its line.
    assert all(tag == b"F" or len(text) == LINE for tag, text in lines[:-1])


def test_line_of_the_greatest_length_is_one_piece(tmp_path: Path) -> None:
    out = stream(tmp_path / "a.log")
    out.take(b"x" * LINE)
    out.take(b"\n" + b"y" * (LINE + 1) + b"\n\n")
    out.close()
    found = [(tag, len(text)) for tag, text in written(tmp_path / "a.log")]
    assert found == [(b"F", LINE), (b"P", LINE), (b"F", 1), (b"F", 0)]


def test_line_in_full(tmp_path: Path) -> None:
    out = stream(tmp_path / "a.log")
    out.take(b"caf\xe9 \x00\n", NOW)
    found = (tmp_path / "a.log").read_bytes()
    assert found == b"2023-11-14T22:13:20.123456789Z stdout F caf\xe9 \x00\n"
    out.close()


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_stamps_are_utc(now: int) -> None:
    text = stamp(now).decode()
    assert text[-11:] == f".{now % 10**9:09d}Z"
    seconds = datetime.datetime.fromisoformat(text[:19] + "+00:00").timestamp()
    assert seconds == now // 10**9


def test_rotation_keeps_the_newest_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    out = stream(path, size=1000, files=3)
    for n in range(200):
        out.take(b"line %d\n" % n)
    out.close()
    files = [Path(f"{path}.2"), Path(f"{path}.1"), path]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(0 < file.stat().st_size <= 1000 for file in files)
    kept = [text for file in files for _, text in written(file)]
    assert kept == [b"line %d" % n for n in range(200 - len(kept), 200)]
    assert len(kept) > 50


def test_log_that_is_there_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"t stdout F old\n" * 60)
    out = stream(path, size=1000, files=2)
    out.take(b"n" * 100 + b"\n")
    out.close()
    assert written(path) == [(b"F", b"n" * 100)]
    assert len(written(Path(f"{path}.1"))) == 60


def test_full_disk_loses_whole_lines_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = stream(tmp_path / "a.log")
    out.take(b"before\n")
    real = os.write
    calls: list[int] = []

    def write(fd: int, data: bytes) -> int:
        calls.append(fd)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "full")
        return real(fd, data[:5])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        out.take(b"lost\n")
    out.take(b"after\n")
    out.close()
    assert [text for _, text in written(tmp_path / "a.log")] == [b"before", b"after"]


def test_pump_takes_what_is_there_and_sees_the_end(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.set_blocking(read, False)
    out = Stream(read, "stderr", LogFile(tmp_path / "a.log"))
    os.write(write, b"one\ntw")
    assert out.pump()
    assert written(tmp_path / "a.log") == [(b"F", b"one")]
    os.write(write, b"o\nthree")
    os.close(write)
    assert not out.pump()
    out.close()
    assert written(tmp_path / "a.log") == [(b"F", b"one"), (b"F", b"two"), (b"P", b"three")]


def test_loud_stream_leaves_turns_to_others(tmp_path: Path) -> None:
    read = os.open("/dev/zero", os.O_RDONLY)
    out = Stream(read, "stdout", LogFile(tmp_path / "a.log"))
    assert out.pump(2)  # it comes back
    out.close()
