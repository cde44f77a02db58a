"""A child process: it becomes ready or fails with its last lines, and it ends with its parent.

Any thread may call, also beside a running event loop (a notebook), and the thread that started
a child may end. A forked copy of the parent owns no children and stops none.

What holds if all goes wrong:

- The parent is killed: the reaper sees it and ends the tree within ``grace``.
- The reaper is killed: the kernel kills the child (Linux), and the next call in the parent
  (or its exit) kills what the child had started.
- Both are killed at once: the kernel kills the child; what it had started is ended by the next
  start with the same ``pid_file``.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from aiinfra_lab.errors import InputError
from aiinfra_lab.processes.life import Life
from aiinfra_lab.processes.order import SMALLEST_LOG, IfRunning, Order, checked_seconds
from aiinfra_lab.processes.probes import Probe
from aiinfra_lab.processes.steps import run, run_async

T = TypeVar("T")
AnyPath = str | os.PathLike[str]


class Child:
    """One program, run once, in its own session, its output in a file.

    Parameters
    ----------
    argv : sequence of str or Path
        The program and its words. A bare name is looked up on ``env``'s PATH.
    log : str or Path
        Where its output goes: stdout and stderr together, in the order written. The log of the
        run before is kept as ``<log>.1``.
    name : str, optional
        What errors call it; by default the program's name.
    env : mapping, optional
        The whole environment; by default this process's. ``PYTHONUNBUFFERED=1`` is set unless
        given, so that a Python child's lines arrive when they are printed.
    cwd : str or Path, optional
        Its folder; by default this process's at the start.
    grace : float
        Seconds between TERM and KILL.
    max_log : int, optional
        Bytes that ``log`` and ``<log>.1`` hold together at most; older output goes first. None:
        no limit.
    pid_file : str or Path, optional
        Stands while the child runs.
    if_running : {"stop", "refuse"}
        What to do with a child that an existing ``pid_file`` names and that still runs.

    Notes
    -----
    When the program ends, what it started is ended too: a server must stay in the foreground.
    stdin is empty.
    """

    def __init__(
        self,
        argv: Sequence[AnyPath],
        *,
        log: AnyPath,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: AnyPath | None = None,
        grace: float = 5.0,
        max_log: int | None = 64 << 20,
        pid_file: AnyPath | None = None,
        if_running: IfRunning = "stop",
    ) -> None:
        if isinstance(argv, str | bytes) or not argv:
            raise InputError("a child needs a list of words: the program and its arguments")
        if max_log is not None and max_log < SMALLEST_LOG:
            raise InputError(f"max_log is {max_log} bytes; at least {SMALLEST_LOG} are needed")
        words = [os.fspath(word) for word in argv]
        order = Order(
            argv=words,
            name=name or Path(words[0]).name,
            log=Path(log).absolute(),
            env=env,
            cwd=None if cwd is None else Path(cwd).absolute(),
            grace=checked_seconds(grace),
            max_log=max_log,
            pid_file=None if pid_file is None else Path(pid_file).absolute(),
            if_running=if_running,
        )
        self._life = Life(order)

    # What can be asked; nothing here waits.

    @property
    def name(self) -> str:
        """What errors call it."""
        return self._life.order.name

    @property
    def log(self) -> Path:
        """The file with its output."""
        return self._life.order.log

    @property
    def pid(self) -> int | None:
        """Its process id, also its group's and its session's; None before the start."""
        return self._life.supervisor.child if self._life.supervisor else None

    @property
    def returncode(self) -> int | None:
        """Its exit status (negative: the signal); None while it runs or was not started."""
        return self._life.poll()

    @property
    def started_at(self) -> float:
        """Seconds since the epoch; 0.0 before the start."""
        return self._life.began

    def tail(self, lines: int = 20) -> str:
        """The last ``lines`` lines of its output, without control characters."""
        return self._life.tail(lines)

    def ports(self) -> list[int]:
        """The TCP ports on which it, or a process that it started, listens."""
        return sorted(self._listening()[0])

    def holds_port(self, port: int) -> bool:
        """Whether ``port`` is among ``ports()``; True where the system does not let us see."""
        ports, complete = self._listening()
        return port in ports or not complete

    def _listening(self) -> tuple[set[int], bool]:
        from aiinfra_lab.processes import tree

        supervisor = self._life.supervisor
        return tree.listening(tree.family(supervisor.pid)) if supervisor else (set(), True)

    def send_signal(self, number: int) -> None:
        """Send a signal to the child alone, and never to a later process with its pid."""
        if self._life.supervisor is not None and self._life.ours:
            self._life.supervisor.say(f"signal {int(number)}")

    # Start.

    def start(self) -> Self:
        """Start the program; returns when it runs (it need not be ready).

        Raises
        ------
        MissingNeed
            No program of that name is on the PATH.
        InputError
            The program, the folder, the log or the pid file cannot be used.
        ProcessError
            The supervisor did not come up.
        """
        steps = self._life.begin()
        try:
            run(steps)
        except BaseException:
            self._life.dismiss()
            raise
        return self

    async def start_async(self) -> Self:
        """As ``start``; a cancelled start leaves nothing."""
        steps = self._life.begin()
        try:
            await run_async(steps)
        except BaseException:
            self._life.dismiss()
            raise
        return self

    # Ready.

    @overload
    def ready(self, probe: Probe[T], timeout: float = ..., *, what: str = ...) -> T: ...
    @overload
    def ready(
        self, probe: Callable[[], T | None], timeout: float = ..., *, what: str = ...
    ) -> T: ...
    def ready(self, probe: Any, timeout: float = 30.0, *, what: str = "") -> Any:
        """Wait until ``probe`` says that the child is ready; give what the probe gives.

        Parameters
        ----------
        probe : Probe or callable
            A callable gives None or False for "not yet"; an OSError of its (a refused
            connection, a missing file) means the same. It is called in this thread.
        timeout : float
            Seconds. The child is left running when they are over.
        what : str, optional
            What is waited for, in the error; by default the probe's own words.

        Raises
        ------
        ProcessError
            The child ended first (at once, with its last lines), or the time is over.
        """
        look, words = self._looked(probe)
        return run(self._life.become_ready(look, what or words, timeout))

    @overload
    async def ready_async(self, probe: Probe[T], timeout: float = ..., *, what: str = ...) -> T: ...
    @overload
    async def ready_async(
        self, probe: Callable[[], Awaitable[T | None]], timeout: float = ..., *, what: str = ...
    ) -> T: ...
    @overload
    async def ready_async(
        self, probe: Callable[[], T | None], timeout: float = ..., *, what: str = ...
    ) -> T: ...
    async def ready_async(self, probe: Any, timeout: float = 30.0, *, what: str = "") -> Any:
        """As ``ready``; the probe runs in a thread, or on the loop if it is ``async def``."""
        look, words = self._looked(probe)
        steps = self._life.become_ready(look, what or words, timeout)
        return await run_async(steps)

    def _looked(self, probe: Any) -> tuple[Callable[[], Any], str]:
        if isinstance(probe, Probe):
            return probe.watch(self), str(probe)
        return probe, str(getattr(probe, "__name__", "its probe"))

    # The end.

    def wait(self, timeout: float | None = None, *, check: bool = False) -> int:
        """Wait until the child and all that it started have ended; give its exit status.

        Raises
        ------
        ProcessError
            It still runs after ``timeout`` seconds; or ``check`` and the status is not 0.
        """
        return run(self._life.last(timeout, check=check))

    async def wait_async(self, timeout: float | None = None, *, check: bool = False) -> int:
        """As ``wait``."""
        return await run_async(self._life.last(timeout, check=check))

    def stop(self, grace: float | None = None) -> int | None:
        """End the child and all that it started: TERM, at most ``grace`` seconds, KILL.

        May be called again, from several threads, after its end and before its start.

        Parameters
        ----------
        grace : float, optional
            Seconds; 0 kills at once. By default the child's own ``grace``.

        Returns
        -------
        int or None
            The exit status (negative: the signal); None if it never ran.

        Raises
        ------
        ProcessError
            The system could not end some of the processes; their pids are named.
        """
        return run(self._life.end(self._grace(grace)))

    async def stop_async(self, grace: float | None = None) -> int | None:
        """As ``stop``."""
        return await run_async(self._life.end(self._grace(grace)))

    def _grace(self, grace: float | None) -> float:
        return self._life.order.grace if grace is None else checked_seconds(grace)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        except BaseException:
            self._life.dismiss()
            raise

    async def __aenter__(self) -> Self:
        return await self.start_async()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.stop_async()
        except BaseException:
            self._life.dismiss()
            raise

    def __repr__(self) -> str:
        return f"<Child {self.name} pid={self.pid}>"
