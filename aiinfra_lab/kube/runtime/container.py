"""One run of one container: begun by a fork, ended with all that came from it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube.runtime import start
from aiinfra_lab.kube.runtime.family import MARK, Family
from aiinfra_lab.kube.runtime.limits import make_group
from aiinfra_lab.kube.runtime.spec import ContainerSpec, ContainerState
from aiinfra_lab.sandbox.cgroups import Cgroup

START_ERROR: Final = 128  # containerd's exit code for a program that could not be started
_ID: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")
_LONGEST_ID: Final = 512
_REPORT: Final = 4096


class Program:
    """A forked child from its start to its last descendant's end.

    ``failure`` is None until it is known whether the program runs; then why not, or empty.
    """

    def __init__(
        self,
        spec: ContainerSpec,
        host: start.Host,
        stdio: Sequence[int],
        *,
        cgroup: Cgroup | None = None,
        mark: str = "",
        argv: Sequence[str] = (),
        inside: int = 0,
        terminal: bool = False,
    ) -> None:
        self.mark = os.urandom(8).hex()
        words = (os.environ.get(MARK, ""), mark, self.mark)
        marked = {MARK: " ".join(word for word in words if word)}
        self.report, report = os.pipe()
        self.failure: str | None = None
        self.namespace = ""
        self.wall = 0.0  # when what cannot be killed is given up
        self._said = b""
        # A signal to the child must not reach the handlers that it has copied from us.
        before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                os.close(self.report)
                start.become(
                    spec, host, cgroup, marked, stdio, report,
                    argv=argv, inside=inside, terminal=terminal,
                )  # fmt: skip
        except BaseException:
            os.close(self.report)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(report)
        os.set_blocking(self.report, False)
        # The cgroup is the container's: a program run in it must not end it.
        self.family = Family(pid, self.mark, None if inside else cgroup)

    def listen(self) -> bool:
        """Take in what the child says; whether it has become the program or failed."""
        while True:
            try:
                data = os.read(self.report, _REPORT)
            except BlockingIOError:
                return False
            self._said += data
            if not data:
                break
        os.close(self.report)
        line, _, problem = self._said.decode("utf-8", "replace").partition("!")
        self.namespace, _, refused = line.strip().removeprefix("@").partition(" ")
        if refused:
            self.family.cgroup = None
        self.failure = problem
        return True


Phase = Literal["starting", "running", "ending", "exited"]


class Container:
    """What the runtime knows of one container."""

    def __init__(self, spec: ContainerSpec, host: start.Host) -> None:
        self.spec = spec
        self.phase: Phase = "starting"
        self.cgroup: Cgroup | None = None
        self.over_memory = False
        self.deadline: float | None = None  # monotonic: when a stop becomes a kill
        self.waiting: list[Callable[[ContainerState], None]] = []  # those who asked to run it
        self.started_at = time.time()
        self.finished_at = 0.0
        self.status = 0  # negative: the signal
        self.pipes: Mapping[str, int] = {}
        self.program = self._begin(host)

    def _begin(self, host: start.Host) -> Program:
        spec = self.spec
        if spec.memory is not None or spec.cpus is not None:
            self.cgroup = make_group(spec.memory, spec.cpus)
        null = os.open(os.devnull, os.O_RDONLY)
        out, out_write = os.pipe()
        err, err_write = os.pipe()
        self.pipes = {"stdout": out, "stderr": err}
        for fd in self.pipes.values():
            os.set_blocking(fd, False)
        try:
            return Program(spec, host, (null, out_write, err_write), cgroup=self.cgroup)
        except BaseException:
            for fd in self.pipes.values():
                os.close(fd)
            self.remove_group()
            raise
        finally:
            for fd in (null, out_write, err_write):
                os.close(fd)

    @property
    def alive(self) -> bool:
        """Whether its first process has not been seen to end."""
        return self.phase in ("starting", "running")

    def remove_group(self) -> bool:
        """Remove the cgroup; False while something is left in it."""
        return self.cgroup is None or self.cgroup.remove()

    def state(self) -> ContainerState:
        """As the client sees it. One that is just ending still runs."""
        known = {
            "id": self.spec.id,
            "pid": self.program.family.pid,
            "started_at": self.started_at,
            "labels": self.spec.labels,
        }
        if self.phase != "exited":
            return ContainerState(status="running", **known)  # type: ignore[arg-type]
        code = 128 - self.status if self.status < 0 else self.status
        number, reason = max(0, -self.status), "Error" if code else "Completed"
        message = self.program.failure or ""
        if message:
            code, number, reason = START_ERROR, 0, "StartError"
        elif code and self.over_memory:
            reason = "OOMKilled"
        return ContainerState(
            status="exited", finished_at=self.finished_at, exit_code=code, signal=number,
            reason=reason, message=message, **known,  # type: ignore[arg-type]
        )  # fmt: skip


def checked(spec: ContainerSpec) -> ContainerSpec:
    """``spec``, if it can be run.

    Raises
    ------
    InputError
        A field of it makes no sense; nothing was started.
    """
    if not spec.id or len(spec.id) > _LONGEST_ID or not _ID.issuperset(spec.id):
        raise InputError(
            "a container's id is wrong", found=repr(spec.id[:80]),
            needed=f"1 to {_LONGEST_ID} letters, digits, '.', '-' and '_'",
        )  # fmt: skip
    name = f"the container {spec.id}"
    if not spec.argv or not spec.argv[0]:
        raise InputError(f"{name} has no program", needed="argv with at least one word")
    # No value is shown: it may be a secret.
    if any("\0" in word for word in (*spec.argv, *spec.env, *spec.env.values(), spec.cwd)):
        raise InputError(f"{name} has a zero byte in a word or a variable")
    if any(not key or "=" in key for key in spec.env):
        raise InputError(f"{name} has a variable whose name is empty or holds '='")
    for path in (str(spec.log), spec.cwd, *(mount.target for mount in spec.mounts)):
        if not path.startswith("/"):
            raise InputError(f"{name} has a relative path", found=path, needed="an absolute one")
    for what, number in (("user", spec.user), ("group", spec.group)):
        if number is not None and not number >= 0:
            raise InputError(f"{name}: {what} is {number}", needed="0 or more")
    for what, value in (("memory", spec.memory), ("cpus", spec.cpus)):
        if value is not None and not value > 0:
            raise InputError(f"{name}: {what} is {value}", needed="a positive number")
    return spec
