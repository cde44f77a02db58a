"""The long commands of one ``up``: shown while they run, kept in a log, ended when called off.

``up`` holds the cluster's place. A ``down`` of another process asks it to give up by a file in
that place, and waits: so the one that started a command is the one that ends it.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from aiinfra_lab.errors import MissingNeed, ProcessError
from aiinfra_lab.kube.place import Place
from aiinfra_lab.processes import Child
from aiinfra_lab.processes.tail import follow

_LOOK_S = 0.05
_GRACE_S = 2.0
_LONGEST = 300  # characters of a reason
# The lines of a command's output that say what went wrong, as Docker and kubeadm word it.
_TELLING = re.compile(
    r"Error response from daemon|error execution phase|no space left|^error", re.I
)


class Work:
    """What ``up`` does for one cluster.

    Parameters
    ----------
    place : Place
        Held by this process.
    daemon : bool
        Whether containers belong to a daemon. Those of an engine without one belong to the
        command that started them, and would end with a supervised one.
    """

    def __init__(self, place: Place, *, daemon: bool = True) -> None:
        self._place, self._daemon = place, daemon
        _marker(place).unlink(missing_ok=True)  # who waits now will ask again

    def check(self) -> None:
        """Go on only if nobody has called the cluster off.

        Raises
        ------
        ProcessError
            Somebody has.
        """
        if _marker(self._place).exists():
            raise ProcessError(f"cluster {self._place.name} was taken down while it was starting")

    def run(
        self, command: Sequence[str | Path], log: Path, limit: float, shown: Callable[[str], None]
    ) -> int:
        """Run one command to its end; give its exit status.

        Raises
        ------
        ProcessError
            It does not end within ``limit`` seconds, or the cluster was called off.
        """
        lines, last = follow(log), time.monotonic() + limit
        with (_supervised if self._daemon else _plain)(command, log) as status:
            while True:
                ended = status()  # before the last look at its log
                for line in lines:
                    if line is None:
                        break
                    shown(line)
                if ended is not None:
                    return ended
                self.check()
                if time.monotonic() > last:
                    name = " ".join(map(str, command[1:3]))
                    raise ProcessError(
                        f"{Path(command[0]).name} {name} did not end within {limit:g} s"
                    )
                time.sleep(_LOOK_S)


def call_off(place: Place) -> None:
    """Ask whoever starts the cluster to give up."""
    with contextlib.suppress(FileNotFoundError):  # it has just removed the folder
        _marker(place).touch()


def _marker(place: Place) -> Path:
    return place.root / "called-off"


@contextlib.contextmanager
def _supervised(command: Sequence[str | Path], log: Path) -> Iterator[Callable[[], int | None]]:
    with Child(command, log=log, grace=_GRACE_S) as child:
        yield lambda: child.returncode


@contextlib.contextmanager
def _plain(command: Sequence[str | Path], log: Path) -> Iterator[Callable[[], int | None]]:
    with log.open("wb") as file:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        except FileNotFoundError:
            raise MissingNeed(f"{command[0]} is not there any more") from None
    try:
        yield process.poll
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def step(line: str) -> str | None:
    """The step that kind begins with this line of its output; None for other lines."""
    if not line.lstrip().startswith("\N{BULLET}"):
        return None
    words = re.sub(r"[^\x20-\x7e]+", "", line.replace("\N{LESS-THAN OR EQUAL TO}", "up to"))
    return " ".join(words.strip(" .").split())


def reason(text: str) -> str:
    """Why kind gave up, in one line out of its log: its stage, and what the command below said."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if line.startswith("ERROR: ")]
    if not starts:
        return (lines or ["it said nothing"])[-1][-_LONGEST:]
    message = re.sub(r"^ERROR: (failed to create cluster: )?", "", lines[starts[-1]])
    output = "\n".join(lines[starts[-1] + 1 :]).partition("Command Output:")[2].strip().splitlines()
    if output:
        stage = message.partition('command "')[0]
        message = stage + ([line for line in output if _TELLING.search(line)] or output)[-1]
    return message[:_LONGEST]
