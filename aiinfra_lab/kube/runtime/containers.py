"""All containers of one runtime: run, stopped, counted, reaped."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Final

from aiinfra_lab.errors import AIInfraLabError, InputError
from aiinfra_lab.kube.runtime.attachment import Attachment
from aiinfra_lab.kube.runtime.container import Container, Program, checked
from aiinfra_lab.kube.runtime.execution import Execution
from aiinfra_lab.kube.runtime.failures import NotRunning
from aiinfra_lab.kube.runtime.family import own_children
from aiinfra_lab.kube.runtime.limits import WATCH, memory_of
from aiinfra_lab.kube.runtime.logger import Logger
from aiinfra_lab.kube.runtime.loop import Loop
from aiinfra_lab.kube.runtime.spec import ContainerSpec, ContainerState
from aiinfra_lab.kube.runtime.start import Host
from aiinfra_lab.processes.reaper import send

TICK: Final = 0.01  # seconds between two looks at what is left of an ended container
KILL_WALL: Final = 10.0  # seconds after which what KILL does not end is given up
LOG_WALL: Final = 2.0  # seconds that an end waits for the log to be written
CLOSING_LOG_WALL: Final = 0.4  # the same when the runtime ends
LONGEST: Final = 1e9  # seconds of a grace or a timeout
_TRIES: Final = 20

Exec = Execution | Attachment


class Containers:
    """The containers by their ids.

    Parameters
    ----------
    announce : callable
        Called with each container's state at its start and at its end.
    """

    def __init__(
        self, loop: Loop, logger: Logger, host: Host, announce: Callable[[ContainerState], None]
    ) -> None:
        self._loop, self._logger, self._host = loop, logger, host
        self._announce = announce
        self._all: dict[str, Container] = {}
        self._by_pid: dict[int, Container | Exec] = {}
        self._watching = False
        self.closing = False

    # What clients ask.

    def run(self, spec: ContainerSpec, answer: Callable[[ContainerState], None]) -> None:
        """Start it, unless it is known; ``answer`` gets its state once it runs or cannot."""
        container = self._all.get(checked(spec).id)
        if container is None:
            if self.closing:
                raise InputError("the runtime is ending; it starts no more containers")
            container = self._begin(spec)
        if container.phase == "starting":
            container.waiting.append(answer)
        else:
            answer(container.state())

    def _begin(self, spec: ContainerSpec) -> Container:
        try:
            spec.log.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(spec.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640))
        except OSError as error:
            reason = error.strerror or str(error)
            raise InputError(f"the log {spec.log} cannot be written", found=reason) from None
        try:
            container = Container(spec, self._host)
        except OSError as error:
            raise AIInfraLabError(
                f"the container {spec.id} cannot be started now: {error.strerror}"
            ) from None
        self._all[spec.id] = container
        self._know(container.program, container)
        self._logger.begin(spec.id, spec.log, container.pipes)
        program = container.program
        self._loop.reading(program.report, lambda: self._hear(container))
        if spec.memory is not None and container.cgroup is None:
            self._watch()
        return container

    def _know(self, program: Program, member: Container | Exec) -> None:
        self._by_pid[program.family.pid] = member
        program.family.known = self._by_pid

    def _hear(self, container: Container) -> None:
        program = container.program
        report = program.report
        # listen() closes it, and a closed one can no longer be forgotten.
        self._loop.forget(report)
        if not program.listen():
            self._loop.reading(report, lambda: self._hear(container))
            return
        if self._host.isolation != "none":
            program.family.namespace = program.namespace
        if container.cgroup is not None and program.family.cgroup is None:
            container.remove_group()  # the system did not let it in: its memory is watched
            container.cgroup = None
            self._watch()
        if container.phase != "starting" or program.failure:
            return  # the answer is its end
        container.phase = "running"
        self._announce(container.state())
        self._answer(container)

    def _answer(self, container: Container) -> None:
        for answer in container.waiting:
            answer(container.state())
        container.waiting.clear()

    def stop(self, name: str, grace: float) -> None:
        """TERM now, KILL after ``grace`` seconds; an ended or unknown one is left alone."""
        checked_seconds("grace", grace)
        container = self._all.get(name)
        if container is None or not container.alive:
            return
        deadline = time.monotonic() + grace
        if container.deadline is None and grace > 0:
            container.program.family.terminate()
        if container.deadline is None or deadline < container.deadline:
            container.deadline = deadline
            self._loop.after(grace, lambda: self._overdue(container))

    def _overdue(self, container: Container) -> None:
        if container.alive and container.deadline is not None:
            if time.monotonic() < container.deadline:
                return
            container.program.family.kill()

    def remove(self, name: str) -> None:
        """Forget an ended one; its log stays."""
        container = self._all.get(name)
        if container is None:
            return
        if container.phase != "exited":
            raise InputError(f"the container {name} still runs", fix="Stop it first.")
        del self._all[name]

    def states(self) -> list[ContainerState]:
        """All that are known."""
        return [container.state() for container in self._all.values()]

    def execute(self, name: str, make: Callable[[Container, Host], Exec]) -> None:
        """Run one more program, which ``make`` starts, in a running container."""
        container = self._all.get(name)
        if container is None or container.phase != "running":
            raise NotRunning(f"the container {name} does not run")
        run = make(container, self._host)
        self._know(run.program, run)

    # The end.

    def reap(self) -> None:
        """Collect every ended child: containers, programs in them, and adopted orphans."""
        while True:
            try:
                pid, status = self._next_ended()
            except ChildProcessError:
                return
            if pid == 0:
                return
            member = self._by_pid.pop(pid, None)
            if pid == self._logger.pid and not self.closing:
                self._logger.ended()
            elif isinstance(member, Container):
                self._ended(member, os.waitstatus_to_exitcode(status))
            elif member is not None:
                member.ended(os.waitstatus_to_exitcode(status))

    def _next_ended(self) -> tuple[int, int]:
        if sys.platform != "linux":  # macOS has no waitid
            return os.waitpid(-1, os.WNOHANG)
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return 0, 0
        member = self._by_pid.get(found.si_pid)
        if isinstance(member, Container):
            member.program.family.kill_group()
        return os.waitpid(found.si_pid, 0)

    def _ended(self, container: Container, status: int) -> None:
        program = container.program
        program.family.reaped = True
        if program.failure is None:
            self._hear(container)  # all that it said is there
        container.status, container.finished_at = status, time.time()
        if container.cgroup is not None and container.cgroup.out_of_memory:
            container.over_memory = True
        container.phase = "ending"
        program.wall = time.monotonic() + KILL_WALL
        self._clear(container)

    def _clear(self, container: Container) -> None:
        program = container.program
        # Twice: the list of children may leave one out while others end.
        left = program.family.kill() or program.family.kill()
        for member in self._by_pid.values():
            # What is just being started there would not yet be known by its namespace.
            if not isinstance(member, Container) and member.container is container:
                left = member.program.family.kill() or True
        if left and time.monotonic() < program.wall:
            self._loop.after(TICK, lambda: self._clear(container))
            return

        def written() -> None:
            if container.phase == "ending":
                self._finish(container)

        self._logger.end(container.spec.id, written)
        self._loop.after(CLOSING_LOG_WALL if self.closing else LOG_WALL, written)

    def _finish(self, container: Container) -> None:
        container.phase = "exited"
        self._logger.forget(container.spec.id)
        self._remove_group(container)
        self._announce(container.state())
        self._answer(container)
        if not any(other.phase != "exited" for other in self._all.values()):
            self._kill_strangers()

    def _remove_group(self, container: Container) -> None:
        if not container.remove_group() and time.monotonic() < container.program.wall:
            self._loop.after(10 * TICK, lambda: self._remove_group(container))

    def _kill_strangers(self) -> None:
        """End orphans that hid whose they are: no container is left that they could belong to."""
        for pid in own_children() or ():
            if pid != self._logger.pid and pid not in self._by_pid:
                send(pid, signal.SIGKILL)

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            self._loop.after(WATCH, self._look)

    def _look(self) -> None:
        self._watching = False
        for container in self._all.values():
            limit = container.spec.memory
            if limit is not None and container.alive and container.cgroup is None:
                if memory_of(container.program.family.members(), limit) > limit:
                    container.over_memory = True
                    container.program.family.kill()
                self._watch()

    def end_all(self, grace: float) -> None:
        """Start no more, and stop all that run, side by side."""
        self.closing = True
        for name in list(self._all):
            self.stop(name, grace)

    def close(self) -> None:
        """Remove what the ended ones left in the system; it may take the kernel a moment."""
        for _ in range(_TRIES):
            left = [one for one in self._all.values() if not one.remove_group()]
            if not left:
                return
            time.sleep(TICK)

    @property
    def all_ended(self) -> bool:
        """Whether nothing runs any more."""
        return all(container.phase == "exited" for container in self._all.values())


def checked_seconds(name: str, value: float) -> float:
    """``value``, refused where it is no time to wait."""
    if not 0 <= value <= LONGEST:
        raise InputError(f"{name} is {value}", needed="seconds, not negative")
    return value
