"""The provider kind without a Docker: what kind is asked for, and how its words are read."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube.kind import config, image
from aiinfra_lab.kube.kind.config import MOST_WORKERS, TEMPLATE, NodePlan
from aiinfra_lab.kube.kind.engine import Engine, _node
from aiinfra_lab.kube.kind.image import (
    IMAGE_PLACES,
    NODE_IMAGE,
    NODE_IMAGE_KIND,
    archived,
    choose_image,
    made_here,
)
from aiinfra_lab.kube.kind.ready import skew
from aiinfra_lab.kube.kind.work import reason, step
from aiinfra_lab.kube.pins import read_pins
from aiinfra_lab.kube.place import Place, Record
from aiinfra_lab.kube.provider import PROVIDERS, Wishes, get_provider, refuse_unmet
from aiinfra_lab.kube.shared import find_shared
from aiinfra_lab.settings import settings

DATA = Path("/home/ana/claims")
KIND = find_shared(TEMPLATE, "the template")


def plan(**changes: object) -> NodePlan:
    made: dict[str, object] = {"name": "t", "image": "i:1", "workers": 0, "data": DATA}
    return NodePlan(**{**made, **changes})  # type: ignore[arg-type]


# What kind is asked for.


def test_the_template_is_a_configuration_of_kind_with_one_node():
    document = yaml.safe_load(KIND.read_text())
    assert (document["kind"], document["apiVersion"]) == ("Cluster", "kind.x-k8s.io/v1alpha4")
    assert [node["role"] for node in document["nodes"]] == ["control-plane"]
    patches = {p["kind"]: p for p in map(yaml.safe_load, document["kubeadmConfigPatches"])}
    (volume,) = patches["ClusterConfiguration"]["controllerManager"]["extraVolumes"]
    # The controller manager must see the folder under the very path that it writes into volumes.
    (mount,) = document["nodes"][0]["extraMounts"]
    assert volume["hostPath"] == volume["mountPath"] == mount["containerPath"] == "/tmp/hostpath_pv"
    assert patches["KubeletConfiguration"]["failCgroupV1"] is False


def test_every_node_gets_the_image_and_the_mounts():
    mounts = (Path("/opt/env"), Path("/opt/base python"))
    made = plan(workers=2, mounts=mounts, image="i:2").document(KIND)
    assert made["name"] == "t"
    assert [node["role"] for node in made["nodes"]] == ["control-plane", "worker", "worker"]
    for node in made["nodes"]:
        assert node["image"] == "i:2"
        data, *others = node["extraMounts"]
        assert data == {"hostPath": str(DATA), "containerPath": "/tmp/hostpath_pv"}
        assert others == [
            {"hostPath": str(path), "containerPath": str(path), "readOnly": True} for path in mounts
        ]


def test_names_that_mean_something_in_yaml_stay_names():
    odd = Path('/home/{a}/"x"\n  - &role #')
    made = plan(data=odd).document(KIND)
    again = yaml.safe_load(yaml.safe_dump(made))
    assert again == made
    assert again["nodes"][0]["extraMounts"][0]["hostPath"] == str(odd)
    assert len(again["nodes"]) == 1


def test_a_port_is_asked_for_only_where_it_is_wished():
    assert "networking" not in plan().document(KIND)
    assert plan(port=6443).document(KIND)["networking"] == {"apiServerPort": 6443}


def test_of_several_nodes_the_first_takes_pods_too():
    # kind opens a single one itself, and fails where that is done already.
    patches = [plan(workers=workers).document(KIND)["kubeadmConfigPatches"] for workers in (0, 1)]
    opened = [[yaml.safe_load(text)["kind"] for text in found] for found in patches]
    assert ["InitConfiguration" in kinds for kinds in opened] == [False, True]


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": -1},
        {"workers": MOST_WORKERS + 1},
        {"port": 65536},
        {"data": Path("/a:b")},
        {"mounts": (Path("relative"),)},
    ],
    ids=str,
)
def test_what_cannot_be_asked_for_is_refused(wrong):
    with pytest.raises(InputError):
        plan(**wrong)


@pytest.mark.parametrize(
    "text", ["", "- 1", "nodes: []", "nodes: [{role: a}]", "nodes: [{}, {}]", "a: [", "nodes: 1"]
)
def test_a_template_that_cannot_be_filled_in_is_one_sentence(tmp_path, text):
    path = tmp_path / "kind.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match="cannot be filled in") as caught:
        plan().document(path)
    assert "\n" not in str(caught.value)


# Which folders of this machine a node sees.


def test_this_python_and_this_code_are_seen_at_their_own_paths():
    folders, refused = config.environment_folders()
    if sys.platform != "linux":
        assert (folders, refused) == ([], [])
        return
    seen = [*folders, *refused]
    for path in (sys.prefix, sys.base_prefix, sys.executable, config.__file__):
        assert any(Path(path).is_relative_to(folder) for folder in seen), path
        # By the link's own name and by what it leads to: a python is a link into another folder.
        assert any(Path(path).resolve().is_relative_to(folder) for folder in seen), path


def test_a_folder_comes_with_the_one_around_it_and_by_both_names(tmp_path):
    (tmp_path / "python-3.11.7" / "env").mkdir(parents=True)
    (tmp_path / "python-3.11").symlink_to("python-3.11.7")
    inner, link = tmp_path / "python-3.11.7" / "env", tmp_path / "python-3.11"
    taken, refused = config._mountable([inner, link, link, tmp_path / "absent"])
    assert taken == [tmp_path / "python-3.11.7", link] or taken == [
        link,
        tmp_path / "python-3.11.7",
    ]
    assert refused == []


@pytest.mark.parametrize("path", ["/usr", "/usr/local", "/"])
def test_a_folder_that_a_node_runs_from_is_never_covered(path):
    taken, refused = config._mountable([path])
    assert taken == []
    assert Path(path) in refused


# Images.


def test_the_image_is_pinned_for_the_kind_that_is_pinned():
    assert image.is_pinned(NODE_IMAGE)
    assert image.checked_image(NODE_IMAGE)
    assert read_pins()["kind"].version == NODE_IMAGE_KIND
    # The minor version is that of the local provider: a chapter sees one Kubernetes on both.
    version = NODE_IMAGE.partition(":")[2].partition("@")[0]
    assert version.rpartition(".")[0] == read_pins()["kube-apiserver"].version.rpartition(".")[0]


def test_the_order_of_the_images():
    engine = Engine("docker")
    places = [lambda e: None, lambda e: "local:1", lambda e: "archive:1"]
    assert choose_image(engine, "mine:1", places) == "mine:1"
    assert choose_image(engine, None, places) == "local:1"
    assert choose_image(engine, None, places[:1]) == NODE_IMAGE
    assert choose_image(engine, None, ()) == NODE_IMAGE
    assert (made_here, archived) == IMAGE_PLACES


@pytest.mark.parametrize("name", ["", "-v", "--help", "a b", "a;b", "a@sha256:12", "a\n", "$(a)"])
def test_what_is_no_image_is_never_handed_to_a_command(name):
    with pytest.raises(InputError, match="is no image"):
        choose_image(Engine("docker"), name)


@pytest.mark.parametrize("name", ["a", "a:1", "localhost:5000/a/b:1.0", "A.b-c_d/e", NODE_IMAGE])
def test_what_is_an_image(name):
    assert choose_image(Engine("docker"), name) == name


# What the commands say.


def test_a_step_of_kind_is_read_without_its_ornaments():
    assert step(" \u2022 Preparing nodes \U0001f4e6 \U0001f4e6   ...") == "Preparing nodes"
    waiting = " \u2022 Waiting \u2264 3m0s for control-plane = Ready \u23f3  ..."
    assert step(waiting) == "Waiting up to 3m0s for control-plane = Ready"
    assert step(" \u2713 Preparing nodes \U0001f4e6") is None
    assert step('Creating cluster "t" ...') is None


KUBELET = "error execution phase wait-control-plane: the kubelet did not start"
INIT = f"""Creating cluster "t" ...
ERROR: failed to create cluster: failed to init node with kubeadm: command "docker exec x" failed

Command Output: I1124 initconfiguration.go:123] x
[kubelet-check] The kubelet is not healthy after 4m0s

error: {KUBELET}

k8s.io/kubernetes/cmd/kubeadm/app/cmd/phases/workflow.(*Runner).Run.func1
	runtime/asm_amd64.s:1700
"""
RUN = """ERROR: failed to create cluster: command "docker run --name t" failed with error: exit 125
Command Output: 0123
docker: Error response from daemon: driver failed: port is already allocated.
See 'docker run --help'.
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (INIT, f"failed to init node with kubeadm: error: {KUBELET}"),
        (RUN, "docker: Error response from daemon: driver failed: port is already allocated."),
        ("ERROR: failed to create cluster: unknown apiVersion", "unknown apiVersion"),
        ('ERROR: x: command "y" failed\nCommand Output: \nlast words', "x: last words"),
        ("panic: boom\n\n", "panic: boom"),
        ("", "it said nothing"),
        ("ERROR: first\nERROR: " + "x" * 900, "x" * 300),
    ],
    ids=["kubeadm", "docker", "plain", "unknown", "panic", "silent", "long"],
)
def test_the_reason_of_a_failure_is_one_line(text, said):
    assert reason(text) == said


def test_a_node_is_read_as_docker_and_as_podman_show_it():
    shown = {
        "Id": "1",
        "Name": "/t-control-plane",
        "State": {"Status": "exited"},
        "Config": {"Image": "i:1", "Labels": {"io.x-k8s.kind.role": "control-plane"}},
        "HostConfig": {"Binds": ["/home/ana/claims:/tmp/hostpath_pv"]},
        "Mounts": [
            {"Type": "volume", "Name": "v", "Source": "/var/lib/docker/v"},
            {"Type": "bind", "Source": "/host_mnt/home/ana/claims"},
        ],
    }
    node = _node(shown)
    assert (node.name, node.role, node.runs) == ("t-control-plane", "control-plane", False)
    assert node.volumes == ("v",)
    assert node.mounts(DATA)
    assert not node.mounts(DATA / "other")
    bare = {"Id": "1", "Name": "t", "State": {"Status": "running"}, "Config": {"Labels": None}}
    assert _node(bare).runs


@pytest.mark.parametrize(
    ("server", "fine"),
    [
        ("v1.36.4", True),
        ("v1.37.0", True),
        ("v1.35.1-eks-1", True),
        ("v1.38.0", False),
        ("v1.34.9", False),
        ("v2.36.0", False),
        ("unknown", False),
    ],
)
def test_kubectl_may_be_one_minor_version_away(server, fine):
    warning = skew(server, "v1.36.2")
    assert (warning is None) == fine
    if warning is not None:
        assert server in warning


# Wishes.


@pytest.mark.parametrize(
    ("provider", "wishes", "said"),
    [
        ("local", {"node_image": "a"}, r"takes no --node-image\. That is for kind\."),
        ("local", {"images": ["a"]}, r"takes no --load"),
        ("local", {"context": "a"}, r"takes no --context\. That is for existing\."),
        ("existing", {"port": 1}, r"takes no --port\. That is for local and kind\."),
        ("existing", {"workers": 1}, r"takes no --workers"),
        ("kind", {"kubeconfig": Path("a")}, r"takes no --kubeconfig"),
    ],
)
def test_a_wish_that_another_provider_meets_is_refused_with_its_name(provider, wishes, said):
    with pytest.raises(InputError, match=f"the provider {provider} {said}"):
        refuse_unmet(Wishes(**wishes), provider)


@pytest.mark.parametrize("provider", ["local", "kind", "existing"])
def test_what_every_provider_meets_is_refused_by_none(provider):
    refuse_unmet(Wishes(crds=[Path("a")], timeout=5.0, images=[]), provider)


# Names.


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("AIINFRA_HOME", str(tmp_path))
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_no_provider_touches_what_another_has_made(home, provider):
    (other, *_) = [name for name in PROVIDERS if name != provider]
    Place("t").write(Record("t", "stopped", 0, 0.0, True, provider=other))
    made = get_provider(provider)
    for act in (lambda: made.up("t", Wishes()), lambda: made.down("t")):
        with pytest.raises(InputError, match=f"belongs to the provider {other}"):
            act()
    assert Place("t").read() is not None


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_name_that_nobody_has_is_answered_with_those_that_there_are(home, provider):
    Place("mine").write(Record("mine", "stopped", 0, 0.0, True, provider=provider))
    with pytest.raises(InputError, match=r"no cluster 't'\. There is: mine\."):
        get_provider(provider).down("t")
