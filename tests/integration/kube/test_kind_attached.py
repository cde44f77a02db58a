"""A kind cluster ends with its maker, however that ends, and never takes another one's with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest
from test_kind_provider import machine, nothing_left, until, up

from aiinfra_lab.errors import InputError, ProcessError
from aiinfra_lab.kube import KindCluster
from aiinfra_lab.kube.kind.provider import KindProvider

__all__ = ["machine"]
pytestmark = pytest.mark.needs("kubernetes")
MAKER = """
import time
from aiinfra_lab.kube import KindCluster
cluster = KindCluster("t").start()
print("ready", flush=True)
time.sleep(600)
"""


def keepers() -> list[psutil.Process]:
    words = ["-m", "aiinfra_lab.kube.kind.attached", "t"]
    return [child for child in psutil.Process().children() if child.cmdline()[1:] == words]


@pytest.fixture
def make() -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """A process that makes the cluster ``t`` and stays."""
    begun: list[subprocess.Popen[str]] = []

    def made() -> subprocess.Popen[str]:
        begun.append(
            subprocess.Popen([sys.executable, "-c", MAKER], stdout=subprocess.PIPE, text=True)
        )
        return begun[-1]

    yield made
    for process in begun:
        process.kill()
        process.communicate()


def test_it_lives_in_its_block_and_leaves_nothing(machine):
    with KindCluster("t", nodes=2) as cluster:
        assert cluster.record.phase == "ready"
        assert machine.left()[:3] == ["/t-control-plane", "/t-worker", "/t-worker2"]
        assert cluster.kubeconfig.exists()
        assert cluster.claims.is_dir()
        assert len(keepers()) == 1
    assert nothing_left(machine)
    assert keepers() == []
    cluster.stop()  # once more


def test_what_is_wished_for_reaches_kind(machine):
    machine.be(images=["mine:1", "pod:1"])
    with KindCluster("t", gpus=2, node_image="mine:1", images=["pod:1"]):
        assert {node["image"] for node in machine.config()["nodes"]} == {"mine:1"}
        assert machine.asked("kind", "load") == [["load", "docker-image", "pod:1", "--name", "t"]]
        two = {"nvidia.com/gpu": "2"}
        assert machine.api.gpus == {"t-control-plane": two, "t-worker": two}


def test_it_ends_with_a_maker_that_is_killed(machine, make):
    maker = make()
    assert maker.stdout.readline() == "ready\n"
    assert machine.left()
    maker.kill()
    until(lambda: nothing_left(machine))


def test_it_ends_with_a_maker_that_is_killed_while_it_comes_up(machine, make):
    machine.be(hang=600.0)
    maker = make()
    until(lambda: (machine.folder / "creating").exists())
    maker.kill()
    until(lambda: nothing_left(machine))


def test_what_is_sent_to_the_makers_group_is_not_for_its_keeper(machine):
    with KindCluster("t"):
        assert os.getpgid(keepers()[0].pid) != os.getpgrp()


def test_a_cluster_that_is_there_is_refused_and_left_alone(machine):
    up()
    before = machine.left()
    with pytest.raises(InputError, match="there is a cluster t already"):
        KindCluster("t").start()
    assert machine.left() == before


def test_one_that_another_process_makes_meanwhile_is_left_alone(machine, monkeypatch):
    first = KindProvider.up

    def beaten(self, name, wishes):
        first(self, name, wishes)
        raise InputError("cluster t is being started or ended by another process")

    monkeypatch.setattr(KindProvider, "up", beaten)
    with pytest.raises(InputError, match="another process"):
        KindCluster("t").start()
    assert keepers() == []
    assert "/t-control-plane" in machine.left()


def test_one_that_was_taken_down_by_hand_can_be_stopped(machine):
    cluster = KindCluster("t").start()
    KindProvider().down("t")
    cluster.stop()
    assert keepers() == []


def test_what_cannot_be_removed_is_told_and_tried_again(machine):
    cluster = KindCluster("t").start()
    machine.be(stubborn=["t-worker"])
    with pytest.raises(ProcessError, match="t-worker"):
        cluster.stop()
    machine.be(stubborn=[])
    cluster.stop()
    assert nothing_left(machine)
    assert keepers() == []


def test_a_cluster_without_a_node_for_pods_is_refused():
    with pytest.raises(InputError, match="0 nodes take no pods"):
        KindCluster("t", nodes=0)
