"""A process that waits for an answer, told from one that works in silence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aiinfra_lab.clock import ManualClock
from aiinfra_lab.kube.stalled import Signs, Watch, signs_of


def watch(clock: ManualClock, signs: list[float]) -> Watch:
    def look() -> Signs:
        return signs[0], signs[1], signs[2]

    return Watch(look, 60.0, clock)


@pytest.mark.parametrize(
    ("sign", "nothing", "something"),
    [(0, 0.0, 1.0), (1, 0.01, 0.2), (2, 8.0, 5000.0)],
    ids=["output", "computing", "bytes"],
)
def test_one_sign_of_life_is_enough_and_a_breath_is_none(sign, nothing, something):
    for step, stalls in ((nothing, True), (something, False)):
        clock, signs = ManualClock(), [0.0, 0.0, 0.0]
        looked = watch(clock, signs)
        found = []
        for number in range(600):
            clock.advance(0.2)
            if number % 200 == 199:  # every 40 s
                signs[sign] += step
            found.append(looked.stalled())
        assert any(found) == stalls


def test_a_little_now_and_then_is_life_in_the_end():
    clock, signs = ManualClock(), [0.0, 0.0, 0.0]
    looked = watch(clock, signs)
    for _ in range(100):
        clock.advance(10.0)
        signs[1] += 0.05
        assert not looked.stalled()


def test_it_has_stalled_when_the_limit_is_over_and_not_before():
    clock = ManualClock()
    looked = watch(clock, [5.0, 5.0, 5.0])
    clock.advance(59.9)
    assert not looked.stalled()
    clock.advance(0.1)
    assert looked.stalled()


CHILD = """
import subprocess, sys
print("begun", flush=True)
sys.stdin.readline()
subprocess.run([sys.executable, "-c", %r], stdin=subprocess.DEVNULL)
print("done", flush=True)
sys.stdin.readline()
"""
COMPUTES = "import time\nwhile time.process_time() < 0.5: pass"
MOVES = "import os\nf = open('/dev/zero', 'rb', 0)\nfor _ in range(100): f.read(1 << 16)"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count less")
@pytest.mark.parametrize(("code", "sign", "least"), [(COMPUTES, 1, 0.4), (MOVES, 2, 6e6)])
def test_what_a_child_of_the_process_did_counts_also_after_its_end(tmp_path, code, sign, least):
    with subprocess.Popen(
        [sys.executable, "-c", CHILD % code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        before = signs_of(process.pid, tmp_path / "no.log")
        process.stdin.write("go\n")
        process.stdin.flush()
        process.stdout.readline()
        after = signs_of(process.pid, tmp_path / "no.log")
        process.stdin.close()
    assert after[sign] - before[sign] >= least
    assert signs_of(process.pid, tmp_path / "no.log") == (0.0, 0.0, 0.0)


def test_what_it_says_is_counted_by_its_log(tmp_path: Path):
    log = tmp_path / "x.log"
    log.write_text("12345")
    assert signs_of(1 << 30, log)[0] == 5.0
