"""A training over two hosts: the same bits as on one, and sentences when the network is away.

The hosts do not share a folder, except where torchrun is used by itself. Each has one core, so that
a rank has one thread everywhere: another number of threads may round in another order.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from two_hosts import Host, TwoHosts

pytestmark = pytest.mark.needs("netns", "torch")

TIMEOUT_S = 6  # of a collective
LIMIT_S = 240.0
MEETING = "10.77.0.1:29400"
WORDS = (
    *("--model", "mlp", "--dropout", "0.2", "--epochs", "2", "--samples", "300"),
    *("--batch-size", "32", "--checkpoint-every", "4", "--timeout-s", str(TIMEOUT_S)),
)
STEPS = 20
TRAIN = (sys.executable, "-m", "aiinfra_lab.cli.main", "train", *WORDS, "--json")


@dataclass(frozen=True)
class Ended:
    """A command that has ended, ``after_s`` seconds after the look for its end began."""

    code: int
    stdout: str
    stderr: str
    after_s: float

    @property
    def result(self) -> dict[str, Any]:
        assert self.code == 0, self.stderr[-3000:]
        found: dict[str, Any] = json.loads(self.stdout)
        return found


def cores(*numbers: int) -> list[str]:
    own = sorted(os.sched_getaffinity(0))
    return ["taskset", "--cpu-list", ",".join(str(own[n % len(own)]) for n in numbers)]


def start(argv: Sequence[str], log: Path, fault: str = "", **env: str) -> subprocess.Popen[str]:
    log.mkdir(parents=True, exist_ok=True)
    with (log / "stdout").open("w") as out, (log / "stderr").open("w") as err:
        return subprocess.Popen(
            argv,
            env=os.environ | {"AIINFRA_FAULT": fault, "AIINFRA_PROGRESS": "off"} | env,
            stdout=out,
            stderr=err,
            text=True,
        )


def ends(*running: subprocess.Popen[str], logs: Sequence[Path]) -> list[Ended]:
    """How they ended, in their order."""
    began, at = time.monotonic(), dict.fromkeys(running, 0.0)
    while not all(at.values()):
        time.sleep(0.05)
        now = time.monotonic() - began
        at |= {one: now for one in running if not at[one] and one.poll() is not None}
        if now > LIMIT_S:
            for one in running:
                one.kill()
    return [
        Ended(one.wait(), (log / "stdout").read_text(), (log / "stderr").read_text(), at[one])
        for one, log in zip(running, logs, strict=True)
    ]


def launch(host: Host, folder: Path, *more: str, fault: str = "") -> subprocess.Popen[str]:
    """The course's launcher on ``host``, with a folder of its own."""
    words = (
        *("--hosts", "2", "--host-index", str(host.index), "--rendezvous", MEETING),
        *("--address", host.address, "--interface", host.interface),
        *("--out", str(folder / f"host-{host.index}"), *more),
    )
    log = folder / f"said-{host.index}"
    return start(host.command(*cores(host.index), *TRAIN, *words), log, fault)


def said(folder: Path) -> list[Path]:
    return [folder / "said-0", folder / "said-1"]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[TwoHosts]:
    with TwoHosts(tmp_path) as pair:
        yield pair


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run on one host with two ranks."""
    folder = tmp_path_factory.mktemp("one-host")
    argv = [*cores(0, 1), *TRAIN, "--nproc", "2", "--out", str(folder / "out")]
    return ends(start(argv, folder), logs=[folder])[0].result


def test_two_hosts_end_with_the_bits_of_one(
    whole: dict[str, Any], pair: TwoHosts, tmp_path: Path
) -> None:
    running = [launch(host, tmp_path) for host in pair.hosts]
    first, second = ends(*running, logs=said(tmp_path))

    assert first.result["world"] == 2
    assert first.result["model_sha256"] == whole["model_sha256"]
    assert first.result["train_loss"] == whole["train_loss"]
    assert (second.code, second.stdout) == (0, "")
    assert "rank 0 has the result, on another host" in second.stderr
    assert not (tmp_path / "host-1" / "checkpoints").exists()


def test_a_rank_that_is_killed_is_restarted_with_those_of_the_other_host(
    whole: dict[str, Any], pair: TwoHosts, tmp_path: Path
) -> None:
    words = ("--max-restarts", "1")
    running = [launch(host, tmp_path, *words, fault="kill:rank=1,step=11") for host in pair.hosts]
    first, second = ends(*running, logs=said(tmp_path))

    assert first.result["model_sha256"] == whole["model_sha256"]
    # The checkpoint of step 8 is written while the training goes on, perhaps not to its end.
    assert first.result["resumed_from"] in (8, 4)
    assert second.code == 0


def test_a_cut_link_ends_both_launchers_and_a_new_launch_goes_on_to_the_same_bits(
    whole: dict[str, Any], pair: TwoHosts, tmp_path: Path
) -> None:
    # Slow enough to be cut in the middle.
    running = [launch(host, tmp_path, fault="slow:step=9,seconds=0.5") for host in pair.hosts]
    checkpoint, deadline = tmp_path / "host-0/checkpoints/step-00000008", time.monotonic() + LIMIT_S
    while not checkpoint.exists():
        assert all(one.poll() is None for one in running)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pair.cut()
    first, second = ends(*running, logs=said(tmp_path))

    assert (first.code, second.code) == (1, 1)
    assert max(first.after_s, second.after_s) < TIMEOUT_S + 20
    assert f"rank 1 on {pair.hosts[1].address} stopped answering" in first.stderr
    assert f"cannot reach the store on {pair.hosts[0].address} any more" in second.stderr
    for ended in (first, second):
        assert ended.stderr.count("aiinfra:") == 1
        assert "Traceback" not in ended.stderr
    assert [host.living() for host in pair.hosts] == [[], []]

    pair.mend()
    running = [launch(host, tmp_path) for host in pair.hosts]
    first, _ = ends(*running, logs=said(tmp_path))

    assert 8 <= first.result["resumed_from"] < STEPS
    assert first.result["model_sha256"] == whole["model_sha256"]
    assert first.result["train_loss"] == whole["train_loss"]


def test_plain_torchrun_works_across_the_two(
    whole: dict[str, Any], pair: TwoHosts, tmp_path: Path
) -> None:
    """What torchrun needs to be told, on each host.

    ``--rdzv-conf is_host=1`` on the host of the endpoint and ``is_host=0`` on the others, else it
    guesses from names; ``--local-addr``, by which the others reach this host; and in
    ``GLOO_SOCKET_IFNAME`` the interface of that address. Without them it waits without end.
    """
    running = [
        start(
            host.command(
                *cores(host.index),
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"),
                *("--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "training"),
                *("--rdzv-endpoint", MEETING, "--rdzv-conf", f"is_host={1 - host.index}"),
                *("--local-addr", host.address),
                *("-m", "aiinfra_lab.training", *WORDS, "--out", str(tmp_path / "shared")),
            ),
            tmp_path / f"said-{host.index}",
            GLOO_SOCKET_IFNAME=host.interface,
        )
        for host in pair.hosts
    ]
    first, second = ends(*running, logs=said(tmp_path))

    assert (first.code, second.code) == (0, 0), first.stderr + second.stderr
    result = json.loads((tmp_path / "shared" / "result.json").read_text())
    assert (result["world"], result["model_sha256"]) == (2, whole["model_sha256"])


ONE_OF_TWO = """
import sys
from aiinfra_lab.errors import AIInfraLabError
from aiinfra_lab.training import Hosts, TrainingConfig, train_on_ranks
index, meeting, address, out = sys.argv[1:]
hosts = Hosts(2, int(index), meeting, "training", address, meet_s=5)
try:
    train_on_ranks(TrainingConfig.of(), out, hosts=hosts)
except AIInfraLabError as error:
    sys.exit(f"aiinfra: {error}")
"""


def test_hosts_that_do_not_meet_end_in_a_sentence(pair: TwoHosts, tmp_path: Path) -> None:
    meetings = ("10.77.0.1:29400", "10.77.0.1:29500")  # one of the two was mistyped
    running = [
        start(
            host.command(
                *(sys.executable, "-c", ONE_OF_TWO, str(host.index), meetings[host.index]),
                *(host.address, str(tmp_path / f"host-{host.index}")),
            ),
            tmp_path / f"said-{host.index}",
        )
        for host in pair.hosts
    ]
    first, second = ends(*running, logs=said(tmp_path))

    assert first.code == second.code == 1
    assert f"aiinfra: not all of 2 hosts came to {meetings[0]} within 5 s" in first.stderr
    assert f"aiinfra: nobody was to be met at {meetings[1]} within 5 s" in second.stderr
    for ended in (first, second):
        assert len(ended.stderr.splitlines()) == 1
    assert [host.living() for host in pair.hosts] == [[], []]
