"""The runtime's event loop."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from aiinfra_lab.kube.runtime.loop import Loop


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    found = [socket.socketpair() for _ in range(2)]
    yield found
    for pair in found:
        for end in pair:
            end.close()


def test_times_come_in_their_order() -> None:
    loop, seen = Loop(), []
    for n, seconds in enumerate((0.02, 0.0, 0.01, 0.0)):
        loop.after(seconds, lambda n=n: seen.append(n))  # type: ignore[misc]
    while len(seen) < 4:
        loop.turn()
    assert seen == [1, 3, 2, 0]


def test_time_far_away_does_not_overflow(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    loop, seen = Loop(), []
    loop.after(1e9, lambda: seen.append("late"))
    loop.reading(pairs[0][0].fileno(), lambda: seen.append("read"))
    pairs[0][1].send(b"x")
    loop.turn()
    assert seen == ["read"]


def test_what_an_earlier_call_of_the_round_closed_is_not_called(
    pairs: list[tuple[socket.socket, socket.socket]],
) -> None:
    loop, seen = Loop(), []
    fds = [pair[0].fileno() for pair in pairs]

    def first(me: int) -> None:
        seen.append(me)
        loop.forget(fds[1 - me])

    for me in (0, 1):
        loop.reading(fds[me], lambda me=me: first(me))  # type: ignore[misc]
        pairs[me][1].send(b"x")
    loop.turn()
    assert len(seen) == 1


def test_number_that_was_used_again_in_the_round_is_another_ones(
    pairs: list[tuple[socket.socket, socket.socket]],
) -> None:
    loop, seen = Loop(), []
    fds = [pair[0].fileno() for pair in pairs]

    def first(me: int) -> None:
        seen.append("first")
        other = fds[1 - me]
        loop.forget(other)
        loop.reading(other, lambda: seen.append("new"))

    for me in (0, 1):
        loop.reading(fds[me], lambda me=me: first(me))  # type: ignore[misc]
        pairs[me][1].send(b"x")
    loop.turn()
    assert seen == ["first"]  # the news of this round were the old one's


def test_writing_is_told_until_it_is_not_wanted(
    pairs: list[tuple[socket.socket, socket.socket]],
) -> None:
    loop, seen = Loop(), []
    fd = pairs[0][0].fileno()
    loop.reading(fd, lambda: seen.append("read"))
    loop.writing(fd, lambda: seen.append("write"))
    loop.turn()
    loop.writing(fd, None)
    pairs[0][1].send(b"x")
    loop.turn()
    assert seen == ["write", "read"]


def test_end_of_the_other_side_is_read(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    loop, seen = Loop(), []
    read, write = os.pipe()
    loop.reading(read, lambda: seen.append(os.read(read, 10)))
    os.close(write)
    loop.turn()
    loop.forget(read)
    os.close(read)
    assert seen == [b""]
