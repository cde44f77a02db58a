"""Faults on demand strike where they are told to, and nowhere else."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from aiinfra_lab.errors import InputError
from aiinfra_lab.training.faults import Fault, read_fault


def test_the_words_of_the_table_are_read() -> None:
    assert read_fault("") is None
    assert read_fault("kill:rank=1,step=20") == Fault("kill", rank=1, step=20)
    assert read_fault(" hang ") == Fault("hang")
    assert read_fault("slow:rank=1,seconds=0.5,attempt=2") == Fault("slow", 1, 1, 0.5, 2)
    assert read_fault("diskfull:step=50") == Fault("diskfull", step=50)


@pytest.mark.parametrize(
    "text",
    ["explode", "kill:rank", "kill:rank=x", "kill:rank=-1", "kill:row=1", "slow:seconds=-1", ":"],
)
def test_other_words_are_refused_by_name(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIINFRA_FAULT", text)

    with pytest.raises(InputError, match=r"AIINFRA_FAULT.*kill\|hang\|slow\|diskfull"):
        read_fault()


def test_a_kill_strikes_its_rank_at_its_step_in_its_attempt() -> None:
    fault = Fault("kill", rank=1, step=3)
    for step, rank, attempt in ((2, 1, 0), (3, 0, 0), (3, 1, 1), (4, 1, 0)):
        fault.before_step(step, rank=rank, attempt=attempt)  # else this process were gone

    code = (
        "from aiinfra_lab.training.faults import Fault\n"
        "Fault('kill', rank=1, step=3).before_step(3, rank=1, attempt=0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL


def test_a_slow_rank_is_slow_from_its_step_on(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    fault = Fault("slow", rank=0, step=2, seconds=0.5)

    for step in (1, 2, 3):
        fault.before_step(step, rank=0, attempt=0)

    assert slept == [0.5, 0.5]


def test_a_full_disk_raises_what_the_system_raises() -> None:
    fault = Fault("diskfull", step=20)
    fault.before_save(10, attempt=0)
    fault.before_save(20, attempt=1)

    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        fault.before_save(25, attempt=0)
    assert caught.value.errno == errno.ENOSPC
