"""Clusters that are started, kept, killed, called off and refused; nothing is ever left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from leftovers import living, seconds_until_gone

from aiinfra_lab.errors import AIInfraLabError, InputError, ProcessError
from aiinfra_lab.kube import LocalCluster
from aiinfra_lab.kube.control_plane import Interrupted
from aiinfra_lab.kube.place import Place
from aiinfra_lab.kube.programs import find_programs

pytestmark = [pytest.mark.needs("kube", "kubernetes"), pytest.mark.usefixtures("home")]

CRD: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "trainings.lab.example"},
    "spec": {
        "group": "lab.example",
        "scope": "Namespaced",
        "names": {"plural": "trainings", "singular": "training", "kind": "Training"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object"}},
            }
        ],
    },
}


def note(cluster: LocalCluster, name: str) -> None:
    cluster.client().create_namespaced_config_map("default", {"metadata": {"name": name}})


def notes(cluster: LocalCluster) -> set[str]:
    items = cluster.client().list_namespaced_config_map("default").items
    return {item.metadata.name for item in items} - {"kube-root-ca.crt"}


def test_two_clusters_side_by_side_know_nothing_of_each_other():
    with contextlib.ExitStack() as stack:
        both = [LocalCluster("one", nodes=0), LocalCluster("two", nodes=0)]
        threads = [threading.Thread(target=cluster.start) for cluster in both]
        for cluster in both:
            stack.callback(cluster.stop)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        one, two = both
        note(one, "mine")
        assert (notes(one), notes(two)) == ({"mine"}, set())
        ports = [part.port for cluster in both for part in cluster.record.parts]
        assert len(set(ports)) == 8
        with pytest.raises(InputError, match="cluster one is in use by process"):
            LocalCluster("one", nodes=0).start()
        assert notes(one) == {"mine"}
        one.stop()
        one.stop()  # may be called again
        assert notes(two) == set()
        assert not living(one.place.root)
    for cluster in both:
        assert not living(cluster.place.root)
        assert not cluster.place.root.exists()


def test_a_component_that_was_killed_comes_back_on_its_port():
    with LocalCluster("t") as cluster:
        note(cluster, "before")
        url = cluster.url
        cluster.child("apiserver").send_signal(signal.SIGKILL)
        cluster.child("apiserver").wait(30)
        assert cluster.ended() == ["kube-apiserver"]
        cluster.restart("apiserver")
        assert (cluster.ended(), cluster.url) == ([], url)
        assert notes(cluster) == {"before"}
        restarts = {part.name: part.restarts for part in cluster.record.parts}
        assert restarts["kube-apiserver"] == 1
        # The controllers have found it again: a job gets its pod.
        spec = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox"}]}
        cluster.client("BatchV1Api").create_namespaced_job(
            "default", {"metadata": {"name": "j"}, "spec": {"template": {"spec": spec}}}
        )
        last = time.monotonic() + 90
        while not cluster.client().list_namespaced_pod("default").items:
            assert time.monotonic() < last
            time.sleep(0.1)


def test_a_state_that_was_kept_is_there_again_and_never_taken_by_chance():
    cluster = LocalCluster("t", keep=True, durable=True, crds=[CRD])
    with cluster:
        note(cluster, "kept")
        crd = cluster.client("ApiextensionsV1Api").read_custom_resource_definition(
            "trainings.lab.example"
        )
        # The garbage collector reads what kinds there are when it starts, then every 30 s.
        began = cluster.child("controller-manager").started_at
        assert crd.metadata.creation_timestamp.timestamp() <= began
        url, text = cluster.url, cluster.kubeconfig.read_text()
    place = Place("t")
    record = place.read()
    assert record is not None
    assert record.phase == "stopped"
    with pytest.raises(InputError, match=r"state that was kept.*keep=True"):
        LocalCluster("t").start()
    assert record == place.read()
    with LocalCluster("t", keep=True, crds=[CRD]) as again:
        assert notes(again) == {"kept"}
        assert again.url == url
        assert again.kubeconfig.read_text() != text  # new certificates in the same file
    assert not living(place.root)


PARENT = """
import os, sys, time
from aiinfra_lab.kube import LocalCluster
cluster = LocalCluster("t", folder=sys.argv[1])
cluster.start()
print("ready", flush=True)
time.sleep(600)
"""


def test_nothing_is_left_when_the_parent_is_killed(tmp_path):
    root = tmp_path / "cluster"
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(root)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        assert len(living(root)) >= 5
        parent.kill()
        parent.wait()
    seconds = seconds_until_gone(root)
    print(f"gone after {seconds:.2f} s")
    left = Place("t", root).read()
    assert left is not None
    assert left.phase == "killed"
    with LocalCluster("t", folder=root) as cluster:  # what it left is in nobody's way
        assert cluster.record.phase == "ready"


def test_a_start_that_is_called_off_leaves_nothing():
    cluster = LocalCluster("t")
    raised: list[BaseException] = []

    def start() -> None:
        try:
            cluster.start()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    while not any("kube-apiserver" in line for line in living(cluster.place.root)):
        time.sleep(0.02)
    cluster.call_off()
    thread.join(60)
    assert [type(error) for error in raised] == [Interrupted]
    assert not living(cluster.place.root)
    assert not cluster.place.root.exists()


async def test_a_cancelled_start_leaves_nothing():
    cluster = LocalCluster("t")
    task = asyncio.create_task(cluster.start_async())
    while not await asyncio.to_thread(living, cluster.place.root):
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not living(cluster.place.root)
    assert not cluster.place.root.exists()


async def test_it_is_an_asynchronous_context_manager_too():
    async with LocalCluster("t") as cluster:
        assert cluster.record.phase == "ready"
    assert not living(cluster.place.root)


def test_a_port_that_is_taken_is_one_sentence_and_starts_nothing():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(InputError, match=f"cluster t cannot use port {port}"):
            LocalCluster("t", port=port).start()
        assert not living(Place("t").root)
    assert not Place("t").is_held


def test_a_component_that_does_not_start_shows_its_last_lines():
    cluster = LocalCluster("t", nodes=0, flags={"scheduler": ["--no-such-flag"]})
    with pytest.raises(ProcessError, match="no-such-flag"):
        cluster.start()
    assert not living(cluster.place.root)
    record = cluster.place.read()
    assert record is not None
    assert (record.phase, cluster.place.is_held) == ("failed", False)
    assert (cluster.place.logs / "kube-apiserver.log").exists()


def test_a_program_that_was_cut_off_is_an_error_that_leaves_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "assets"
    folder.mkdir()
    for name, path in find_programs().items():
        (folder / name).symlink_to(path)
    cut = folder / "kube-apiserver"
    size = cut.stat().st_size
    cut.unlink()
    shutil.copy(find_programs()["kube-apiserver"], cut)
    os.truncate(cut, size // 2)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(folder))
    cluster = LocalCluster("t")
    with pytest.raises(AIInfraLabError, match="kube-apiserver"):
        cluster.start()
    assert not living(cluster.place.root)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has network namespaces")
@pytest.mark.needs("netns")
def test_a_machine_without_any_network_will_do(tmp_path):
    code = (
        "import sys\nfrom aiinfra_lab.kube import LocalCluster\n"
        "with LocalCluster('t', folder=sys.argv[1]) as cluster: print(cluster.record.phase)\n"
    )
    inner = 'ip link set lo up && exec "$0" -c "$1" "$2"'
    words = ["--net"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--net"]
    done = subprocess.run(
        ["unshare", *words, "sh", "-c", inner, sys.executable, code, str(tmp_path / "c")],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert (done.stdout, done.returncode) == ("ready\n", 0), done.stderr


def test_a_manifest_that_the_api_server_refuses_is_one_sentence():
    bad = {**CRD, "spec": {**CRD["spec"], "scope": "Nowhere"}}
    with pytest.raises(InputError, match=r"refuses .*trainings\.lab\.example.*Nowhere"):
        LocalCluster("t", crds=[bad]).start()
    assert not living(Place("t").root)
