"""Other people's clusters: asked before they are used; and manifests, flags, providers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from aiinfra_lab.cli.main import run
from aiinfra_lab.errors import InputError, MissingNeed
from aiinfra_lab.kube.clients import read_crds
from aiinfra_lab.kube.components import COMPONENTS, Plan, checked_component
from aiinfra_lab.kube.control_plane import _environment
from aiinfra_lab.kube.existing import RIGHTS, Right, check_access
from aiinfra_lab.kube.local import LocalCluster
from aiinfra_lab.kube.provider import PROVIDERS, Wishes, get_provider
from aiinfra_lab.settings import settings

pytestmark = pytest.mark.needs("kubernetes")


@dataclass
class Api:
    """An API server's manners: a version, and who may do what."""

    version: str = "v1.33.1"
    status: int = 200
    denied: set[str] = field(default_factory=set)
    asked: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer({"gitVersion": made.version, **dict.fromkeys(VERSION, "x")})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            wanted = body["spec"]["resourceAttributes"]
            made.asked.append(wanted)
            allowed = f"{wanted['verb']} {wanted['resource']}" not in made.denied
            self.answer({**body, "status": {"allowed": allowed}})

        def answer(self, document: dict[str, Any]) -> None:
            status = {"kind": "Status", "message": "Unauthorized"}
            text = json.dumps(document if made.status == 200 else status).encode()
            self.send_response(made.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    yield made
    server.shutdown()
    server.server_close()


VERSION = [
    "major",
    "minor",
    "gitCommit",
    "gitTreeState",
    "buildDate",
    "goVersion",
    "compiler",
    "platform",
]


def kubeconfig(path: Path, url: str) -> Path:
    contexts = [{"name": name, "context": {"cluster": name, "user": name}} for name in ("a", "b")]
    urls = {"a": url, "b": "http://127.0.0.1:1"}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": urls[name]}} for name in urls],
        "users": [{"name": name, "user": {"token": f"secret-{name}"}} for name in urls],
        "contexts": contexts,
        "current-context": "a",
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_cluster_that_allows_everything_is_taken(api, tmp_path):
    assert check_access(kubeconfig(tmp_path / "k", api.url)) == "v1.33.1"
    assert len(api.asked) == len(RIGHTS)
    log = next(one for one in api.asked if one["subresource"])
    assert (log["verb"], log["resource"], log["subresource"]) == ("get", "pods", "log")


def test_every_right_that_lacks_is_named(api, tmp_path):
    api.denied = {"create jobs", "delete namespaces"}
    with pytest.raises(MissingNeed, match=r"may not: delete namespaces, create jobs\.batch\."):
        check_access(kubeconfig(tmp_path / "k", api.url))


def test_a_cluster_that_is_too_old_is_refused_before_its_rights(api, tmp_path):
    api.version = "v1.27.16-eks-1"
    with pytest.raises(InputError, match=r"too old; found v1\.27\.16"):
        check_access(kubeconfig(tmp_path / "k", api.url))
    assert api.asked == []


@pytest.mark.parametrize("version", ["v1.31.0", "v1.36.2+k3s1", "v2.0.0"])
def test_a_cluster_that_is_new_enough(api, tmp_path, version):
    api.version = version
    assert check_access(kubeconfig(tmp_path / "k", api.url), rights=()) == version


@pytest.mark.parametrize("status", [401, 403, 500])
def test_an_account_that_is_not_let_in_is_one_sentence(api, tmp_path, status):
    api.status = status
    with pytest.raises(MissingNeed, match=r"does not let this account in; found Unauthorized"):
        check_access(kubeconfig(tmp_path / "k", api.url))


def test_a_dead_cluster_is_one_sentence(api, tmp_path):
    with pytest.raises(MissingNeed, match=r"no cluster answers.*refused") as caught:
        check_access(kubeconfig(tmp_path / "k", api.url), context="b")
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "context"),
    [("", None), ("{", None), ("a: 1", None), ("kind: Config", "nobody")],
    ids=["empty", "no YAML", "something else", "no such context"],
)
def test_a_kubeconfig_that_is_none_is_one_sentence(tmp_path, text, context):
    path = tmp_path / "k"
    path.write_text(text)
    with pytest.raises(InputError, match=r"the kubeconfig .* cannot be used"):
        check_access(path, context)
    with pytest.raises(InputError, match="cannot be used"):
        check_access(tmp_path / "absent")


def test_the_command_takes_a_context_shows_it_and_forgets_it(api, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AIINFRA_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    words = ["cluster", "up", "--provider", "existing", "--name", "mine"]
    source = str(kubeconfig(tmp_path / "k", api.url))
    assert run([*words, "--kubeconfig", source, "--context", "b"]) == 3
    assert run([*words, "--kubeconfig", source]) == 0
    copy = Path(capsys.readouterr().out.strip())
    assert copy.stat().st_mode & 0o777 == 0o600
    assert "secret-a" in copy.read_text()
    assert "secret-b" not in copy.read_text()  # one context, not the user's whole file
    assert run(["cluster", "kubeconfig", "--name", "mine"]) == 0
    assert run(["cluster", "status", "--name", "mine", "--json"]) == 0
    api.status = 401
    assert run(["cluster", "status", "--name", "mine"]) == 1
    assert run(["cluster", "logs", "etcd", "--name", "mine"]) == 2
    assert run(["cluster", "down", "--name", "mine"]) == 0
    assert run(["cluster", "status", "--name", "mine"]) == 2
    settings.cache_clear()


@pytest.mark.parametrize(
    "wishes",
    [
        ["--provider", "existing", "--port", "6443"],
        ["--provider", "local", "--context", "a"],
        ["--provider", "nowhere"],
        ["--name", "No Name"],
        ["--crd", "absent.yaml"],
    ],
    ids=["port", "context", "provider", "name", "crd"],
)
def test_wishes_that_cannot_be_met_end_with_two(wishes, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AIINFRA_HOME", str(tmp_path))
    for name in COMPONENTS:
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    settings.cache_clear()
    assert run(["cluster", "up", *wishes]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) <= 2
    assert not (tmp_path / "clusters").exists()
    settings.cache_clear()


def test_a_right_reads_as_kubectl_says_it():
    assert str(Right("create", "jobs", "batch")) == "create jobs.batch"
    assert str(Right("get", "pods", subresource="log")) == "get pods/log"


@pytest.mark.parametrize("name", PROVIDERS)
def test_every_provider_can_be_made(name):
    assert get_provider(name).record("nobody-has-this") is None


def test_unknown_providers_and_components_name_the_known_ones():
    with pytest.raises(InputError, match="There is: local"):
        get_provider("minikube")
    with pytest.raises(InputError, match="There is: etcd, kube-apiserver"):
        checked_component("kubelet")
    assert checked_component("scheduler") == "kube-scheduler"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "is no YAML"),
        ("- 1", "no Kubernetes object"),
        ("kind: Pod", "Pod is no CustomResourceDefinition"),
        ("kind: CustomResourceDefinition", "no metadata.name"),
    ],
)
def test_crds_are_checked_before_anything_starts(tmp_path, text, said):
    path = tmp_path / "crd.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_crds([path])


def test_the_programs_see_nothing_of_the_users_configuration(monkeypatch):
    for name in ("ETCD_NAME", "KUBECONFIG", "HTTPS_PROXY", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.setenv(name, "x")
    assert _environment().keys() <= {
        *("PATH", "HOME", "TMPDIR", "LANG", "TZ", "GOMAXPROCS", "GOGC", "GOMEMLIMIT")
    }


def test_own_flags_come_last(tmp_path):
    plan = Plan(tmp_path, tmp_path, dict.fromkeys(COMPONENTS, 1), flags={"etcd": ["--x=1"]})
    assert plan.words("etcd")[-1] == "--x=1"
    assert "--authorization-mode=Node,RBAC" in plan.words("kube-apiserver")
    assert not any("anonymous" in word for word in plan.words("kube-apiserver"))


@pytest.mark.parametrize("options", [{"port": -1}, {"name": "A"}, {"flags": {"kubelet": []}}])
def test_a_local_cluster_is_checked_when_it_is_made(options):
    with pytest.raises(InputError):
        LocalCluster(**options)


def test_wishes_have_defaults():
    assert Wishes().timeout > 60
