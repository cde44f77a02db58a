"""The node's two programs beside a real control plane, and what must hold when parts of it die."""

from __future__ import annotations

import contextlib
import os
import signal

import psutil
import pytest
from node_host import NodeHost, until

from aiinfra_lab.kube import LocalCluster
from aiinfra_lab.kube.clients import kubernetes
from aiinfra_lab.kube.pytest_plugin import new_namespace

pytestmark = pytest.mark.needs("kube", "kubernetes")
NODE = "n1"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A control plane without nodes of its own: these tests end parts of it."""
    folder = tmp_path_factory.mktemp("agent")
    with LocalCluster("agent", folder=folder / "c", nodes=0) as made:
        yield made


@pytest.fixture(scope="module")
def host(own, tmp_path_factory):
    with NodeHost(own, tmp_path_factory.mktemp("nodes") / NODE, NODE, gpus=2) as made:
        core = own.client()
        until(lambda: not core.read_node(NODE).spec.taints, what="the node takes pods")
        yield made


@pytest.fixture
def pods(own, host):
    with new_namespace(own) as name:
        yield Pods(own, name)


class Pods:
    """The pods of one namespace."""

    def __init__(self, cluster, namespace):
        self.core, self.namespace = cluster.client(), namespace

    def make(self, name, script="exec sleep 600", **spec):
        labels = spec.pop("labels", {})
        main = {"name": "main", "image": "busybox", "command": ["sh", "-c", script]}
        main |= spec.pop("main", {})
        body = {
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 5,
                "nodeSelector": {"kubernetes.io/hostname": NODE},
                "containers": [main],
                **spec,
            },
        }
        return self.core.create_namespaced_pod(self.namespace, body)

    def read(self, name):
        with contextlib.suppress(kubernetes().client.ApiException):
            return self.core.read_namespaced_pod(name, self.namespace)
        return None

    def all(self):
        return self.core.list_namespaced_pod(self.namespace).items

    def until(self, name, phase):
        def look():
            pod = self.read(name)
            return pod if pod is not None and pod.status.phase == phase else None

        return until(look, what=f"{name} is {phase}")

    def until_gone(self, name):
        until(lambda: self.read(name) is None, what=f"{name} is gone")

    def delete(self, name, **options):
        self.core.delete_namespaced_pod(name, self.namespace, **options)

    def log(self, name, **options):
        return self.core.read_namespaced_pod_log(name, self.namespace, **options)


def processes(host, mark):
    """The processes below the node's runtime whose command line has ``mark``."""
    found = []
    for process in psutil.Process(host.runtime.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if mark in process.cmdline():
                found.append(process.pid)
    return found


def container(pod, name="main"):
    return next(entry for entry in pod.status.container_statuses if entry.name == name)


def test_the_node_is_as_the_api_wants_it(own, host):
    node = own.client().read_node(NODE)
    assert {a.type: a.address for a in node.status.addresses} == {
        "InternalIP": "127.0.0.1",
        "Hostname": NODE,
    }
    assert node.status.allocatable["nvidia.com/gpu"] == "2"
    assert set(node.status.capacity) >= {"cpu", "memory", "pods", "ephemeral-storage"}
    conditions = {c.type: c.status for c in node.status.conditions}
    assert conditions == {
        "Ready": "True",
        "MemoryPressure": "False",
        "DiskPressure": "False",
        "PIDPressure": "False",
    }
    assert node.status.node_info.kubelet_version == own.record.version
    assert (
        str(node.status.daemon_endpoints.kubelet_endpoint.port)
        == (host.folder / "port").read_text()
    )
    lease = own.client("CoordinationV1Api").read_namespaced_lease(NODE, "kube-node-lease")
    assert lease.spec.lease_duration_seconds == 40
    assert lease.metadata.owner_references[0].uid == node.metadata.uid


def test_a_pod_runs_says_something_and_succeeds(pods):
    pods.make("p", "echo hello")
    pod = pods.until("p", "Succeeded")
    ended = container(pod).state.terminated
    assert (ended.exit_code, ended.reason) == (0, "Completed")
    assert pod.status.pod_ip.startswith("127.65.")
    assert pod.status.qos_class == "BestEffort"
    assert pods.log("p") == "hello\n"
    version = pod.metadata.resource_version
    events = until(
        lambda: (
            (
                found := [
                    e.reason
                    for e in pods.core.list_namespaced_event(pods.namespace).items
                    if e.involved_object.name == "p"
                ]
            )
            and "Started" in found
            and found
        )
    )
    assert {"Pulled", "Created", "Started"} <= set(events)
    assert pods.read("p").metadata.resource_version == version


def test_a_pod_that_is_deleted_ends_and_is_gone(pods, host):
    pods.make("p", "trap 'sleep 1; exit 0' TERM; sleep 601.5 & wait")
    pod = pods.until("p", "Running")
    until(lambda: processes(host, "601.5"))
    pods.delete("p")
    pods.delete("p")  # twice is once
    pods.until_gone("p")
    assert not processes(host, "601.5")
    until(lambda: not (host.folder / "pods" / pod.metadata.uid).exists())


def test_a_pod_that_is_deleted_while_it_is_made_is_gone(pods, host):
    for n in range(5):
        pods.make(f"p{n}", f"exec sleep 602.{n}")
        pods.delete(f"p{n}", grace_period_seconds=[30, 0][n % 2])
    for n in range(5):
        pods.until_gone(f"p{n}")
    until(lambda: not [p for n in range(5) for p in processes(host, f"602.{n}")])


def test_a_forced_deletion_kills_at_once(pods, host):
    pods.make("p", "trap '' TERM; while :; do sleep 603.5; done")
    pods.until("p", "Running")
    until(lambda: processes(host, "603.5"))
    pods.delete("p", grace_period_seconds=0)
    pods.until_gone("p")
    until(lambda: not processes(host, "603.5"))


def test_a_container_that_fails_is_started_again_in_place(pods):
    counter = {"name": "data", "emptyDir": {}}
    pods.make(
        "p",
        "echo x >> /data/runs; test $(wc -l < /data/runs) -ge 2",
        restartPolicy="OnFailure",
        volumes=[counter],
        main={"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
    )
    pod = pods.until("p", "Succeeded")
    assert container(pod).restart_count == 1
    assert container(pod).last_state.terminated.exit_code == 1


def test_a_hundred_pods_at_once(pods):
    for n in range(100):
        pods.make(f"p{n}", "echo done")
    until(
        lambda: sum(pod.status.phase == "Succeeded" for pod in pods.all()) == 100,
        timeout=240,
        what="all have succeeded",
    )
    ips = [pod.status.pod_ip for pod in pods.all()]
    assert len(set(ips)) == 100
    assert all(container(pod).restart_count == 0 for pod in pods.all())


def test_a_killed_agent_leaves_its_pods_and_the_next_one_takes_them_up(pods, host):
    pods.make("stays", "exec sleep 604.5", restartPolicy="Always")
    pods.make("ends", "sleep 1; exit 3", main={"name": "main"})
    pods.make("goes", "exec sleep 605.5")
    before = container(pods.until("stays", "Running"))
    pods.until("ends", "Running")
    pods.until("goes", "Running")
    (pid,) = processes(host, "604.5")
    os.kill(host.agent.pid, signal.SIGKILL)
    host.agent.wait(30)
    pods.delete("goes", grace_period_seconds=0)
    pods.until_gone("goes")
    assert processes(host, "605.5")
    host.start_agent()
    host.wait_ready()
    ended = container(pods.until("ends", "Failed")).state.terminated
    assert ended.exit_code == 3
    until(lambda: not processes(host, "605.5"))  # nobody knows it any more
    assert processes(host, "604.5") == [pid]
    after = container(pods.read("stays"))
    assert (after.restart_count, after.container_id) == (0, before.container_id)
    os.kill(pid, signal.SIGKILL)
    until(lambda: container(pods.read("stays")).restart_count == 1)
    assert container(pods.read("stays")).last_state.terminated.exit_code == 137


def test_a_node_that_is_deleted_registers_again(own, host, pods):
    first = own.client().read_node(NODE).metadata.uid
    own.client().delete_node(NODE)

    def again():
        with contextlib.suppress(kubernetes().client.ApiException):
            node = own.client().read_node(NODE)
            return node.metadata.uid != first and not node.spec.taints
        return None

    until(again, what="another Node of that name")
    pods.make("p", "echo again")
    pods.until("p", "Succeeded")


def test_the_term_signal_ends_the_agent_and_no_container(host, pods):
    pods.make("p", "exec sleep 606.5")
    pods.until("p", "Running")
    assert host.agent.stop() == 0
    assert processes(host, "606.5")
    host.start_agent()
    host.wait_ready()
    pods.delete("p")
    pods.until_gone("p")
    assert not processes(host, "606.5")


def test_while_the_api_server_is_away_pods_go_on(own, host, pods):
    pods.make("stays", "exec sleep 607.5")
    pods.make("ends", "sleep 2; exit 4")
    pods.make("again", "sleep 2; exit 1", restartPolicy="Always")
    for name in ("stays", "ends", "again"):
        pods.until(name, "Running")
    pids = processes(host, "607.5")
    own.restart("kube-apiserver")
    assert container(pods.until("ends", "Failed")).state.terminated.exit_code == 4
    until(lambda: container(pods.read("again")).restart_count >= 1)
    assert processes(host, "607.5") == pids
    assert container(pods.read("stays")).state.running
    pods.make("later", "echo later")
    pods.until("later", "Succeeded")


def test_a_runtime_that_is_started_again_has_lost_its_containers(host, pods):
    pods.make("never", "exec sleep 608.5")
    pods.make("always", "exec sleep 609.5", restartPolicy="Always")
    pods.until("never", "Running")
    pods.until("always", "Running")
    host.runtime.stop()
    host.start_runtime()
    lost = container(pods.until("never", "Failed")).state.terminated
    assert lost.exit_code != 0
    until(lambda: container(pods.read("always")).restart_count >= 1)
    until(lambda: processes(host, "609.5"))
