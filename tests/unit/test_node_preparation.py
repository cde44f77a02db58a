"""A pod and its containers made ready, again after a restart, and forgotten."""

import asyncio
import json
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from node_builders import CORE, FakeApi, make_container, make_pod

from aiinfra_lab.kube.node.problems import ConfigProblem, ImageProblem, VolumeProblem
from aiinfra_lab.kube.node.provision import network as network_module
from aiinfra_lab.kube.node.provision import preparation as preparation_module
from aiinfra_lab.kube.node.provision.devices import GPU, Devices
from aiinfra_lab.kube.node.provision.images import ImageTable
from aiinfra_lab.kube.node.provision.preparation import NodeFacts, Preparation
from aiinfra_lab.kube.ports import job_port
from aiinfra_lab.kube.runtime.spec import ContainerSpec


@pytest.fixture(autouse=True)
def _own_addresses(monkeypatch):
    # The same addresses also where the machine has one only.
    monkeypatch.setattr(network_module, "can_share_loopback", lambda: True)


@pytest.fixture
def api():
    return FakeApi()


@pytest.fixture
def facts(tmp_path):
    return NodeFacts(
        name="n0",
        number=0,
        folder=tmp_path / "n0",
        shared=tmp_path / "shared",
        api_host="127.0.0.1",
        api_port=6443,
        isolated=True,
        ca_pem="the CA",
    )


@pytest.fixture
def make(api, facts):
    def make(gpus=0, **changes):
        return Preparation(replace(facts, **changes), api, ImageTable({}), Devices(gpus))

    return make


@pytest.fixture
def as_root(monkeypatch):
    monkeypatch.setattr(preparation_module.os, "geteuid", lambda: 0)


async def started(preparation, pod, *, init=False, attempt=0):
    """What the first container of a pod is to be."""
    await preparation.pod(pod)
    container = pod["spec"]["containers"][0]
    return await preparation.container(pod, container, attempt, init=init)


async def test_a_container_gets_the_nodes_variables_and_nothing_of_the_agents(make, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_AGENT", "1")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("LANG", "ja_JP.UTF-8")
    pod = make_pod(containers=[make_container(image="python:3.11")])
    pod["metadata"]["ownerReferences"] = [{"kind": "Job", "uid": "job-uid"}]
    spec = await started(make(), pod)
    home = spec.env["HOME"]
    assert spec.env == {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
        ":/sbin:/bin",
        "HOME": home,
        "HOSTNAME": "p",
        "LANG": "ja_JP.UTF-8",
        "TZ": "Asia/Tokyo",
        "CUDA_VISIBLE_DEVICES": "",
        "NVIDIA_VISIBLE_DEVICES": "void",
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": "6443",
        "KUBERNETES_SERVICE_PORT_HTTPS": "6443",
        "AIINFRA_JOB_PORT": str(job_port("job-uid")),
    }
    assert Path(home).is_dir()
    assert spec.argv == ("python3",)
    assert spec.cwd == "/"


async def test_the_spec_of_a_run(make, facts):
    container = make_container(
        command=["sh", "-c"],
        args=["echo $(GREETING) $(KUBERNETES_SERVICE_PORT) $(PATH) $$(GREETING)"],
        env=[{"name": "GREETING", "value": "hello"}, {"name": "HOME", "value": "/mine"}],
        workingDir="/work",
        resources={"limits": {"memory": "64Mi", "cpu": "1500m"}},
    )
    pod = make_pod(containers=[container])
    preparation = make()
    spec = await started(preparation, pod, attempt=3)
    assert spec.id == "uid-p.c.3"
    # As in Kubernetes, what the image sets cannot be referred to.
    assert spec.argv == ("sh", "-c", "echo hello 6443 $(PATH) $(GREETING)")
    assert spec.env["HOME"] == "/mine"
    assert (spec.memory, spec.cpus, spec.cwd) == (64 * 2**20, 1.5, "/work")
    assert (spec.user, spec.group) == (None, None)
    assert spec.log == preparation.log(pod, "c", 3) == facts.folder / "pods/uid-p/logs/c/3.log"
    assert spec.log.parent.is_dir()
    assert spec.labels == {
        "uid": "uid-p",
        "namespace": "lab",
        "pod": "p",
        "container": "c",
        "attempt": "3",
        "init": "false",
        "ip": "127.64.0.1",
        "gpus": "",
    }
    assert ContainerSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


async def test_args_without_a_command_are_the_program(make):
    pod = make_pod(containers=[make_container(args=["echo", "x"])])
    assert (await started(make(), pod)).argv == ("echo", "x")


async def test_two_containers_see_one_folder_and_each_its_hosts_file(make, facts):
    volumes = [{"name": "v", "emptyDir": {}}]
    two = [make_container(name, volumes=volumes) for name in ("a", "b")]
    two[1]["volumeMounts"][0] |= {"mountPath": "/other", "readOnly": True}
    pod = make_pod(volumes=volumes, containers=two)
    preparation = make()
    await preparation.pod(pod)
    first, second = [await preparation.container(pod, one, 0) for one in two]
    hosts = facts.folder / "pods/uid-p/hosts"
    assert [(m.target, m.read_only) for m in first.mounts] == [("/v", False), ("/etc/hosts", False)]
    assert (second.mounts[0].target, second.mounts[0].read_only) == ("/other", True)
    assert first.mounts[0].source == second.mounts[0].source
    assert {first.mounts[1].source, second.mounts[1].source} == {hosts}


async def test_a_pods_own_mount_of_the_hosts_file_stays(make, tmp_path):
    (tmp_path / "mine").write_text("")
    volumes = [{"name": "v", "hostPath": {"path": str(tmp_path / "mine")}}]
    container = make_container()
    container["volumeMounts"] = [{"name": "v", "mountPath": "/etc/hosts"}]
    spec = await started(make(), make_pod(volumes=volumes, containers=[container]))
    assert [mount.source for mount in spec.mounts] == [tmp_path / "mine"]


async def test_without_a_mount_namespace_variables_name_the_folders(make, facts, tmp_path):
    token = {"serviceAccountToken": {"path": "token"}}
    volumes = [
        {"name": "my-data", "emptyDir": {}},
        {"name": "kube-api-access-x7", "projected": {"sources": [token]}},
    ]
    container = make_container(
        env=[{"name": "DATA", "value": "$(AIINFRA_VOLUME_MY_DATA)"}], workingDir="/data/in"
    )
    container["volumeMounts"] = [
        {"name": "my-data", "mountPath": "/data", "subPath": "sub"},
        {"name": "my-data", "mountPath": "/again"},
        {
            "name": "kube-api-access-x7",
            "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
        },
    ]
    pod = make_pod(volumes=volumes, containers=[container])
    spec = await started(make(isolated=False), pod)
    root = facts.folder / "pods/uid-p"
    assert spec.mounts == ()
    assert spec.env["AIINFRA_HOSTS"] == str(root / "hosts")
    assert spec.env["AIINFRA_VOLUME_MY_DATA"] == str(root / "volumes/my-data/sub")
    assert spec.env["DATA"] == str(root / "volumes/my-data")
    assert spec.cwd == str(root / "volumes/my-data/sub/in")
    folder = Path(spec.env["AIINFRA_SERVICE_ACCOUNT"])
    assert (folder / "token").read_text() == "token-1"


async def test_nobody_else_gets_below_a_pods_folder(make, facts):
    await make().pod(make_pod())
    for path in (facts.folder, facts.folder / "pods", facts.folder / "pods/uid-p"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((facts.folder / "pods/uid-p/pod.json").stat().st_mode) == 0o600


async def test_a_pod_is_taken_up_again_after_a_restart(make, facts):
    volumes = [{"name": "v", "emptyDir": {}}]
    limits = {"limits": {GPU: "1"}}
    pods = [
        make_pod(
            name,
            volumes=volumes,
            subdomain="job",
            containers=[make_container(volumes=volumes, resources=limits)],
        )
        for name in ("p", "q", "r")
    ]
    before = make(gpus=3)
    specs = [await started(before, pod) for pod in pods]
    (specs[0].mounts[0].source / "x").write_text("1")
    inode = (facts.folder / "pods/uid-p/hosts").stat().st_ino
    await before.forget("uid-q")
    after = make(gpus=3)
    assert after.uids() == ["uid-p", "uid-r"]
    fresh = make_pod("s", containers=[make_container(resources=limits)])
    new = (await started(after, fresh)).labels
    assert new["gpus"] == "1"
    assert new["ip"] not in {spec.labels["ip"] for spec in specs}
    assert await after.pod(pods[2]) == specs[2].labels["ip"]
    again = await started(after, pods[0])
    assert again.labels == specs[0].labels
    assert (again.mounts[0].source / "x").read_text() == "1"
    assert (facts.folder / "pods/uid-p/hosts").stat().st_ino == inode


async def test_preparing_twice_changes_nothing(make):
    preparation = make()
    pod = make_pod(volumes=[{"name": "v", "emptyDir": {}}])
    first = await started(preparation, pod)
    assert await started(preparation, pod) == first


async def test_a_folder_without_a_whole_record_is_begun_anew(make, facts):
    folder = facts.folder / "pods/uid-p"
    folder.mkdir(parents=True)
    (folder / "pod.json").write_text('{"pod": "p", "na')
    preparation = make()
    assert preparation.uids() == ["uid-p"]
    assert await preparation.pod(make_pod()) == "127.64.0.1"
    await preparation.forget("uid-p")
    assert preparation.uids() == []


async def test_forgetting_leaves_nothing_but_the_data_of_claims(make, api, facts, tmp_path):
    data = tmp_path / "claimed"
    data.mkdir()
    api.objects |= {
        f"{CORE}/persistentvolumeclaims/data": {
            "metadata": {"uid": "c"},
            "spec": {"volumeName": "pv"},
            "status": {"phase": "Bound"},
        },
        "/api/v1/persistentvolumes/pv": {
            "spec": {"claimRef": {"uid": "c"}, "hostPath": {"path": str(data)}}
        },
    }
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]
    preparation = make()
    spec = await started(preparation, make_pod(volumes=volumes, subdomain="job"))
    (spec.mounts[0].source / "kept").write_text("1")
    await preparation.forget("uid-p")
    await preparation.forget("uid-p")
    assert list((facts.folder / "pods").iterdir()) == []
    assert list(facts.shared.rglob("*.json")) == []
    assert (data / "kept").read_text() == "1"


async def test_siblings_on_two_nodes_find_each_other(make, tmp_path):
    here, there = make(), make(name="n1", number=1, folder=tmp_path / "n1")
    first = make_pod("job-0-x", hostname="job-0", subdomain="job")
    second = make_pod("job-1-y", hostname="job-1", subdomain="job")
    await here.pod(first)
    await there.pod(second)
    hosts = tmp_path / "n0/pods/uid-job-0-x/hosts"
    assert "job-1.job" not in hosts.read_text()
    assert "127.64.0.1\tjob-0.job" in (tmp_path / "n1/pods/uid-job-1-y/hosts").read_text()
    await here.siblings()
    assert "127.65.0.1\tjob-1.job" in hosts.read_text()
    there.ended("uid-job-1-y")
    await here.siblings()
    assert "\n127.65.0.1\tjob-1.job" not in hosts.read_text()


async def test_the_gpus_of_a_pod_that_has_ended_are_free_for_others(make):
    limits = {"limits": {GPU: "2"}}
    pods = [make_pod(name, containers=[make_container(resources=limits)]) for name in "ab"]
    preparation = make(gpus=2)
    spec = await started(preparation, pods[0])
    assert spec.env["CUDA_VISIBLE_DEVICES"] == "0,1"
    with pytest.raises(ConfigProblem, match="2 are asked for, and 0 of 2 are free"):
        await started(preparation, pods[1])
    preparation.ended("uid-a")
    assert (await started(preparation, pods[1])).labels["gpus"] == "0,1"


async def test_a_refresh_brings_new_contents_to_prepared_pods_alone(make, api):
    api.config_map("cm", a="1")
    pod = make_pod(volumes=[{"name": "v", "configMap": {"name": "cm"}}])
    preparation = make()
    await preparation.refresh(pod)
    file = (await started(preparation, pod)).mounts[0].source / "a"
    assert file.read_text() == "1"
    api.config_map("cm", a="2")
    await preparation.refresh(pod)
    assert file.read_text() == "2"


async def test_a_pods_own_choice_of_gpus_stays_within_them(make):
    env = [{"name": "CUDA_VISIBLE_DEVICES", "value": "0"}]
    limits = {"limits": {GPU: "1"}}
    pods = [make_pod(name, containers=[make_container(resources=limits, env=env)]) for name in "ab"]
    preparation = make(gpus=2)
    specs = [await started(preparation, pod) for pod in pods]
    assert [spec.env["CUDA_VISIBLE_DEVICES"] for spec in specs] == ["0", "1"]
    none = make_pod("c", containers=[make_container(env=env)])
    assert (await started(preparation, none)).env["CUDA_VISIBLE_DEVICES"] == ""


async def test_problems_have_the_reasons_of_kubernetes(make):
    preparation = make()
    with pytest.raises(ImageProblem, match="nginx") as problem:
        await started(preparation, make_pod(containers=[make_container(image="nginx")]))
    assert problem.value.reason == "ErrImagePull"
    volumes = [{"name": "v", "configMap": {"name": "none"}}]
    with pytest.raises(VolumeProblem, match='configmap "none" not found') as late:
        await preparation.pod(make_pod("q", volumes=volumes))
    assert late.value.reason == "ContainerCreating"


@pytest.mark.parametrize(
    ("pod_context", "own", "expected"),
    [
        ({}, {}, (None, None)),
        ({"runAsUser": 1000}, {}, (1000, None)),
        ({"runAsUser": 1000, "runAsGroup": 7}, {"runAsUser": 2000}, (2000, 7)),
        ({"runAsUser": 1000, "fsGroup": 9}, {"runAsNonRoot": True}, (1000, 9)),
        ({"runAsUser": 1000, "fsGroup": 9}, {"runAsGroup": 7}, (1000, 7)),
    ],
)
async def test_root_runs_containers_as_whom_the_pod_asks(make, as_root, pod_context, own, expected):
    pod = make_pod(containers=[make_container(securityContext=own)], securityContext=pod_context)
    spec = await started(make(), pod)
    assert (spec.user, spec.group) == expected
    assert (spec.env["HOME"] == "/") == (spec.user is not None)


async def test_without_a_view_of_its_own_a_container_runs_as_the_agent(make, as_root):
    pod = make_pod(securityContext={"runAsUser": 1000, "runAsGroup": 7, "fsGroup": 9})
    spec = await started(make(isolated=False), pod)
    assert (spec.user, spec.group) == (None, None)


async def test_who_is_not_root_runs_containers_as_himself(make, monkeypatch):
    monkeypatch.setattr(preparation_module.os, "geteuid", lambda: 1000)
    context = {"runAsUser": 2000, "runAsNonRoot": True}
    pod = make_pod(containers=[make_container(securityContext=context)])
    assert (await started(make(), pod)).user is None


@pytest.mark.parametrize(
    ("context", "isolated", "sentence"),
    [
        ({"runAsNonRoot": True}, True, "image will run as root"),
        ({"runAsNonRoot": True, "runAsUser": 0}, True, "runAsUser breaks non-root policy"),
        ({"runAsNonRoot": True, "runAsUser": 1000}, False, "image will run as root"),
    ],
)
async def test_who_must_not_be_root_is_not(make, as_root, context, isolated, sentence):
    pod = make_pod(containers=[make_container(securityContext=context)])
    with pytest.raises(ConfigProblem, match=sentence):
        await started(make(isolated=isolated), pod)


@pytest.mark.parametrize(
    ("pod_fields", "fields", "sentence"),
    [
        ({"runtimeClassName": "gvisor"}, {}, 'no runtime class "gvisor"'),
        ({}, {"volumeDevices": [{"name": "v"}]}, "no block devices"),
        ({}, {"ports": [{"containerPort": 80, "hostPort": 8080}]}, "hostPort 8080 does not lead"),
    ],
)
async def test_what_would_be_missed_is_refused(make, pod_fields, fields, sentence):
    pod = make_pod(containers=[make_container(**fields)], **pod_fields)
    with pytest.raises(ConfigProblem, match=sentence):
        await started(make(), pod)


async def test_what_takes_nothing_away_is_ignored(make):
    container = make_container(
        ports=[{"containerPort": 80, "hostPort": 80}, {"containerPort": 81}],
        securityContext={"privileged": True, "capabilities": {"drop": ["ALL"]}},
    )
    pod = make_pod(containers=[container], hostNetwork=True, runtimeClassName="nvidia")
    assert (await started(make(), pod)).argv == ("sh",)


async def test_pods_that_come_together_get_different_addresses(make):
    preparation = make()
    ips = await asyncio.gather(*(preparation.pod(make_pod(f"p{n}")) for n in range(30)))
    assert len(set(ips)) == 30


async def test_the_agents_own_user_may_be_asked_for(make, as_root):
    context = {"runAsUser": os.getuid()}
    pod = make_pod(containers=[make_container(securityContext=context)])
    spec = await started(make(), pod)
    assert spec.user == os.getuid()
