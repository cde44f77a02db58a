"""Faults on demand, for teaching and for tests: ``AIINFRA_FAULT=kill:rank=1,step=20``.

=========  =====================================================================
kill       the rank gets SIGKILL before the step
hang       the rank sleeps for an hour before the step
slow       the rank sleeps ``seconds`` before every step from this one on
diskfull   rank 0's checkpoints from this step on find no space left
=========  =====================================================================

A fault strikes in the launch's first attempt only (``attempt=N`` names another): a restart must be
able to get past the step that killed it.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import dataclass
from typing import Literal, get_args

from aiinfra_lab.errors import InputError

VARIABLE = "AIINFRA_FAULT"
Kind = Literal["kill", "hang", "slow", "diskfull"]
_HOUR_S = 3600.0


@dataclass(frozen=True)
class Fault:
    """What goes wrong where: steps count from 1."""

    kind: Kind
    rank: int = 0
    step: int = 1
    seconds: float = 1.0
    attempt: int = 0

    def before_step(self, step: int, *, rank: int, attempt: int) -> None:
        """Strike if ``rank`` is about to do ``step`` in this ``attempt``."""
        if rank != self.rank or attempt != self.attempt:
            return
        if self.kind == "slow" and step >= self.step:
            time.sleep(self.seconds)
        elif step == self.step and self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif step == self.step and self.kind == "hang":
            time.sleep(_HOUR_S)

    def before_save(self, step: int, *, attempt: int) -> None:
        """Raise what a full disk raises."""
        if self.kind == "diskfull" and attempt == self.attempt and step >= self.step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_fault(text: str | None = None) -> Fault | None:
    """The fault in ``text``, by default in the environment; None where there is none.

    Raises
    ------
    InputError
        The words are none of the table's.
    """
    text = os.environ.get(VARIABLE, "") if text is None else text
    if not text.strip():
        return None
    kind, _, rest = text.strip().partition(":")
    try:
        if kind not in get_args(Kind):
            raise ValueError(kind)
        words = dict(word.split("=", 1) for word in rest.split(",") if word)
        numbers = {
            name: int(words.pop(name)) for name in ("rank", "step", "attempt") & words.keys()
        }
        seconds = float(words.pop("seconds", "1"))
        if words or min(numbers.values(), default=0) < 0 or not 0 <= seconds < _HOUR_S:
            raise ValueError(rest)
        return Fault(kind, seconds=seconds, **numbers)  # type: ignore[arg-type]
    except ValueError:
        raise InputError(
            f"{VARIABLE} cannot be read",
            found=repr(text),
            needed=f"{'|'.join(get_args(Kind))}, then :rank=1,step=20 and for slow seconds=0.5",
        ) from None
