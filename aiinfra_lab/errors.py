"""Everything that can go wrong by name, each with the exit code the command line gives it.

The root is ``AIInfraLabError``. A leaf builds one sentence for people out of fields that a
program can read: ``needed`` (what was wanted), ``found`` (what was there) and ``fix`` (what
to do). The command line prints the sentence, never a stack trace.
"""

from __future__ import annotations


class AIInfraLabError(Exception):
    """Root of the project's errors.

    Parameters
    ----------
    message : str
        What is wrong, without a full stop.
    needed, found, fix : str, optional
        What was wanted, what was there, and what mends it.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        needed: str | None = None,
        found: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.message, self.needed, self.found, self.fix = message, needed, found, fix
        super().__init__(message)

    def __str__(self) -> str:
        parts = [self.message]
        if self.found is not None:
            parts.append(f"found {self.found}")
        if self.needed is not None:
            parts.append(f"needed {self.needed}")
        sentence = "; ".join(parts)
        return f"{sentence}. {self.fix}" if self.fix else sentence

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only fields do not survive pickling by themselves, and
        # errors cross process borders here.
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(
    kind: type[AIInfraLabError], args: tuple[object, ...], state: dict[str, object]
) -> AIInfraLabError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class InputError(AIInfraLabError):
    """What the user gave cannot be used; nothing was started and nothing was written."""

    exit_code = 2


class MissingNeed(AIInfraLabError):
    """The machine lacks something; ``fix`` is the command that gets it."""

    exit_code = 3


class ProcessError(AIInfraLabError):
    """A supervised child did not start, did not become ready, or ended with an error.

    ``returncode`` is the child's exit status (negative: the signal), ``tail`` its last lines.
    """

    def __init__(
        self, message: str, *, returncode: int | None = None, tail: str = "", fix: str | None = None
    ) -> None:
        super().__init__(message, fix=fix)
        self.returncode, self.tail = returncode, tail

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.tail}" if self.tail else super().__str__()


class NotebookError(AIInfraLabError):
    """A notebook ran and a cell failed; ``cell`` is its id, ``tail`` the end of the traceback."""

    def __init__(self, message: str, *, cell: str = "", tail: str = "") -> None:
        super().__init__(message)
        self.cell, self.tail = cell, tail
