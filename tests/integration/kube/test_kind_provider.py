"""The provider ``kind`` against stand-ins for the commands docker and kind, and for the API.

What is shown: what the commands are asked, in which order, and that nothing is left. That kind
then makes a cluster of it is shown by the conformance suite, where there is a Docker.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from kind_machine import Api, Machine
from stand_in import state

from aiinfra_lab import needs
from aiinfra_lab.cli.main import run as aiinfra
from aiinfra_lab.errors import InputError, MissingNeed, ProcessError
from aiinfra_lab.kube.kind import creation, removal
from aiinfra_lab.kube.kind.image import NODE_IMAGE
from aiinfra_lab.kube.kind.node_image import making
from aiinfra_lab.kube.kind.provider import KindProvider
from aiinfra_lab.kube.place import Place, Record
from aiinfra_lab.kube.provider import Wishes, get_provider

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.needs("kubernetes")
# A shell that starts the tests in its background has them ignore Ctrl-C, and their children too.
UP = """
import signal, sys
from aiinfra_lab.cli.main import run
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(run(["cluster", "up", "--provider", "kind", "--name", "t", *sys.argv[1:]]))
"""
STAND_IN = Path(__file__).with_name("stand_in.py")
CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "trainings.lab.example"},
}
PORT_TAKEN = """ERROR: failed to create cluster: command "docker run --name t" failed: exit 125
Command Output: 0123
docker: Error response from daemon: Bind for 127.0.0.1:6443 failed: port is already allocated.
See 'docker run --help'."""


@pytest.fixture
def machine(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Docker and kind by their stand-ins, an empty home, and a Docker without images."""
    folder, programs = tmp_path / "machine", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    (folder / "calls.jsonl").touch()
    for name in ("docker", "kind", "podman"):
        path = programs / name
        path.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" {"-E" if name == "kind" else "-ES"} "{STAND_IN}" '
            f'{name.replace("podman", "docker")} "$@"\n'
        )
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("TEST_ASSET_KIND", str(programs / "kind"))
    monkeypatch.setenv("STAND_IN", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("AIINFRA_CACHE", str(tmp_path / "cache"))  # no archive of a node image
    for name in ("KUBECONFIG", "DOCKER_HOST", "KIND_EXPERIMENTAL_PROVIDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(removal, "_LATE_S", 1.0)
    needs.find.cache_clear()
    api = Api(folder)
    made = Machine(folder, api)
    made.be(url=api.url)
    yield made
    api.server.shutdown()
    api.server.server_close()
    needs.find.cache_clear()
    assert not (tmp_path / "user" / ".kube").exists()  # the user's own contexts are the user's


def until(true: Callable[[], Any], seconds: float = 60.0) -> None:
    last = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < last, true
        time.sleep(0.02)


def up(**wishes: Any) -> Any:
    return KindProvider().up("t", Wishes(**wishes))


def nothing_left(machine: Machine) -> bool:
    return machine.left() == [] and not Place("t").root.exists()


@pytest.fixture
def starting(machine: Machine) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """The command ``up`` in a process of its own, as far as kind waiting for its nodes."""
    begun: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", UP, *words], stderr=subprocess.PIPE, text=True
        )
        begun.append(process)
        creating = machine.folder / "creating"
        until(lambda: creating.exists() or process.poll() is not None)
        assert process.poll() is None
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def stand_ins(folder: Path) -> list[int]:
    """The stand-ins that still run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(STAND_IN) in process.cmdline() and process.environ()["STAND_IN"] == str(folder):
                found.append(process.pid)
    return found


# From up to down.


def test_a_cluster_from_up_to_down(machine, capsys):
    words = ["cluster", "up", "--provider", "kind", "--name", "t", "--workers", "2"]
    assert aiinfra(words) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(Place("t").kubeconfig)
    assert f"pulling the node image {NODE_IMAGE}\n" in err
    assert "kind: Preparing nodes\n" in err
    assert "Kubernetes v1.36.4 at http://127.0.0.1" in err

    (create,) = machine.asked("kind", "create", "cluster")
    options = dict(zip(create[2::2], create[3::2], strict=True))
    assert options["--kubeconfig"] == str(Place("t").kubeconfig)
    assert int(options["--wait"].removesuffix("s")) >= 180
    config = machine.config()
    assert [node["role"] for node in config["nodes"]] == ["control-plane", "worker", "worker"]
    assert {node["image"] for node in config["nodes"]} == {NODE_IMAGE}

    record = get_provider("kind").record("t")
    assert record is not None
    assert (record.phase, record.provider, record.url) == ("ready", "kind", machine.api.url)
    assert [part.name for part in record.parts] == ["t-control-plane", "t-worker", "t-worker2"]
    assert record.start_s > 0
    assert aiinfra(["cluster", "status", "--name", "t"]) == 0
    assert aiinfra(["cluster", "kubeconfig", "--name", "t"]) == 0
    assert "t-worker2" in capsys.readouterr().out

    assert aiinfra(["cluster", "down", "--name", "t"]) == 0
    assert len(machine.asked("kind", "delete", "cluster")) == 1
    assert nothing_left(machine)
    assert aiinfra(["cluster", "down", "--name", "t"]) == 2


def test_an_image_that_is_here_is_not_pulled_nor_spoken_of(machine, capsys):
    machine.be(images=["mine:1"])
    up(node_image="mine:1")
    assert machine.asked("docker", "pull") == []
    assert "pulling" not in capsys.readouterr().err
    assert machine.config()["nodes"][0]["image"] == "mine:1"


def test_what_a_tag_brings_is_said_to_be_uncertain(machine, capsys):
    up(node_image="mine:1")
    assert "pulling the node image mine:1, by a tag" in capsys.readouterr().err
    assert machine.asked("docker", "pull") == [["pull", "mine:1"]]


def test_crds_and_images_are_there_when_it_is_ready(machine, tmp_path):
    (tmp_path / "crd.yaml").write_text(yaml.safe_dump(CRD))
    machine.be(images=["a:1", "b:2"])
    up(crds=[tmp_path / "crd.yaml"], images=["a:1", "b:2"])
    assert any(path.endswith("trainings.lab.example") for path in machine.api.objects)
    loaded = [["load", "docker-image", "a:1", "b:2", "--name", "t"]]
    assert machine.asked("kind", "load") == loaded
    up(images=["a:1"])  # also into one that runs
    assert machine.asked("kind", "load")[1:] == [["load", "docker-image", "a:1", "--name", "t"]]


def test_claims_share_one_folder_whatever_the_image_brings(machine):
    path = "/apis/storage.k8s.io/v1/storageclasses/standard"
    machine.api.objects[path] = {"provisioner": "rancher.io/local-path"}
    up()
    assert machine.api.objects[path]["provisioner"] == "kubernetes.io/host-path"
    up()
    assert machine.api.asked.count(f"DELETE {path}") == 1
    mount = machine.config()["nodes"][0]["extraMounts"][0]
    assert mount == {
        "hostPath": str(Place("t").root / "claims"),
        "containerPath": "/tmp/hostpath_pv",
    }
    assert (Place("t").root / "claims").is_dir()


def test_every_node_says_how_many_gpus_it_has(machine):
    up(workers=1, gpus=2)
    assert machine.api.gpus == {
        node: {"nvidia.com/gpu": "2"} for node in ("t-control-plane", "t-worker")
    }
    KindProvider().down("t")
    up()
    assert sum(asked.startswith("PATCH") for asked in machine.api.asked) == 2


# A cluster that is there.


def test_one_that_works_is_taken_up_and_nothing_is_made(machine):
    first = up(workers=1)
    assert up() == first
    assert up(workers=1, node_image=NODE_IMAGE) == first
    assert len(machine.asked("kind", "create")) == 1
    for other in ({"workers": 2}, {"node_image": "mine:1"}, {"port": 1}):
        with pytest.raises(InputError, match="is up already, and takes no other"):
            up(**other)
    assert len(machine.left()) == 4


def test_one_that_does_not_work_is_neither_taken_nor_thrown_away(machine):
    up(workers=1)
    with state(machine.folder) as now:
        now["containers"][1]["State"]["Status"] = "exited"
    with pytest.raises(ProcessError, match=r"t-worker is exited\. First: aiinfra cluster down"):
        up()
    record = KindProvider().record("t")
    assert record is not None
    assert (record.phase, record.sentence) == ("failed", "t-worker is exited")
    assert len(machine.left()) == 4


def test_one_whose_api_does_not_answer_is_not_ready(machine):
    up()
    kubeconfig = Place("t").kubeconfig
    kubeconfig.write_text(kubeconfig.read_text().replace(machine.api.url, "http://127.0.0.1:1"))
    assert aiinfra(["cluster", "status", "--name", "t"]) == 1


def test_somebody_elses_is_refused_and_left_alone(machine):
    up()
    with state(machine.folder) as now:
        for one in now["containers"]:  # made anew by hand
            one["Id"], one["Mounts"], one["HostConfig"] = "other", [], {}
    with pytest.raises(InputError, match="not made from here"):
        up()
    KindProvider().down("t")
    assert machine.asked("kind", "delete") == []
    assert machine.left() == ["/t-control-plane"]


def test_somebody_elses_of_that_name_leaves_no_trace_here(machine):
    machine.be(images=[NODE_IMAGE])
    config = machine.folder / "own.yaml"
    node = {"role": "control-plane", "image": NODE_IMAGE, "extraMounts": []}
    config.write_text(yaml.safe_dump({"nodes": [node]}))
    words = ["create", "cluster", "--name", "t", "--config", str(config)]
    subprocess.run(["kind", *words, "--kubeconfig", str(machine.folder / "k")], check=True)
    with pytest.raises(InputError, match="kind delete cluster --name t"):
        up()
    assert not Place("t").root.exists()
    assert len(machine.left()) == 2


def test_somebody_who_was_quicker_keeps_what_is_theirs(machine):
    machine.be(quicker=True)
    with pytest.raises(ProcessError, match="already exist for a cluster"):
        up()
    assert machine.left() == ["/t-control-plane"]
    assert machine.asked("kind", "delete") == []
    assert not Place("t").root.exists()


def test_a_name_of_another_provider_is_refused(machine):
    record = Record("t", "stopped", 0, 0.0, True, provider="local")
    Place("t").write(record)
    with pytest.raises(InputError, match="belongs to the provider local"):
        up()
    assert machine.asked("kind") == []


# What is missing or wrong, before anything is made.


def test_no_docker_and_no_daemon_are_two_sentences(machine, monkeypatch, tmp_path):
    machine.be(daemon=False)
    with pytest.raises(MissingNeed, match="Cannot connect to the Docker daemon") as silent:
        up()
    machine.be(daemon=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingNeed, match="docker is not on PATH") as absent:
        up()
    assert silent.value.fix != absent.value.fix
    assert not Place("t").root.exists()


def test_a_daemon_that_was_started_since_is_found(machine):
    machine.be(daemon=False)
    with pytest.raises(MissingNeed):
        up()
    machine.be(daemon=True)
    up()


def test_no_kind_is_one_sentence_with_the_command_that_gets_it(machine, monkeypatch, tmp_path):
    monkeypatch.delenv("TEST_ASSET_KIND")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    (tmp_path / "bin" / "kind").unlink()
    with pytest.raises(MissingNeed, match="aiinfra cluster install kind"):
        up()


def test_another_kind_is_warned_of(machine, capsys):
    machine.be(version="v0.20.0")
    up()
    assert "is kind v0.20.0, and v0.33.0 is what" in capsys.readouterr().err


def test_an_old_kubernetes_is_warned_of_or_refused(machine, capsys):
    machine.api.version = "v1.33.1"
    up()
    assert "runs Kubernetes v1.33.1, and kubectl v1." in capsys.readouterr().err
    KindProvider().down("t")
    machine.api.version = "v1.27.0"
    with pytest.raises(InputError, match="too old"):
        up()
    assert nothing_left(machine)


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"images": ["absent:1"]}, "no image absent:1 on this machine"),
        ({"images": ["--help"]}, "is no image"),
        ({"node_image": "-v/:/host"}, "is no image"),
        ({"workers": 21}, "needed 0 to 20"),
        ({"gpus": -1}, "cannot have -1 GPUs"),
        ({"context": "a"}, "the provider kind takes no --context"),
        ({"crds": [Path("absent.yaml")]}, "cannot be read"),
    ],
    ids=["absent", "option", "node image", "workers", "gpus", "context", "crd"],
)
def test_a_wish_that_cannot_be_met_makes_nothing(machine, wishes, said):
    with pytest.raises(InputError, match=said):
        up(**wishes)
    assert machine.asked("kind", "create") == []
    assert not Place("t").root.exists()


def test_keep_is_refused_before_anything_goes(machine):
    up()
    with pytest.raises(InputError, match="--keep cannot be met"):
        KindProvider().down("t", keep=True)
    assert len(machine.left()) == 2


# A start that fails.


def cannot_be_made() -> str:
    raise MissingNeed("the node image is made by root only")


def test_an_image_that_cannot_be_had_is_one_sentence(machine, monkeypatch, capsys):
    machine.be(reachable=False)
    monkeypatch.setattr(making, "make_node_image", cannot_be_made)
    with pytest.raises(MissingNeed, match=r"could not be pulled; found .*no such host") as caught:
        up()
    assert "\n" not in str(caught.value)
    assert "it cannot be made here: the node image is made by root only" in capsys.readouterr().err
    assert machine.asked("kind", "create") == []
    assert nothing_left(machine)


def test_where_none_can_be_pulled_one_is_made(machine, monkeypatch, capsys):
    machine.be(reachable=False)

    def make() -> str:
        machine.be(images=["aiinfra/node:made"])
        return "aiinfra/node:made"

    monkeypatch.setattr(making, "make_node_image", make)
    up()
    assert machine.config()["nodes"][0]["image"] == "aiinfra/node:made"
    assert "so one is made here" in capsys.readouterr().err


def test_an_image_that_was_named_is_not_replaced_by_one_made_here(machine, monkeypatch):
    machine.be(reachable=False)
    monkeypatch.setattr(making, "make_node_image", lambda: pytest.fail("one was made"))
    with pytest.raises(MissingNeed, match=r"acme/node:1 could not be pulled"):
        up(node_image="acme/node:1")
    assert nothing_left(machine)


def test_a_failed_create_is_kinds_reason_and_leaves_nothing(machine):
    machine.be(fail=PORT_TAKEN)
    with pytest.raises(ProcessError, match="port is already allocated") as caught:
        up(port=6443)
    message = str(caught.value)
    assert "\n" not in message
    assert "Choose another --port" in message
    kept = Path(message.rpartition(" ")[2])
    assert "Command Output" in kept.read_text()
    assert nothing_left(machine)


def test_a_node_that_does_not_get_ready_is_named_with_the_kubelets_words(machine, monkeypatch):
    monkeypatch.setattr(creation, "LEAST_WAIT_S", 0.0)
    machine.api.unready = {"t-worker"}
    with pytest.raises(ProcessError, match=r"t-worker, which says: container runtime network"):
        up(workers=1, timeout=1.0)
    assert nothing_left(machine)


def test_an_api_server_that_never_answers_is_said(machine, monkeypatch):
    monkeypatch.setattr(creation, "LEAST_WAIT_S", 0.0)
    machine.be(url="http://127.0.0.1:1")
    with pytest.raises(ProcessError, match=r"API server at http://127\.0\.0\.1:1 does not answer"):
        up(timeout=1.0)
    assert nothing_left(machine)


def test_images_that_cannot_be_loaded_undo_the_start(machine, monkeypatch):
    machine.be(images=["a:1", NODE_IMAGE])
    make_ready = creation.Creation.load

    def failing(self: creation.Creation, images: list[str]) -> None:
        machine.be(fail="ERROR: no space left on device")
        make_ready(self, images)

    monkeypatch.setattr(creation.Creation, "load", failing)
    with pytest.raises(ProcessError, match=r"were not loaded .*no space left"):
        up(images=["a:1"])
    assert nothing_left(machine)


# A start that is cut off.


def test_down_ends_a_start_of_another_process(machine, starting):
    machine.be(hang=300.0)
    process = starting()
    status = KindProvider().record("t")
    assert status is not None
    assert status.phase == "starting"
    with pytest.raises(InputError, match="by another process"):
        up()
    KindProvider().down("t")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "cluster t was taken down while it was starting" in said
    assert "Traceback" not in said
    assert nothing_left(machine)
    assert stand_ins(machine.folder) == []


def test_ctrl_c_leaves_nothing_not_even_what_the_daemon_makes_later(machine, starting):
    machine.be(hang=300.0, late=1.0)
    process = starting("--workers", "1")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert nothing_left(machine)
    assert stand_ins(machine.folder) == []


@pytest.mark.parametrize("then", ["down", "up"])
def test_a_start_that_was_killed_is_told_and_cleaned_up(machine, starting, then, capsys):
    machine.be(hang=300.0)
    process = starting()
    process.kill()
    process.communicate(timeout=60)
    until(lambda: not stand_ins(machine.folder))  # kind ends with who started it
    record = KindProvider().record("t")
    assert record is not None
    assert record.phase == "killed"
    machine.be(hang=0.0)
    if then == "up":
        up()
        assert "removing what the last start" in capsys.readouterr().err
        assert len(machine.left()) == 2
    KindProvider().down("t")
    assert nothing_left(machine)


# An end with leftovers.


def test_containers_that_kind_cannot_remove_are_removed_without_it(machine, monkeypatch, tmp_path):
    up()
    monkeypatch.delenv("TEST_ASSET_KIND")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    (tmp_path / "bin" / "kind").unlink()
    KindProvider().down("t")
    assert nothing_left(machine)


def test_volumes_go_even_when_somebody_has_removed_the_containers(machine):
    up(workers=1)
    machine.be(containers=[], volumes=["var-t-0", "var-t-1", "mine"])
    KindProvider().down("t")
    assert machine.left() == ["mine"]
    assert machine.asked("kind", "delete") == []


def test_data_that_pods_have_written_as_root_goes_too(machine, monkeypatch):
    up()
    claims = Place("t").root / "claims"
    (claims / "pvc-1").mkdir()
    (claims / "pvc-1" / "model.bin").write_bytes(b"x")
    removed = shutil.rmtree

    def as_another_user(path: Path, **options: Any) -> None:
        if path != claims or not any(claims.iterdir()):
            removed(path, **options)

    monkeypatch.setattr("aiinfra_lab.kube.kind.removal.shutil.rmtree", as_another_user)
    KindProvider().down("t")
    assert any("--network=none" in call for call in machine.asked("docker", "run"))
    assert nothing_left(machine)


def test_what_cannot_be_removed_is_named_and_tried_again(machine):
    up()
    machine.be(stubborn=["t-control-plane"])
    with pytest.raises(
        ProcessError, match="could not be removed: the container t-control-plane, the"
    ):
        KindProvider().down("t")
    record = KindProvider().record("t")
    assert record is not None
    assert record.phase == "failed"
    machine.be(stubborn=[])
    KindProvider().down("t")
    assert nothing_left(machine)


def test_a_daemon_that_died_is_said_and_the_cluster_is_not_forgotten(machine):
    up()
    machine.be(daemon=False)
    record = KindProvider().record("t")
    assert record is not None
    assert (record.phase, "Docker daemon" in record.sentence) == ("failed", True)
    with pytest.raises(MissingNeed):
        KindProvider().down("t")
    machine.be(daemon=True)
    KindProvider().down("t")
    assert nothing_left(machine)


# Logs, and other engines.


def test_logs_have_the_names_of_the_other_providers(machine, capsys):
    up()
    for component, said in [
        ("scheduler", "scheduler says so"),
        ("kubelet", "kubelet says so"),
        ("t-control-plane/kubelet", "kubelet says so"),
        ("t-control-plane", "reached its target"),
        ("kind", "Preparing nodes"),
    ]:
        assert aiinfra(["cluster", "logs", component, "--name", "t"]) == 0
        assert said in capsys.readouterr().out
    for component in ("etcd", "nobody", "t-worker/kubelet", "../kubelet"):
        assert aiinfra(["cluster", "logs", component, "--name", "t"]) == 2


def test_podman_is_asked_where_kind_was_told_to(machine, monkeypatch):
    monkeypatch.setenv("KIND_EXPERIMENTAL_PROVIDER", "podman")
    machine.be(hang=0.2, conmon=True)
    Path(os.environ["PATH"].partition(":")[0], "docker").unlink()
    up()
    with state(machine.folder) as now:
        pid = now["conmon"]
    try:
        # It has no daemon: a container is a process below kind, and must outlive it.
        assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    finally:
        os.kill(pid, signal.SIGKILL)
    KindProvider().down("t")
    assert nothing_left(machine)


def test_an_engine_that_is_not_here_is_one_sentence(machine, monkeypatch):
    monkeypatch.setenv("KIND_EXPERIMENTAL_PROVIDER", "finch")
    with pytest.raises(MissingNeed, match="KIND_EXPERIMENTAL_PROVIDER names finch"):
        up()


# Tests of other people, by the plugin.

TESTS = """
import pytest


@pytest.fixture(scope="session")
def cluster_options():
    return {"gpus": 3}


def test_it(cluster):
    assert cluster.provider == "kind"
    assert cluster.kubeconfig.is_file()
"""


def test_the_plugin_has_a_cluster_of_kind_and_takes_it_down(machine, pytester):
    machine.be(images=["mine:1"])
    pytester.makepyfile(TESTS)
    words = ("--kube-provider=kind", "--kube-workers=1", "--kube-node-image=mine:1")
    plugin = ("-p", "aiinfra_lab.kube.pytest_plugin", "-p", "no:cacheprovider")
    pytester.runpytest_subprocess(*plugin, *words, timeout=120).assert_outcomes(passed=1)
    (create,) = machine.asked("kind", "create", "cluster")
    assert create[3].startswith("test-")
    with state(machine.folder) as now:
        assert now["last"] == [["control-plane", "mine:1"], ["worker", "mine:1"]]
    assert [number["nvidia.com/gpu"] for number in machine.api.gpus.values()] == ["3", "3"]
    assert machine.left() == []


WANTS = """
import pytest


@pytest.fixture(scope="session")
def cluster_options():
    return {"nodes": 3}


def test_it(cluster, kube_image):
    assert kube_image == "b:2"
"""


def test_the_plugin_has_nodes_for_the_tests_and_images_for_their_pods(machine, pytester):
    machine.be(images=["mine:1", "a:1", "b:2"])
    pytester.makepyfile(WANTS)
    words = ("--kube-provider=kind", "--kube-node-image=mine:1", "--kube-load=a:1")
    plugin = ("-p", "aiinfra_lab.kube.pytest_plugin", "-p", "no:cacheprovider")
    ran = pytester.runpytest_subprocess(*plugin, *words, "--kube-image=b:2", timeout=120)
    ran.assert_outcomes(passed=1)
    (load,) = machine.asked("kind", "load")
    assert load[2:4] == ["a:1", "b:2"]
    with state(machine.folder) as now:
        assert [role for role, _ in now["last"]] == ["control-plane", "worker", "worker"]
    assert machine.left() == []
