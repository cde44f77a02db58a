"""The life of one child, as steps: it begins, becomes ready, lasts, ends.

Every method that takes time is a generator that ``steps.run`` or ``steps.run_async`` drives.
No thread is kept: whoever waits reads what the reaper has said.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from aiinfra_lab.errors import ProcessError
from aiinfra_lab.processes.order import Order, marked_environment
from aiinfra_lab.processes.pidfile import describe, remove_pid_file, starting
from aiinfra_lab.processes.steps import Steps, pauses, run
from aiinfra_lab.processes.supervisor import Supervisor
from aiinfra_lab.processes.tail import read_tail

START_WALL = 60.0  # seconds for the reaper to come up, on a machine under heavy load
END_WALL = 15.0  # seconds beyond the grace until a reaper that does not answer is killed

_running: set[Life] = set()


class Life:
    """What has happened to one ``Order``, and what may still happen."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.began = 0.0  # seconds since the epoch
        self.supervisor: Supervisor | None = None
        self._owner = os.getpid()
        self._mark = ""
        self._lock = threading.Lock()
        self._settled = False

    @property
    def ours(self) -> bool:
        """False in a forked copy of the process that started the child."""
        return self._owner == os.getpid()

    def tail(self, lines: int) -> str:
        return read_tail(self.order.log, lines, self.began)

    def poll(self) -> int | None:
        supervisor = self.supervisor
        if supervisor is None or not self.ours:
            return None
        supervisor.listen()
        if supervisor.ended:
            self._settle(supervisor)
        return supervisor.status

    def begin(self) -> Steps[None]:
        """Start the child. Whatever interrupts this, nothing is left."""
        if self.supervisor is not None:
            raise RuntimeError(f"{self.order.name} was started before; make a new Child")
        self._mark = os.urandom(16).hex()
        return self._begin(self.order.fields(self._mark))

    def _begin(self, fields: list[bytes]) -> Steps[None]:
        steps = self._launch(fields)
        if self.order.pid_file is not None:
            steps = starting(self.order.pid_file, self.order.name, self.order.if_running, steps)
        try:
            yield from steps
        except GeneratorExit:  # dropped by its driver: it may not wait any more
            raise
        except BaseException:
            yield from self.end(self.order.grace)
            raise

    def dismiss(self) -> None:
        """Order the end and do not wait: an interrupt, or a second one, must not lose the child."""
        if self.supervisor is not None and self.ours:
            self.supervisor.say(f"stop {self.order.grace}")

    def _launch(self, fields: list[bytes]) -> Steps[None]:
        self.began, self._owner = time.time(), os.getpid()
        self.supervisor = supervisor = Supervisor(marked_environment(self._mark))
        _running.add(self)
        yield from supervisor.order(fields)
        yield from self._hear(lambda: supervisor.child is not None)
        if self.order.pid_file is not None:
            record = partial(
                describe, pid=supervisor.child or 0, supervisor_pid=supervisor.pid, mark=self._mark
            )
            supervisor.say(f"record {(yield record)}")
            # A child that has already ended needs no record.
            yield from self._hear(lambda: supervisor.recorded or supervisor.clean)

    def _hear(self, answered: Callable[[], bool]) -> Steps[None]:
        """Wait for the reaper's answer to what it was just told."""
        supervisor, last = self._started(), time.monotonic() + START_WALL
        for pause in pauses():
            supervisor.listen()
            if supervisor.failure is not None:
                raise self.order.explain(*supervisor.failure)
            if answered():
                return
            if supervisor.ended or time.monotonic() > last:
                raise ProcessError(f"{self.order.name} was not started: its supervisor is silent")
            yield supervisor.news(pause)

    def become_ready(self, look: Callable[[], Any], what: str, timeout: float) -> Steps[Any]:
        """Call ``look`` until it gives something."""
        supervisor = self._started()
        name, last, doubt = self.order.name, time.monotonic() + timeout, ""
        for pause in pauses():
            supervisor.listen()
            if supervisor.ended or supervisor.status is not None:
                status = yield from self.last(None, check=False)
                raise ProcessError(
                    f"{name} {self._fate(status)} before it was ready; waited for {what}",
                    returncode=status,
                    tail=self.tail(20),
                )
            try:
                value = yield look
            except OSError as error:
                value, doubt = None, f" ({error.strerror or error})"
            if value is not None and value is not False:
                return value
            rest = last - time.monotonic()
            if rest <= 0:
                break
            yield supervisor.news(min(pause, rest))
        raise ProcessError(
            f"{name} was not ready within {timeout:g} s; waited for {what}{doubt}",
            tail=self.tail(20),
        )

    def last(self, timeout: float | None, *, check: bool) -> Steps[int]:
        """Wait for the child's own end."""
        supervisor = self._started()
        last = None if timeout is None else time.monotonic() + timeout
        for pause in pauses():
            supervisor.listen()
            if supervisor.ended:
                break
            rest = pause if last is None else min(pause, last - time.monotonic())
            if rest <= 0:
                raise ProcessError(
                    f"{self.order.name} still runs after {timeout:g} s", tail=self.tail(20)
                )
            yield supervisor.news(rest)
        yield partial(self._settle, supervisor)
        status = -signal.SIGKILL if supervisor.status is None else supervisor.status
        if check and status != 0:
            raise ProcessError(
                f"{self.order.name} {self._fate(status)}", returncode=status, tail=self.tail(20)
            )
        return status

    def end(self, grace: float) -> Steps[int | None]:
        """End the child and all that it started."""
        supervisor = self.supervisor
        if supervisor is None or not self.ours:
            return None
        supervisor.say(f"stop {grace}")
        wall = time.monotonic() + grace + END_WALL
        for pause in pauses():
            supervisor.listen()
            if supervisor.ended:
                break
            if time.monotonic() > wall:  # it hangs, or somebody has stopped it
                supervisor.kill()
            yield supervisor.news(pause)
        yield partial(self._settle, supervisor)
        if supervisor.left:
            raise ProcessError(f"{self.order.name}: could not end the processes {supervisor.left}")
        return supervisor.status

    def _settle(self, supervisor: Supervisor) -> None:
        """Once, after the reaper's end: do what it could not do if it was killed."""
        with self._lock:
            if self._settled:
                return
            supervisor.collect(END_WALL)
            if not supervisor.clean:
                from aiinfra_lab.processes import tree

                supervisor.left = " ".join(map(str, tree.end(self._mark)))
                if supervisor.status is None and supervisor.child is not None:
                    supervisor.status = -signal.SIGKILL  # the kernel's doing
            if self.order.pid_file is not None:
                remove_pid_file(self.order.pid_file, self._mark)
            _running.discard(self)
            self._settled = True

    def _fate(self, status: int) -> str:
        lost = self.supervisor is not None and self.supervisor.ended and not self.supervisor.clean
        return fate(status) + (" (its supervisor was killed)" if lost else "")

    def _started(self) -> Supervisor:
        if self.supervisor is None:
            raise RuntimeError(f"{self.order.name} has not been started")
        if not self.ours:
            raise RuntimeError(f"{self.order.name} belongs to process {self._owner}")
        return self.supervisor


def fate(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _end_all() -> None:
    """The last resort, at this process's exit: all at once, in no order."""
    lives = list(_running)
    for life in lives:
        if life.supervisor is not None:
            life.supervisor.say(f"stop {life.order.grace}")
    for life in lives:
        with contextlib.suppress(ProcessError):
            run(life.end(life.order.grace))


def _disown_all() -> None:
    """In a forked copy of this process: it owns none of the children."""
    for life in _running:
        if life.supervisor is not None:
            life.supervisor.disown()
    _running.clear()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_disown_all)
