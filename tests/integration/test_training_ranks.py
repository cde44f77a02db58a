"""Ranks that stay: what a job gives, how it fails, and that the next one does not notice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from aiinfra_lab.errors import InputError
from aiinfra_lab.training.ranks import RankError, Ranks

pytestmark = pytest.mark.needs("torch")


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks(2) as ranks:
        yield ranks


def rank_pids(ranks: Ranks) -> list[int]:
    return ranks.run(os.getpid)


def add_up(ranks: Ranks) -> list[int]:
    """A collective on all ranks: 1 + 2."""

    def work() -> int:
        import torch
        import torch.distributed as dist

        value = torch.tensor(dist.get_rank() + 1)
        dist.all_reduce(value)
        return int(value.item())

    return ranks.run(work)


# ---- what a job gives


def test_results_come_by_rank_with_what_was_printed(
    ranks: Ranks, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(first: int, second: str) -> tuple[int, int, str]:
        import torch.distributed as dist

        print(f"{second} one\n{second} two")
        return dist.get_rank(), dist.get_world_size() * first, second

    assert ranks.run(work, 10, "x") == [(0, 20, "x"), (1, 20, "x")]
    assert capsys.readouterr().out == (
        "rank 0: x one\nrank 0: x two\nrank 1: x one\nrank 1: x two\n"
    )


def test_jobs_share_processes_and_not_their_groups(ranks: Ranks) -> None:
    def tag() -> list[object]:
        import torch.distributed as dist

        gathered: list[object] = [None, None]
        dist.all_gather_object(gathered, dist.get_rank())
        return gathered

    before = rank_pids(ranks)
    assert [ranks.run(tag) for _ in range(3)] == [[[0, 1], [0, 1]]] * 3
    assert rank_pids(ranks) == before
    assert len(set(before)) == 2


def test_every_job_starts_from_its_seed_on_all_ranks(ranks: Ranks) -> None:
    def draw() -> tuple[float, float, float]:
        import random

        import numpy as np
        import torch

        return random.random(), float(np.random.random()), float(torch.rand(()))

    first, second, other = ranks.run(draw, seed=6), ranks.run(draw, seed=6), ranks.run(draw, seed=7)
    assert first == second
    assert first[0] == first[1]
    assert all(a != b for a, b in zip(first[0], other[0], strict=True))


def test_a_rank_computes_with_one_thread(ranks: Ranks) -> None:
    def threads() -> int:
        import torch

        return torch.get_num_threads()

    assert ranks.run(threads) == [1, 1]


def test_a_module_of_this_path_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lesson.py").write_text("def answer():\n    return __name__\n")
    monkeypatch.syspath_prepend(tmp_path)
    import lesson  # type: ignore[import-not-found]

    with Ranks(1) as one:
        assert one.run(lesson.answer) == ["lesson"]


async def test_a_running_loop_is_no_hindrance(ranks: Ranks) -> None:
    assert add_up(ranks) == [3, 3]


# ---- failures; each is followed by a job that works


def test_an_error_names_its_rank_first_while_others_wait_in_a_collective(ranks: Ranks) -> None:
    def work() -> None:
        import torch.distributed as dist

        if dist.get_rank() == 1:
            raise ValueError("no such file")
        dist.barrier()

    before, began = rank_pids(ranks), time.monotonic()
    with pytest.raises(RankError) as caught:
        ranks.run(work, group_timeout_s=1.0)
    assert time.monotonic() - began < 30
    error = caught.value
    assert list(error.failures) == [1, 0]
    assert error.failures[1] == "raised ValueError: no such file"
    assert "Timed out waiting 1000ms" in error.failures[0]
    assert str(error).startswith(
        "rank 1 raised ValueError: no such file; rank 0 raised RuntimeError"
    )
    assert "dist.barrier()" in error.tracebacks[0]
    assert add_up(ranks) == [3, 3]
    assert rank_pids(ranks) == before


def test_a_rank_that_ends_early_lets_the_other_wait_until_the_timeout(ranks: Ranks) -> None:
    def uneven() -> None:
        import torch
        import torch.distributed as dist

        for _ in range(3 if dist.get_rank() == 0 else 2):
            dist.all_reduce(torch.ones(1))

    with pytest.raises(RankError, match="Timed out waiting 1000ms") as caught:
        ranks.run(uneven, group_timeout_s=1.0)
    assert list(caught.value.failures) == [0]
    assert add_up(ranks) == [3, 3]


def test_the_same_error_on_all_ranks_is_said_once(ranks: Ranks) -> None:
    def work() -> None:
        raise SystemExit("enough")

    with pytest.raises(RankError) as caught:
        ranks.run(work)
    assert str(caught.value) == "ranks 0, 1 raised SystemExit: enough"
    assert add_up(ranks) == [3, 3]


def test_a_result_that_cannot_be_sent_is_an_error_of_the_rank(ranks: Ranks) -> None:
    def work() -> object:
        return threading.Lock()

    with pytest.raises(RankError, match=r"cannot pickle '_thread\.lock'"):
        ranks.run(work)
    assert add_up(ranks) == [3, 3]


@pytest.mark.parametrize("how", ["computes for ever", "is killed", "is killed between two jobs"])
def test_a_rank_that_does_not_answer_ends_the_launch_and_the_next_job_has_a_new_one(
    ranks: Ranks, how: str
) -> None:
    def stuck() -> None:
        import torch.distributed as dist

        while dist.get_rank() == 1:
            pass

    def killed() -> None:
        import torch.distributed as dist

        if dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        dist.barrier()

    before = rank_pids(ranks)
    if how == "computes for ever":
        with pytest.raises(RankError) as caught:
            ranks.run(stuck, timeout_s=1.5)
        assert str(caught.value) == "rank 1 did not answer within 1.5 s"
    elif how == "is killed":
        with pytest.raises(RankError) as caught:
            ranks.run(killed)
        assert str(caught.value) == "rank 1 ended in the middle of the job"
    else:
        os.kill(before[1], signal.SIGKILL)
        wait_until(lambda: not any(map(alive, before)))
    assert add_up(ranks) == [3, 3]
    assert not set(rank_pids(ranks)) & set(before)
    assert not any(map(alive, before))


def test_an_interrupt_ends_what_still_computes(ranks: Ranks) -> None:
    def stuck() -> None:
        while True:
            pass

    before = rank_pids(ranks)
    timer = threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        ranks.run(stuck)
    timer.join()
    assert not any(map(alive, before))
    assert add_up(ranks) == [3, 3]


# ---- the end


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(test: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < deadline
        time.sleep(0.05)


PARENT = """
import os, sys, time
from aiinfra_lab.training.ranks import Ranks
ranks = Ranks(2).start()
print(*ranks.run(os.getpid), ranks._launch.child.pid, flush=True)
time.sleep(600)
"""


def test_nothing_is_left_after_a_kill_of_the_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 3
        assert all(map(alive, pids))
        parent.kill()
    wait_until(lambda: not any(map(alive, pids)))


def test_after_the_block_nothing_runs_and_nothing_can_be_run() -> None:
    with Ranks(1) as one:
        (pid,) = rank_pids(one)
        folder = one._launch.child.log.parent  # type: ignore[union-attr]
        assert folder.is_dir()
    assert not alive(pid)
    assert not folder.exists()
    with pytest.raises(InputError, match="do not run"):
        one.run(os.getpid)


# ---- bad input


@pytest.mark.parametrize("world", [0, -1, 65, 1.5, "2", True, None])
def test_a_world_that_cannot_be_is_refused(world: object) -> None:
    with pytest.raises(InputError, match=r"needed 1\.\.64"):
        Ranks(world)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "5", True])
def test_a_timeout_that_cannot_be_is_refused(ranks: Ranks, seconds: object) -> None:
    with pytest.raises(InputError, match="group_timeout_s is a number of seconds"):
        Ranks(2, group_timeout_s=seconds)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="timeout_s is a number of seconds"):
        ranks.run(os.getpid, timeout_s=seconds)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="group_timeout_s is a number of seconds"):
        ranks.run(os.getpid, group_timeout_s=seconds)  # type: ignore[arg-type]


def test_what_cannot_be_sent_is_refused_before_anything_runs(ranks: Ranks) -> None:
    with pytest.raises(InputError, match="cannot be sent to the ranks: TypeError"):
        ranks.run(print, threading.Lock())
    with pytest.raises(InputError, match="ranks run a function; found 42"):
        ranks.run(42)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a seed has 32 bits; found -1"):
        ranks.run(os.getpid, seed=-1)
    assert add_up(ranks) == [3, 3]
