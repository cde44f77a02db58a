"""Reviving what has ended: at once, then ever more slowly, then no more."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from aiinfra_lab.errors import AIInfraLabError, ProcessError
from aiinfra_lab.kube import supervise
from aiinfra_lab.kube.supervise import PAUSES_S, Reviver


class Cluster:
    """Components that end as often as the test says."""

    def __init__(self, ends: int) -> None:
        self.ends, self.restarted = ends, 0

    def ended(self) -> list[str]:
        return ["etcd"] if self.restarted < self.ends else []

    def child(self, name: str) -> Any:
        return SimpleNamespace(returncode=-9, tail=lambda lines: "its last words")

    def restart(self, name: str) -> None:
        self.restarted += 1


class Asked(threading.Event):
    """Notes the pauses and does not pause."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout or 0.0)
        return self.is_set()


def test_pauses_grow_until_a_component_is_given_up(capsys):
    cluster, asked = Cluster(ends=100), Asked()
    reviver = Reviver(cluster)  # type: ignore[arg-type]
    for _ in PAUSES_S:
        reviver.look(asked)
    with pytest.raises(AIInfraLabError, match="etcd ended 6 times in a row"):
        reviver.look(asked)
    assert asked.pauses == list(PAUSES_S)
    assert cluster.restarted == len(PAUSES_S)
    assert "etcd ended with -9: its last words" in capsys.readouterr().out


def test_a_long_life_forgives_earlier_ends(monkeypatch):
    cluster, asked = Cluster(ends=100), Asked()
    reviver = Reviver(cluster)  # type: ignore[arg-type]
    now = [0.0]
    monkeypatch.setattr(supervise.time, "monotonic", lambda: now[0])
    for _ in range(20):
        reviver.look(asked)
        now[0] += supervise.STEADY_S + 1
    assert set(asked.pauses) == {PAUSES_S[0]}


def test_nothing_is_revived_once_the_end_was_asked_for():
    cluster, asked = Cluster(ends=1), Asked()
    asked.set()
    Reviver(cluster).look(asked)  # type: ignore[arg-type]
    assert cluster.restarted == 0


@pytest.mark.parametrize("where", ["start", "restart"])
@pytest.mark.parametrize("kind", ["called off", "failed"])
def test_whatever_ends_it_the_cluster_is_stopped(monkeypatch, where, kind):
    from aiinfra_lab.kube.control_plane import Interrupted

    said: list[str] = []
    error = Interrupted("called off") if kind == "called off" else ProcessError("broken")

    class Made:
        def __init__(self, **order: Any) -> None:
            assert order == {"name": "t", "detached": True}

        def start(self) -> None:
            if where == "start":
                raise error

        def ended(self) -> list[str]:
            return ["etcd"]

        def child(self, name: str) -> Any:
            return SimpleNamespace(returncode=1, tail=lambda lines: "")

        def restart(self, name: str) -> None:
            raise error

        def call_off(self) -> None:
            said.append("call_off")

        def stop(self) -> None:
            said.append("stop")

        def fail(self, reason: Exception) -> None:
            assert reason is error
            said.append("fail")

    monkeypatch.setattr(supervise, "LocalCluster", Made)
    monkeypatch.setattr(supervise.signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(supervise, "LOOK_S", 0.0)
    assert supervise.supervise({"name": "t"}) == (0 if kind == "called off" else 1)
    assert said == (["stop"] if kind == "called off" else ["fail"])
