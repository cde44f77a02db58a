"""The parent's end of a reaper: start it, send the order, hear what it says, see it end.

The reaper says lines: ``started PID``, ``failed STEP ERRNO``, ``recorded``, ``exited STATUS``,
``left PIDS`` and ``gone``; then the connection ends. An end without ``gone`` means that the
reaper was killed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from aiinfra_lab.errors import ProcessError
from aiinfra_lab.processes.steps import Steps, Wait

# -I and -S: no site-packages, no user folder, no PYTHON* variable. Imported rather than run as a
# file, because only an import uses the compiled file: that halves what Python does for a start.
_COMMAND = [
    sys.executable,
    *("-I", "-S", "-E", "-c"),
    "import sys; sys.path.append(sys.argv[1]); import reaper; reaper.main(sys.argv[2:])",
    str(Path(__file__).parent),
]
_MORE_WORDS: list[str] = []  # "portable" in the tests of what runs on macOS


class Supervisor:
    """A running reaper. Its socket may be read from any thread."""

    def __init__(self, mark: dict[str, str]) -> None:
        self.child: int | None = None
        self.failure: tuple[str, int] | None = None
        self.recorded = False
        self.status: int | None = None
        self.left = ""
        self.clean = False  # it said that nothing is left
        self.ended = False
        self._ordered = False
        self._heard = b""
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        # If an interrupt strikes here, the sockets close, and the reaper ends by itself.
        try:
            self._socket.setblocking(False)
            self._process = subprocess.Popen(
                [*_COMMAND, str(theirs.fileno()), str(os.getpid()), *_MORE_WORDS],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd="/",
                env={**os.environ, **mark},
            )
        except OSError as error:
            self._socket.close()
            raise ProcessError(f"the supervisor cannot be started: {error.strerror}") from None
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def news(self, seconds: float) -> Wait:
        """A wait for something to hear."""
        return Wait(seconds, -1 if self.ended else self._socket.fileno())

    def order(self, fields: list[bytes]) -> Steps[None]:
        """Send what is to be started; large environments go in pieces."""
        body = b"\0".join(fields)
        rest = memoryview(b"%d\n%s" % (len(body), body))
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                yield Wait(0.005)
            except OSError:  # it has ended; listen() will tell
                return
        self._ordered = True

    def say(self, line: str) -> None:
        """Send a command, unless the reaper has ended; it ends by itself without its order."""
        with contextlib.suppress(OSError):
            if not self._ordered:
                self._socket.shutdown(socket.SHUT_WR)
                return
            self._socket.send(line.encode() + b"\n")

    def listen(self) -> None:
        """Take in what has been said; never waits."""
        with self._lock:
            while not self.ended:
                try:
                    data = self._socket.recv(1 << 16)
                except BlockingIOError:
                    return
                except OSError:
                    data = b""
                if not data:
                    self.ended = True
                    self._socket.close()
                    return
                *lines, self._heard = (self._heard + data).split(b"\n")
                for line in lines:
                    self._note(line.decode())

    def _note(self, line: str) -> None:
        word, _, value = line.partition(" ")
        if word == "started":
            self.child = int(value)
        elif word == "failed":
            step, _, number = value.partition(" ")
            self.failure = (step, int(number))
        elif word == "recorded":
            self.recorded = True
        elif word == "exited":
            self.status = int(value)
        elif word == "left":
            self.left = value
        elif word == "gone":
            self.clean = True

    def collect(self, seconds: float) -> None:
        """Take the ended reaper out of the process table; kill one that does not end."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """KILL the reaper; the connection then ends."""
        self._process.kill()

    def disown(self) -> None:
        """In a forked copy of the parent: close the copied end and forget the reaper."""
        # close, never shutdown: the connection itself is the parent's.
        self._lock = threading.Lock()
        self._socket.close()
        self.ended = True
        self._process.returncode = 0  # else Popen would warn that it still runs
