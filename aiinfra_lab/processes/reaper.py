"""The supervisor of one child: a small program of its own, in an isolated interpreter.

Why a program of its own. ``PR_SET_PDEATHSIG`` set by the parent is bound to the *thread* that
started the child and reaches no grandchild; ``preexec_fn`` is unsafe beside threads; a new PID
namespace would be inescapable, but needs privileges and changes the pids that the child sees;
``cgroup.kill`` needs a delegated cgroup v2. This program needs nothing, has one thread, and is
the parent of everything that the child starts: as a subreaper (Linux) it inherits children that
daemonise. It costs one small interpreter for each child.

It learns of its parent's death twice: the parent's end of the control socket closes, and, where
the system has it, a pidfd of the parent becomes readable (a forked copy of the parent may hold
the socket open). Elsewhere it looks every second whether it still has the same parent.

The end, whatever began it (the word ``stop``, the parent's death, SIGTERM to this program, the
child's own exit): TERM to the child's group; TERM to each process that has lost its parent; at
the deadline KILL, until the kernel says that no descendant is left. If this program itself is
killed, the kernel kills the child (``PR_SET_PDEATHSIG``, safe here: one thread), and the parent
or the next start finds the rest by the mark in their environment (``tree.py``).

Beside the standard library nothing may be imported here, and little of that: it is paid at each
start. macOS has no subreaper, pidfd or pdeathsig: there the tree is read from ``ps``, where the
mark finds those that daemonised. That path is simple on purpose and was never run on a Mac.
"""

# ruff: noqa: PTH105, PTH108, PTH116, PTH123, PTH208  (pathlib would cost 5 ms at each start)
from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import sys
import time
from collections.abc import Iterator

TICK = 0.05  # seconds between two looks at the tree while it ends
PARENT_TICK = 1.0  # seconds between two looks at the parent where there is no pidfd
KILL_WALL = 10.0  # seconds after KILL until what still lives is called unkillable
CHUNK = 1 << 16
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def prctl(option: int, value: int) -> bool:
    """Linux's ``prctl(option, value)``; False where it does not exist or refuses."""
    if _LIBC is None:
        return False
    return bool(_LIBC.prctl(option, value, 0, 0, 0) == 0)


try:
    import ctypes

    _LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
except (ImportError, OSError):  # a Python without ctypes: the mark has to do
    _LIBC = None


class Log:
    """The child's output on disk: at most ``limit`` bytes in ``path`` and ``path.1`` together.

    Output comes through a pipe and not through an inherited file, because only a writer can
    rotate without losing lines. A full disk drops output; it never blocks the child.
    """

    def __init__(self, path: bytes, limit: int) -> None:
        self.path, self.half = path, limit // 2
        self.fd, self.size = -1, 0
        self.begin()

    def begin(self) -> None:
        """Open an empty file; what was there becomes ``path.1``."""
        try:
            self.regular = stat.S_ISREG(os.stat(self.path).st_mode)
        except FileNotFoundError:
            self.regular = True
        else:
            if self.regular:
                os.replace(self.path, self.path + b".1")
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        if self.fd >= 0:
            os.close(self.fd)
        self.fd, self.size = fd, 0

    def write(self, data: bytes) -> None:
        """Append ``data``; an error of the disk loses it."""
        try:
            if self.half and self.regular and self.size + len(data) > self.half and self.size:
                self.begin()
            self.size += len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(self.fd, view) :]
        except OSError:
            pass


class Reaper:
    """One child, from the order that starts it to the last descendant's end."""

    def __init__(self, link: int, parent: int, portable: bool = False) -> None:
        self.link, self.parent = link, parent
        self.order: list[bytes] = []
        self.received = b""
        self.child: int | None = None  # while not reaped: its pid and group cannot be reused
        self.group = -1
        self.childless = False
        self.listening = True
        self.told = False
        self.deadline: float | None = None
        self.grace = 0.0
        self.warned: set[int] = set()
        self.group_warned = False
        self.output = -1
        self.log: Log | None = None
        self.mark = self.pid_file = b""
        self.subreaper = not portable and prctl(PR_SET_CHILD_SUBREAPER, 1)
        os.set_inheritable(link, False)
        os.set_blocking(link, False)
        wake, wake_write = os.pipe()
        for fd in (wake, wake_write):
            os.set_blocking(fd, False)
        self.wake = wake
        # A blocked signal or an ignored SIGCHLD would be inherited from the parent.
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in ENDING_SIGNALS:
            signal.signal(number, self.on_signal)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        self.watched = select.poll()
        self.watched.register(link, select.POLLIN)
        self.watched.register(wake, select.POLLIN)
        self.pidfd = -1 if portable else self.open_parent()

    def on_signal(self, *_: object) -> None:
        self.told = True

    def open_parent(self) -> int:
        """A descriptor that becomes readable when the parent process (not a thread) ends."""
        if sys.platform != "linux":
            return -1
        try:
            pidfd = os.pidfd_open(self.parent)
        except OSError:
            return -1
        self.watched.register(pidfd, select.POLLIN)
        return pidfd

    def run(self) -> None:
        """Work until nothing is left to watch."""
        while not self.over():
            for fd, _ in self.watched.poll(self.pause()):
                if fd == self.link:
                    self.receive()
                elif fd == self.output:
                    self.pump(16)
                elif fd == self.wake:
                    os.read(self.wake, 512)
                elif fd == self.pidfd:
                    self.lose_parent()
            if os.getppid() != self.parent:
                self.lose_parent()
            if self.told:
                self.end(self.grace)
            self.reap()
            if self.group >= 0 and self.child is None:
                self.warn_orphans()
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self.kill_all()
                return

    def over(self) -> bool:
        """Whether the child has been reaped and nothing that it started is left."""
        if self.group < 0:
            return self.deadline is not None
        return self.child is None and not self.left()

    def pause(self) -> float | None:
        """Milliseconds until the next look; None: until something happens."""
        if self.deadline is not None:
            left = min(3600.0, max(0.0, self.deadline - time.monotonic()))
            return 1000 * (left if self.child is not None else min(left, TICK))
        return None if self.pidfd >= 0 else 1000 * PARENT_TICK

    # What the parent says.

    def receive(self) -> None:
        if not self.listening:
            return
        try:
            data = os.read(self.link, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.lose_parent()
            return
        self.received += data
        if not self.order:
            head, newline, rest = self.received.partition(b"\n")
            if not newline or len(rest) < int(head):
                return
            self.order = rest[: int(head)].split(b"\0")
            self.received = rest[int(head) :]
            self.launch()
        *lines, self.received = self.received.split(b"\n")
        for word, _, value in (line.partition(b" ") for line in lines):
            if word == b"stop":
                self.end(float(value))
            elif word == b"record":
                self.record(value)
            elif word == b"signal" and self.child is not None:
                send(self.child, int(value))

    def say(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self.link, text.encode() + b"\n")

    def lose_parent(self) -> None:
        if self.listening:
            self.listening = False
            self.watched.unregister(self.link)
            if self.pidfd >= 0:
                self.watched.unregister(self.pidfd)
            self.end(self.grace)

    # The child's life.

    def launch(self) -> None:
        log, limit, grace, self.pid_file, self.mark, cwd, program, count, *words = self.order
        argv, env = words[: int(count)], words[int(count) :]
        self.grace = float(grace)
        if os.getppid() != self.parent:
            return
        try:
            self.log = Log(log, int(limit))
        except OSError as error:
            self.say(f"failed log {error.errno}")
            return
        try:
            self.output, output_write = os.pipe()
            failure, failure_write = os.pipe()
            pid = os.fork()
        except OSError as error:
            self.say(f"failed fork {error.errno}")
            return
        if pid == 0:
            run_child(program, argv, env, cwd, output_write, failure_write)
        self.child = self.group = pid
        os.close(output_write)
        os.close(failure_write)
        os.set_blocking(self.output, False)
        self.watched.register(self.output, select.POLLIN)
        # The pipe closes at a successful exec, when the child already leads its session.
        problem = os.read(failure, 100).decode()
        os.close(failure)
        self.say(f"failed {problem}" if problem else f"started {pid}")

    def record(self, text: bytes) -> None:
        """Write the pid file: here, so that a parent killed meanwhile leaves no piece of it."""
        part = b"%s.%s.part" % (self.pid_file, self.mark)
        try:
            with open(part, "xb") as file:
                file.write(text + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.pid_file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(part)
            self.say(f"failed pid_file {error.errno}")
        else:
            self.say("recorded")

    def pump(self, reads: int) -> None:
        """Bring output to the log, ``reads`` pieces at most: a loud child may not starve us."""
        for _ in range(reads):
            if self.output < 0 or self.log is None:
                return
            try:
                data = os.read(self.output, CHUNK)
            except BlockingIOError:
                return
            if not data:
                self.watched.unregister(self.output)
                os.close(self.output)
                self.output = -1
                return
            self.log.write(data)

    def reap(self) -> None:
        """Collect every ended child, ours and adopted."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.childless = True
                return
            if pid == 0:
                self.childless = False
                return
            if pid == self.child:
                self.child = None
                self.pump(64)  # its last words, before the parent hears of its end
                self.say(f"exited {os.waitstatus_to_exitcode(status)}")
                self.end(self.grace)

    # The end.

    def end(self, grace: float) -> None:
        """Ask the group to end; ``grace`` seconds from now is the deadline, unless nearer."""
        deadline = time.monotonic() + grace
        self.deadline = deadline if self.deadline is None else min(self.deadline, deadline)
        if self.child is not None and not self.group_warned and grace > 0:
            self.group_warned = True
            # A stopped process takes TERM only once it continues.
            for number in (signal.SIGTERM, signal.SIGCONT):
                signal_group(self.child, number)

    def warn_orphans(self) -> None:
        """TERM, once, to each process that has lost its parent.

        Those that have a parent are that parent's business: a server ends its own workers.
        """
        if self.childless and self.subreaper:
            return
        orphan_of = {os.getpid()} if self.subreaper else {os.getpid(), 1}
        for pid, ppid, pgid in self.members():
            warned = pid in self.warned or (self.group_warned and pgid == self.group)
            if ppid in orphan_of and not warned:
                self.warned.add(pid)
                for number in (signal.SIGTERM, signal.SIGCONT):
                    send(pid, number)

    def kill_all(self) -> None:
        wall = time.monotonic() + KILL_WALL
        while True:
            if self.child is not None:
                signal_group(self.child, signal.SIGKILL)
            for pid, _, _ in self.members():
                send(pid, signal.SIGKILL)
            self.reap()
            if self.child is None and not self.left():
                return
            if time.monotonic() > wall:
                self.say("left " + " ".join(str(pid) for pid, _, _ in self.members()))
                return
            time.sleep(0.005)

    def left(self) -> bool:
        """Whether a descendant lives. For a subreaper the kernel's answer is exact."""
        if not self.childless:
            return True
        return not self.subreaper and any(True for _ in self.members())

    def members(self) -> list[tuple[int, int, int]]:
        """(pid, parent, group) of every living process that the child led to."""
        rows = list(read_table(b"" if self.subreaper else self.mark))
        known = {os.getpid()}
        found: dict[int, tuple[int, int, int]] = {}
        grown = True
        while grown:
            grown = False
            for pid, ppid, pgid, marked in rows:
                if pid not in found and pid != os.getpid() and (marked or ppid in known):
                    known.add(pid)
                    found[pid] = (pid, ppid, pgid)
                    grown = True
        return list(found.values())

    def leave(self) -> None:
        """Last words: the rest of the output, the pid file, and that nothing is left."""
        self.pump(64)
        try:
            with open(self.pid_file, "rb") as file:
                ours = self.mark in file.read()
            if ours:
                os.unlink(self.pid_file)
        except (OSError, ValueError):
            pass
        self.say("gone")


def run_child(
    program: bytes, argv: list[bytes], env: list[bytes], cwd: bytes, output: int, failure: int
) -> None:
    """In the forked child: become ``program``, or write ``step errno`` and exit."""
    step = "exec"
    try:
        supervisor = os.getppid()
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            if signal.getsignal(number) == signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        if prctl(PR_SET_PDEATHSIG, signal.SIGKILL) and os.getppid() != supervisor:
            os._exit(127)
        null = os.open(os.devnull, os.O_RDONLY)
        for fd, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(fd, target)
        step = "cwd"
        os.chdir(cwd)
        step = "exec"
        os.execve(program, argv, dict(_split(pair) for pair in env))
    except OSError as error:
        os.write(failure, f"{step} {error.errno}".encode())
    finally:
        os._exit(127)


def _split(pair: bytes) -> tuple[bytes, bytes]:
    name, _, value = pair.partition(b"=")
    return name, value


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone, or not ours any more."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def signal_group(leader: int, number: int) -> None:
    """Send a signal to the group that an unreaped child leads."""
    try:
        os.killpg(leader, number)
    except (ProcessLookupError, PermissionError):
        send(leader, number)


def read_table(mark: bytes) -> Iterator[tuple[int, int, int, bool]]:
    """(pid, parent, group, carries the mark) of every living process; zombies are left out."""
    if sys.platform != "linux":
        yield from read_ps(mark)
        return
    for name in os.listdir(b"/proc"):
        if not name.isdigit():
            continue
        try:
            fields = _read(b"/proc/%s/stat" % name).rpartition(b")")[2].split()
        except OSError:
            continue
        try:
            marked = bool(mark) and mark in _read(b"/proc/%s/environ" % name)
        except OSError:  # another user's
            marked = False
        if fields[0] not in (b"Z", b"X"):
            yield int(name), int(fields[1]), int(fields[2]), marked


def _read(path: bytes) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        pieces = []
        while piece := os.read(fd, CHUNK):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)


def read_ps(mark: bytes) -> Iterator[tuple[int, int, int, bool]]:
    """The same from ``ps``, for macOS; with ``-E`` it shows the environment of our processes."""
    import subprocess

    command = ["/bin/ps", "-axwwE", "-o", "pid=,ppid=,pgid=,stat=,command="]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as ps:
        listing = ps.communicate()[0]
    yield from (row for row in parse_ps(listing, mark) if row[0] != ps.pid)


def parse_ps(listing: bytes, mark: bytes) -> Iterator[tuple[int, int, int, bool]]:
    """The rows of ``ps -o pid=,ppid=,pgid=,stat=,command=``."""
    for line in listing.splitlines():
        pid, ppid, pgid, state, *command = line.split(None, 4)
        if not state.startswith(b"Z"):
            marked = bool(mark and command) and mark in command[0]
            yield int(pid), int(ppid), int(pgid), marked


def main(words: list[str]) -> None:
    """Supervise; ``words`` are the control socket's descriptor and the parent's pid.

    A third word, for tests: do without what only Linux has.
    """
    os.chdir("/")
    reaper = Reaper(int(words[0]), int(words[1]), portable="portable" in words)
    try:
        reaper.run()
    except BaseException:
        import traceback

        reaper.kill_all()
        if reaper.log is not None:
            reaper.log.write(traceback.format_exc().encode())
        raise
    reaper.leave()
    os._exit(0)
