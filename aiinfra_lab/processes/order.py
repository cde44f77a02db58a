"""The order to start a child: checked here, carried out by the reaper, explained if refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aiinfra_lab.errors import AIInfraLabError, InputError, MissingNeed, ProcessError

IfRunning = Literal["stop", "refuse"]
MARK = "AIINFRA_PROCESS"  # the variable that every descendant inherits
SMALLEST_LOG = 128 << 10  # bytes: two of the pieces in which output arrives
LONGEST_GRACE = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to run; the fields are ``Child``'s parameters."""

    argv: list[str]
    name: str
    log: Path
    env: Mapping[str, str] | None
    cwd: Path | None
    grace: float
    max_log: int | None
    pid_file: Path | None
    if_running: IfRunning

    def fields(self, mark: str) -> list[bytes]:
        """The order as the reaper reads it.

        Raises
        ------
        MissingNeed, InputError
            The program, the folder, the log or a word cannot be used; nothing was started.
        """
        env = dict(os.environ if self.env is None else self.env)
        env.setdefault("PYTHONUNBUFFERED", "1")
        env.update(marked_environment(mark))
        cwd = Path.cwd() if self.cwd is None else self.cwd
        if not cwd.is_dir():
            raise InputError(f"{self.name} cannot run in {cwd}: it is not a folder")
        program = _find_program(self.argv[0], cwd, env)
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._bad_log(error.strerror or str(error)) from None
        words = [
            str(self.log.resolve()),
            str(self.max_log or 0),
            str(self.grace),
            str(self.pid_file or ""),
            mark,
            str(cwd),
            program,
            str(len(self.argv)),
            *self.argv,
            *(f"{name}={value}" for name, value in env.items()),
        ]
        # Nothing of the environment is shown: it may hold secrets.
        if any("\0" in word for word in words):
            raise InputError(f"{self.name}: a word or a variable holds a zero byte")
        if any(not name or "=" in name for name in env):
            raise InputError(f"{self.name}: a variable's name is empty or holds '='")
        return [os.fsencode(word) for word in words]

    def explain(self, step: str, number: int) -> AIInfraLabError:
        """The error for the ``step`` that the reaper could not do."""
        reason = os.strerror(number)
        if step == "log":
            return self._bad_log(reason)
        if step == "cwd":
            return InputError(f"{self.name} cannot run in {self.cwd or Path.cwd()}", found=reason)
        if step == "pid_file":
            return InputError(f"the pid file {self.pid_file} cannot be written", found=reason)
        if step == "exec":
            return InputError(f"the program {self.argv[0]} cannot be executed", found=reason)
        return ProcessError(f"{self.name} could not be started: {reason}")

    def _bad_log(self, reason: str) -> InputError:
        return InputError(f"the log {self.log} cannot be written", found=reason)


def checked_seconds(grace: float) -> float:
    """``grace`` as a float, refused outside 0 to a day."""
    if not 0 <= grace <= LONGEST_GRACE:
        raise InputError(f"grace is {grace}; it must lie between 0 and {LONGEST_GRACE:g} seconds")
    return float(grace)


def marked_environment(mark: str) -> dict[str, str]:
    """The variable that carries ``mark``, behind the marks of the children we run under."""
    return {MARK: f"{os.environ.get(MARK, '')} {mark}".strip()}


def _find_program(word: str, cwd: Path, env: dict[str, str]) -> str:
    if "/" in word:
        path = cwd / word
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
        problem = "cannot be executed" if path.exists() else "does not exist"
        raise InputError(f"the program {path} {problem}")
    found = shutil.which(word, path=env.get("PATH", os.defpath))
    if found is None:
        raise MissingNeed(
            f"the program {word!r} was not found",
            needed=f"{word} on the PATH",
            fix="Install it, or put its folder on the PATH.",
        )
    return str(Path(found).absolute())
