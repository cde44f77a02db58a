"""What the tests of ``processes`` start: programs with bad manners, and a count of who lives."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

WALL = 5.0  # seconds within which everything must be gone; no test is decided by less
PYTHON = [sys.executable, "-I", "-S", "-u", "-c"]

_MANNERS = """
import os, signal, sys, time
def stubborn():
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
def sleep():
    while True:
        time.sleep(60)
def say(text):
    os.write(1, (text + "\\n").encode())
def daemonise():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            stubborn()
            say(f"daemon {os.getpid()} up")
            sleep()
        os._exit(0)
    os.wait()
"""

PROGRAMS = {
    "polite": "say('up'); sleep()",
    "stubborn": "stubborn(); say('up'); sleep()",
    "forking": """
        stubborn()
        if os.fork() and os.fork():
            say('up')
        sleep()
    """,
    "daemon": "daemonise(); say('up'); sleep()",
    # A daemon that also leaves its environment behind (the command line keeps the token).
    "stranger": """
        if sys.argv[-1] == 'again':
            stubborn()
            sleep()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execve(sys.executable, [*sys.orig_argv, 'again'], {})
            os._exit(0)
        os.wait()
        say('up')
        sleep()
    """,
}

_PRELUDE = """
import os, signal, sys, threading, time
from aiinfra_lab.processes import *
from aiinfra_lab.processes import supervisor
family, folder, *words = sys.argv[1:]
programs = {programs!r}
def argv(code):
    return [*{python!r}, {manners!r} + code, family]
"""


class Family:
    """All processes that one test started, known by a token they inherit or are given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token = uuid.uuid4().hex
        self.environment = {**os.environ, "TEST_FAMILY": self.token}

    def argv(self, program: str) -> list[str]:
        """The command for one of ``PROGRAMS``, or for code that may use their functions."""
        code = _MANNERS + textwrap.dedent(PROGRAMS.get(program, program))
        return [*PYTHON, code, self.token]

    def script_argv(self, code: str, *words: str) -> list[str]:
        """The command of a parent: a Python program that uses the package; see ``_PRELUDE``."""
        programs = {name: textwrap.dedent(code) for name, code in PROGRAMS.items()}
        prelude = _PRELUDE.format(python=PYTHON, manners=_MANNERS, programs=programs)
        code = prelude + textwrap.dedent(code)
        return [sys.executable, "-W", "error", "-c", code, self.token, str(self.folder), *words]

    def script(self, code: str, *words: str) -> subprocess.Popen[str]:
        """Start such a parent, in its own session; its output comes by a pipe."""
        return subprocess.Popen(
            self.script_argv(code, *words),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )

    def living(self) -> list[psutil.Process]:
        """Who of the family lives; zombies and this process do not count."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                kin = self.token == process.environ().get("TEST_FAMILY")
                if (
                    (kin or self.token in process.cmdline())
                    and process.pid != os.getpid()
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(process)
        return found

    def gone(self) -> bool:
        """Whether nobody is left, now or within ``WALL`` seconds."""
        return eventually(lambda: not self.living())

    def kill(self) -> None:
        for process in self.living():
            with contextlib.suppress(psutil.Error):
                process.kill()


def alive(pid: int | None) -> bool:
    """Whether ``pid`` runs; an ended process that nobody has collected does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def eventually(happens: Callable[[], bool], wall: float = WALL) -> bool:
    """Whether ``happens`` within ``wall`` seconds."""
    last = time.monotonic() + wall
    while not happens():
        if time.monotonic() > last:
            return False
        time.sleep(0.02)
    return True


def read_until(script: subprocess.Popen[str], word: str) -> str:
    """The script's first line that begins with ``word``."""
    assert script.stdout is not None
    seen = []
    for line in script.stdout:
        seen.append(line)
        if line.startswith(word):
            return line.strip()
    raise AssertionError("the script ended early:\n" + "".join(seen))


def kill_script(script: subprocess.Popen[str], number: int = signal.SIGKILL) -> str:
    """End a script by a signal and collect it; the rest of its output."""
    script.send_signal(number)
    return script.communicate(timeout=30)[0]


def make_family(folder: Path) -> Iterator[Family]:
    """A family that must be gone when its test is over, and no half-written file with it."""
    family = Family(folder)
    yield family
    if not family.gone():
        left = [(process.pid, process.cmdline()[-2:]) for process in family.living()]
        family.kill()
        pytest.fail(f"left running: {left}")
    assert not [*folder.rglob("*.part"), *folder.rglob(".*.part")]
