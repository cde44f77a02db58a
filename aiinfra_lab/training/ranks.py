"""Ranks that stay: one torchrun launch that runs function after function on all of its ranks.

A launch costs seconds (every rank imports torch), a job on ranks that stand costs milliseconds.
So a notebook starts its ranks once and sends them functions, its own cells' ones too.

What keeps one job from spoiling the next:

- every job has a process group of its own, with its own prefix in torchrun's store. A group in
  which a collective timed out is broken for good; it ends with its job;
- no rank leaves a job before all have answered: a rank that closed its sockets early would turn
  the others' wait, which is what one wants to see, into a connection error;
- a rank that does not answer at all (it computes for ever, it died) ends the launch, and the next
  job begins a new one.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import cloudpickle  # type: ignore[import-untyped]

from aiinfra_lab import needs
from aiinfra_lab.errors import AIInfraLabError, InputError, ProcessError
from aiinfra_lab.processes import Child
from aiinfra_lab.training.agent import interface_of

T = TypeVar("T")
_PORT, _KEY = "AIINFRA_RANKS_PORT", "AIINFRA_RANKS_KEY"
_HOST = "127.0.0.1"
_MOST = 64  # ranks; each is a process of some 500 MiB
_START_WALL = 120.0  # seconds until all ranks have imported torch, on a machine under load
_END_WALL = 5.0  # seconds that idle ranks get to leave by themselves
_LONGEST = 500  # characters of an error that are shown
_GLOO_PLACE = re.compile(r"^\[\S+\.cc:\d+\] ")  # where in its C++ source gloo raised


class RankError(AIInfraLabError):
    """A job failed on some ranks.

    ``failures`` has what became of each failed rank, in the order in which it was heard: the first
    is the cause more often than not, the others waited for it. ``tracebacks`` has where, for those
    that could still say so.
    """

    def __init__(self, failures: dict[int, str], tracebacks: dict[int, str] | None = None) -> None:
        self.failures, self.tracebacks = failures, tracebacks or {}
        ranks_of: dict[str, list[int]] = {}
        for rank, words in failures.items():
            ranks_of.setdefault(words, []).append(rank)
        super().__init__("; ".join(f"{_named(r)} {words}" for words, r in ranks_of.items()))


@dataclass(frozen=True)
class _Job:
    """What every rank is sent."""

    number: int
    work: bytes = field(repr=False)
    seed: int
    group_timeout_s: float


@dataclass(frozen=True)
class _Answer:
    """What a rank sends back: a pickled result, or what it raised."""

    rank: int
    printed: str
    result: bytes | None = None
    failure: str = ""
    trace: str = ""


class Ranks:
    """Processes that form a gloo group for each function they are given.

    Parameters
    ----------
    world : int
        How many, 1 to 64; each computes with one thread, so more than the cores gain nothing.
    group_timeout_s : float
        Seconds that a collective waits for the other ranks before it raises.

    Notes
    -----
    The ranks end with this process, whatever ends it. Any thread may call, one at a time; a running
    event loop (a notebook's) is no hindrance, and stands still meanwhile.

    Examples
    --------
    >>> import torch, torch.distributed as dist
    >>> def total(value):
    ...     tensor = torch.tensor(value * (dist.get_rank() + 1))
    ...     dist.all_reduce(tensor)
    ...     return tensor.item()
    >>> with Ranks(2) as ranks:
    ...     ranks.run(total, 10)
    [30, 30]
    """

    def __init__(self, world: int, *, group_timeout_s: float = 20.0) -> None:
        if isinstance(world, bool) or not isinstance(world, int) or not 1 <= world <= _MOST:
            raise InputError(
                "a world has a whole number of ranks", found=repr(world), needed=f"1..{_MOST}"
            )
        self.world = world
        self.group_timeout_s = _checked_seconds("group_timeout_s", group_timeout_s)
        self._wanted = False
        self._launch: _Launch | None = None

    def start(self) -> Self:
        """Launch the ranks; returns when all of them stand. Does nothing if they do.

        Raises
        ------
        MissingNeed
            torch is not installed.
        ProcessError
            They did not come up; the last lines of their log say why.
        """
        needs.require("torch")
        self._wanted = True
        if self._launch is None:
            self._launch = _Launch(self.world)
        return self

    def stop(self) -> None:
        """End the ranks; may be called again, and before the start."""
        self._wanted = False
        self._end()

    def run(
        self,
        function: Callable[..., T],
        *arguments: object,
        seed: int = 0,
        timeout_s: float = 60.0,
        group_timeout_s: float | None = None,
    ) -> list[T]:
        """``function(*arguments)`` on every rank, inside an initialised process group.

        What the ranks print appears here when all are done, rank by rank.

        Parameters
        ----------
        function : callable
            Sent by value where it is a notebook's, by name where a module of this process's
            ``sys.path`` holds it. It must not end the group.
        seed : int
            Every rank's generators (Python, numpy, torch) start from it, all from the same.
        timeout_s : float
            Seconds for the whole job. Ranks that have not answered by then are ended.
        group_timeout_s : float, optional
            As in the constructor, for this job.

        Returns
        -------
        list
            What each rank returned, by rank.

        Raises
        ------
        RankError
            The function raised on a rank, or a rank did not answer.
        InputError
            The function or an argument cannot be sent, a number is out of range, or the ranks
            were not started.
        """
        if not self._wanted:
            raise InputError("these ranks do not run", fix="Use `with Ranks(2) as ranks:`.")
        if not 0 <= seed < 2**32:
            raise InputError("a seed has 32 bits", found=str(seed), needed="0..4294967295")
        wall = _checked_seconds("timeout_s", timeout_s)
        group_wall = _checked_seconds(
            "group_timeout_s", self.group_timeout_s if group_timeout_s is None else group_timeout_s
        )
        work = _packed(function, arguments)
        if self._launch is not None and not self._launch.stands():
            self._end(at_once=True)
        self.start()
        assert self._launch is not None
        try:
            answers, absent = self._launch.run(work, seed, group_wall, wall)
        except BaseException:  # an interrupt: whoever computes on must not meet the next job
            self._end(at_once=True)
            raise
        if absent:
            self._end(at_once=True)
        return _results(answers, absent)

    def _end(self, *, at_once: bool = False) -> None:
        launch, self._launch = self._launch, None
        if launch is not None:
            launch.end(at_once=at_once)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class _Launch:
    """One torchrun and a connection to each of its ranks."""

    def __init__(self, world: int) -> None:
        self.world, self.jobs = world, 0
        self.connections: dict[int, Connection] = {}
        self._key = secrets.token_bytes(32)
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        with socket.create_server((_HOST, 0), backlog=world) as door:
            door.setblocking(False)
            self.child = Child(
                [sys.executable, "-m", "torch.distributed.run", "--standalone",
                 f"--local-addr={_HOST}", f"--nproc-per-node={world}", "-m", __name__],
                log=Path(self._folder.name) / "ranks.log",
                name="torchrun",
                env=os.environ | {
                    _PORT: str(door.getsockname()[1]),
                    _KEY: self._key.hex(),
                    "OMP_NUM_THREADS": "1",
                    # One host: the name of this machine need not resolve for its ranks to meet.
                    "GLOO_SOCKET_IFNAME": interface_of(_HOST),
                },
            )  # fmt: skip
            try:
                self.child.start()
                self.child.ready(lambda: self._admit(door), _START_WALL, what="all its ranks")
            except BaseException:
                self.end(at_once=True)
                raise

    def _admit(self, door: socket.socket) -> bool:
        """Let in those who wait at the door; whether all ranks are in."""
        accepted, _ = door.accept()  # nobody there: BlockingIOError, which is "not yet"
        accepted.setblocking(True)
        connection = Connection(accepted.detach())
        try:
            deliver_challenge(connection, self._key)
            answer_challenge(connection, self._key)
            connection.send(sys.path)
            self.connections[connection.recv()] = connection
        except (AuthenticationError, EOFError, OSError):
            connection.close()
        return len(self.connections) == self.world

    def stands(self) -> bool:
        """Whether all ranks wait for a job: an idle rank that can be heard has ended."""
        return not wait(list(self.connections.values()), 0)

    def run(
        self, work: bytes, seed: int, group_wall: float, wall: float
    ) -> tuple[list[_Answer], dict[int, str]]:
        """The answers in the order in which they came, and what became of the other ranks."""
        self.jobs += 1
        job = _Job(self.jobs, work, seed, group_wall)
        waiting = {connection: rank for rank, connection in sorted(self.connections.items())}
        answers: list[_Answer] = []
        for connection in waiting:
            with contextlib.suppress(OSError):  # it is dead, and will be heard as such
                connection.send(job)
        deadline = time.monotonic() + wall
        while waiting:
            heard = wait(list(waiting), max(0.0, deadline - time.monotonic()))
            if not heard:
                return answers, dict.fromkeys(waiting.values(), f"did not answer within {wall:g} s")
            for connection in (c for c in list(waiting) if c in heard):
                try:
                    answers.append(connection.recv())
                except (EOFError, OSError):  # torchrun ends the others next: this one was first
                    return answers, {waiting[connection]: "ended in the middle of the job"}
                del waiting[connection]
        for connection in self.connections.values():
            with contextlib.suppress(OSError):
                connection.send("all have answered")
        return answers, {}

    def end(self, *, at_once: bool) -> None:
        for connection in self.connections.values():
            connection.close()  # a rank that waits for a job leaves
        if not at_once:
            with contextlib.suppress(ProcessError):
                self.child.wait(_END_WALL)
        self.child.stop(0)
        self._folder.cleanup()


def _packed(function: Callable[..., object], arguments: tuple[object, ...]) -> bytes:
    if not callable(function):
        raise InputError("ranks run a function", found=repr(function)[:_LONGEST])
    try:
        packed: bytes = cloudpickle.dumps((function, arguments))
    except Exception as error:
        raise InputError(
            f"this function or one of its arguments cannot be sent to the ranks: {_short(error)}",
            fix="Make such things (open files, sockets, locks, generators) inside the function.",
        ) from error
    return packed


def _results(answers: list[_Answer], absent: dict[int, str]) -> list[Any]:
    for answer in sorted(answers, key=lambda answer: answer.rank):
        print(
            "".join(f"rank {answer.rank}: {line}\n" for line in answer.printed.splitlines()), end=""
        )
    failed = {answer.rank: answer for answer in answers if answer.result is None}
    if failed or absent:
        failures = {rank: answer.failure for rank, answer in failed.items()} | absent
        raise RankError(failures, {rank: answer.trace for rank, answer in failed.items()})
    results = {answer.rank: cloudpickle.loads(answer.result) for answer in answers}
    return [results[rank] for rank in sorted(results)]


def _checked_seconds(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 86_400:
        raise InputError(
            f"{name} is a number of seconds", found=repr(value), needed="0 < s < 86400"
        )
    return float(value)


def _named(ranks: list[int]) -> str:
    names = ", ".join(map(str, sorted(ranks)))
    return f"rank {names}" if len(ranks) == 1 else f"ranks {names}"


def _short(error: BaseException) -> str:
    words = _GLOO_PLACE.sub("", " ".join(str(error).split()))[:_LONGEST]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


# ---- the other side: one of the ranks


def _serve() -> None:
    """Do jobs until the connection ends."""
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    key, port = bytes.fromhex(os.environ.pop(_KEY)), int(os.environ.pop(_PORT))
    wall = timedelta(seconds=_START_WALL)
    store, rank, world = next(rendezvous("env://", timeout=wall))
    with Client((_HOST, port), authkey=key) as connection, contextlib.suppress(EOFError, OSError):
        sys.path[:] = connection.recv()
        connection.send(rank)
        while True:
            job = connection.recv()
            answer = _answer(job, store, rank, world)
            connection.send(answer)
            connection.recv()
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()


def _answer(job: _Job, store: Any, rank: int, world: int) -> _Answer:
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore

    from aiinfra_lab.seeding import seed_everything

    printed = io.StringIO()
    try:
        dist.init_process_group(
            "gloo",
            store=PrefixStore(f"job-{job.number}", store),
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=job.group_timeout_s),
        )
        with contextlib.redirect_stdout(printed):
            function, arguments = cloudpickle.loads(job.work)
            seed_everything(job.seed)
            result = cloudpickle.dumps(function(*arguments))
    except BaseException as error:  # also SystemExit: the rank stays
        failure = f"raised {_short(error)}"
        return _Answer(rank, printed.getvalue(), failure=failure, trace=traceback.format_exc())
    return _Answer(rank, printed.getvalue(), result)


if __name__ == "__main__":
    from aiinfra_lab.training import ranks  # what is pickled must not be __main__'s

    ranks._serve()
    sys.stdout.flush()
    os._exit(0)  # torch 2.15 may abort in its own end after everything is done
