"""``aiinfra cluster``: clusters that stay, are found again by name, and go when they are told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from leftovers import living, seconds_until_gone

from aiinfra_lab.kube.place import Place, Record
from aiinfra_lab.kube.programs import find_programs

pytestmark = pytest.mark.needs("kube")
Run = Callable[..., subprocess.CompletedProcess[str]]
AIINFRA = str(Path(sys.executable).with_name("aiinfra"))


@pytest.fixture
def aiinfra(home: Path) -> Iterator[Run]:
    """The command, and at the end the clusters that a failed test has left."""

    def run(*words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [AIINFRA, "cluster", *words], capture_output=True, text=True, check=False, timeout=200
        )
        assert done.returncode == expect, done.stderr
        return done

    yield run
    if Place("t").read() is not None:
        run("down", "--name", "t")
    assert not living(Place("t").root)


def kubectl(*words: str) -> str:
    program = find_programs(["kubectl"])["kubectl"]
    env = {**os.environ, "KUBECONFIG": str(Place("t").kubeconfig)}
    done = subprocess.run(
        [program, *words], env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def record() -> Record:
    found = Place("t").read()
    assert found is not None
    return found


def until(true: Callable[[], Any], seconds: float = 90.0) -> None:
    last = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < last, true
        time.sleep(0.02)


def test_a_cluster_from_up_to_down(aiinfra):
    done = aiinfra("up", "--name", "t")
    path = Path(done.stdout.strip())
    assert path == Place("t").kubeconfig  # stdout is the result and nothing else
    assert aiinfra("kubeconfig", "--name", "t").stdout.strip() == str(path)
    kubectl("create", "configmap", "kept", "--from-literal=a=b")
    assert json.loads(kubectl("version", "-o", "json"))["serverVersion"]["minor"]

    status = json.loads(aiinfra("status", "--name", "t", "--json").stdout)
    assert (status["phase"], len(status["parts"])) == ("ready", 6)
    assert all(part["rss_mb"] > 0 for part in status["parts"])
    assert [item["name"] for item in json.loads(aiinfra("status", "--json").stdout)] == ["t"]
    assert "Serving securely" in aiinfra("logs", "scheduler", "--name", "t").stdout
    assert len(aiinfra("logs", "etcd", "--name", "t", "--tail", "3").stdout.splitlines()) == 3

    holder = record().pid
    assert aiinfra("up", "--name", "t").stdout.strip() == str(path)  # it is up already
    assert record().pid == holder
    assert "takes no such wish" in aiinfra("up", "--name", "t", "--port", "1", expect=2).stderr

    aiinfra("down", "--name", "t", "--keep")
    assert not living(Place("t").root)
    aiinfra("status", "--name", "t", expect=1)
    assert "is not up" in aiinfra("kubeconfig", "--name", "t", expect=1).stderr
    aiinfra("up", "--name", "t")
    assert "kept" in kubectl("get", "configmaps", "-o", "name")
    aiinfra("down", "--name", "t")
    assert not Place("t").root.exists()
    assert "there is no cluster 't'" in aiinfra("down", "--name", "t", expect=2).stderr


def test_down_during_up_leaves_nothing(aiinfra):
    with subprocess.Popen(
        [AIINFRA, "cluster", "up", "--name", "t"], stderr=subprocess.PIPE, text=True
    ) as up:
        until(lambda: any("kube-apiserver" in line for line in living(Place("t").root)))
        aiinfra("down", "--name", "t")
        _, said = up.communicate(timeout=60)
    assert up.returncode == 1
    assert "taken down while it was starting" in said
    assert "Traceback" not in said
    assert not living(Place("t").root)
    assert not Place("t").root.exists()


def test_down_before_the_supervisor_has_begun_leaves_nothing(aiinfra):
    with subprocess.Popen(
        [AIINFRA, "cluster", "up", "--name", "t"], stderr=subprocess.PIPE, text=True
    ) as up:
        until(lambda: Place("t").read() is not None)
        aiinfra("down", "--name", "t")
        up.communicate(timeout=60)
    assert up.returncode == 1
    assert not living(Place("t").root)


def test_an_interrupted_up_leaves_nothing_running(aiinfra):
    with subprocess.Popen(
        [AIINFRA, "cluster", "up", "--name", "t"], stderr=subprocess.PIPE, text=True
    ) as up:
        until(lambda: any("kube-apiserver" in line for line in living(Place("t").root)))
        up.send_signal(signal.SIGINT)
        _, said = up.communicate(timeout=60)
    assert up.returncode == 130
    assert "Traceback" not in said
    assert not living(Place("t").root)


def test_the_supervisor_revives_what_was_killed_and_nothing_outlives_it(aiinfra):
    aiinfra("up", "--name", "t")
    kubectl("create", "configmap", "kept")
    part = next(part for part in record().parts if part.name == "kube-scheduler")
    os.kill(part.pid, signal.SIGKILL)
    until(lambda: {p.name: p.restarts for p in record().parts}["kube-scheduler"] == 1)
    assert "kube-scheduler ended with -9" in aiinfra("logs", "supervisor", "--name", "t").stdout

    os.kill(record().pid, signal.SIGKILL)
    seconds = seconds_until_gone(Place("t").root)
    print(f"gone after {seconds:.2f} s")
    # The record is stale now; it is told from a live one, and the objects are still there.
    assert (
        json.loads(aiinfra("status", "--name", "t", "--json", expect=1).stdout)["phase"] == "killed"
    )
    aiinfra("up", "--name", "t")
    assert "kept" in kubectl("get", "configmaps", "-o", "name")
    assert record().pid != part.pid


def test_a_cluster_of_another_program_is_not_ended(aiinfra):
    place = Place("t")
    assert place.hold()
    place.write(Record(name="t", phase="ready", pid=os.getpid(), start_time=0.0, keep=False))
    try:
        said = aiinfra("down", "--name", "t", expect=2).stderr
        assert f"belongs to process {os.getpid()}" in said
    finally:
        place.remove()
        place.release()


def test_a_start_that_fails_is_one_sentence_and_a_status(aiinfra, tmp_path):
    crd = tmp_path / "crd.yaml"
    crd.write_text(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n"
        "metadata: {name: a.b.c}\nspec: {group: b.c}\n"
    )
    said = aiinfra("up", "--name", "t", "--crd", str(crd), expect=2).stderr
    assert "the API server refuses the CustomResourceDefinition a.b.c" in said
    assert "Traceback" not in said
    assert not living(Place("t").root)
    assert record().phase == "failed"
    aiinfra("down", "--name", "t")
