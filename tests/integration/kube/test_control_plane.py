"""One control plane for all of these: it is Kubernetes, with its rules on."""

from __future__ import annotations

import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from aiinfra_lab.errors import MissingNeed
from aiinfra_lab.kube import LocalCluster, check_access
from aiinfra_lab.kube.clients import kubernetes
from aiinfra_lab.kube.components import COMPONENTS
from aiinfra_lab.kube.storage import CLAIMS
from aiinfra_lab.tls import Authority, client_context

pytestmark = pytest.mark.needs("kube", "kubernetes")
T = TypeVar("T")


def eventually(look: Callable[[], T | None], seconds: float = 60.0) -> T:
    """What ``look`` gives, once it gives something."""
    last = time.monotonic() + seconds
    while not (value := look()):
        assert time.monotonic() < last, look
        time.sleep(0.05)
    return value


def get(cluster: LocalCluster, path: str, context: ssl.SSLContext) -> int:
    """The status of a request."""
    try:
        with urllib.request.urlopen(f"{cluster.url}{path}", context=context, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def trusted(cluster: LocalCluster) -> bytes:
    return cluster.credentials.authority.cert_pem


def test_it_is_ready_and_says_what_it_is(cluster):
    record = cluster.record
    assert record.phase == "ready"
    assert record.version.startswith("v1.")
    assert [part.name for part in record.parts] == [*COMPONENTS, "node-1-runtime", "node-1"]
    assert len({part.port for part in record.parts if part.port}) == len(COMPONENTS) + 1
    assert record.start_s > 0
    version = kubernetes().client.VersionApi(cluster.client().api_client).get_code()
    assert version.git_version == record.version


def test_its_files_are_its_owners_alone(cluster):
    assert cluster.kubeconfig.stat().st_mode & 0o777 == 0o600
    root = cluster.place.root
    assert root.stat().st_mode & 0o777 == 0o700
    for path in root.rglob("*"):
        if path.suffix in (".key", ".kubeconfig"):
            assert path.stat().st_mode & 0o777 == 0o600, path


def test_who_shows_nothing_may_ask_for_health_alone(cluster):
    nobody = client_context(trusted(cluster))
    assert get(cluster, "/readyz", nobody) == 200
    assert get(cluster, "/api/v1/namespaces", nobody) == 403


def test_a_certificate_of_another_authority_is_refused(cluster, tmp_path):
    stranger = Authority.create("stranger").issue(
        "admin", organizations=["system:masters"], client=True
    )
    cert, key = stranger.write(tmp_path, "stranger")
    context = client_context(trusted(cluster), cert=cert, key=key)
    assert get(cluster, "/api/v1/namespaces", context) == 401


def test_a_user_of_ours_may_do_what_a_role_says(cluster, namespace, tmp_path):
    context = client_context(trusted(cluster))
    context.load_cert_chain(*cluster.credentials.user("ana").write(tmp_path, "ana"))
    path = f"/api/v1/namespaces/{namespace}/pods"
    assert get(cluster, path, context) == 403
    cluster.client("RbacAuthorizationV1Api").create_namespaced_role_binding(
        namespace,
        {
            "metadata": {"name": "ana"},
            "roleRef": {
                "kind": "ClusterRole",
                "name": "view",
                "apiGroup": "rbac.authorization.k8s.io",
            },
            "subjects": [{"kind": "User", "name": "ana", "apiGroup": "rbac.authorization.k8s.io"}],
        },
    )
    assert eventually(lambda: get(cluster, path, context) == 200)
    assert get(cluster, f"/api/v1/namespaces/{namespace}/secrets", context) == 403


def test_etcd_lets_in_nobody_but_the_api_server(cluster, tmp_path):
    port = next(part.port for part in cluster.record.parts if part.name == "etcd")
    pki = cluster.place.pki
    ca = (pki / "etcd-ca.crt").read_bytes()
    url = f"https://127.0.0.1:{port}/version"
    allowed = client_context(ca, cert=pki / "etcd-client.crt", key=pki / "etcd-client.key")
    with urllib.request.urlopen(url, context=allowed, timeout=10) as answer:
        assert answer.status == 200
    # Not even the cluster's administrator: etcd has an authority of its own.
    for shown in (
        client_context(ca),
        client_context(ca, cert=pki / "admin.crt", key=pki / "admin.key"),
    ):
        with pytest.raises((urllib.error.URLError, OSError)):
            urllib.request.urlopen(url, context=shown, timeout=10)


@pytest.mark.parametrize("component", ["kube-controller-manager", "kube-scheduler"])
def test_each_part_has_its_own_account_and_no_more(cluster, component):
    from aiinfra_lab.kube.clients import client

    api = client(cluster.place.pki / f"{component}.kubeconfig", "AuthorizationV1Api")
    asked = {"verb": "*", "resource": "*", "group": "*"}
    review = {"spec": {"resourceAttributes": asked}}
    assert not api.create_self_subject_access_review(review).status.allowed


def test_a_node_may_change_itself_and_no_other(cluster, tmp_path):
    made = cluster.credentials.node("n1")
    path = cluster.credentials.kubeconfig(tmp_path / "node", cluster.url, "n1", made)
    from aiinfra_lab.kube.clients import client

    api = client(path)
    api.create_node({"metadata": {"name": "n1"}})
    refused = kubernetes().client.ApiException
    with pytest.raises(refused) as caught:
        api.create_node({"metadata": {"name": "n2"}})
    assert caught.value.status == 403
    cluster.client().delete_node("n1")


@pytest.fixture(scope="module")
def bare() -> Iterator[LocalCluster]:
    """A control plane alone."""
    with LocalCluster("bare", nodes=0) as made:
        yield made


POD = {
    "restartPolicy": "Never",
    "containers": [{"name": "main", "image": "busybox", "command": ["true"]}],
}


def test_without_a_node_a_pod_waits_with_the_schedulers_reason(bare):
    core, namespace = bare.client(), "default"
    bare.client("BatchV1Api").create_namespaced_job(
        namespace, {"metadata": {"name": "j"}, "spec": {"template": {"spec": POD}}}
    )

    def scheduled() -> Any:
        for pod in core.list_namespaced_pod(namespace, label_selector="job-name=j").items:
            for condition in pod.status.conditions or ():
                if condition.type == "PodScheduled":
                    return pod, condition
        return None

    pod, condition = eventually(scheduled)
    assert pod.status.phase == "Pending"
    assert pod.metadata.owner_references[0].name == "j"
    assert (condition.status, condition.reason) == ("False", "Unschedulable")
    assert "no nodes available" in condition.message


def test_a_deployment_gets_its_replica_set_and_its_pods(cluster, namespace):
    apps, core = cluster.client("AppsV1Api"), cluster.client()
    labels = {"app": "web"}
    spec = {"containers": POD["containers"]}
    apps.create_namespaced_deployment(
        namespace,
        {
            "metadata": {"name": "web"},
            "spec": {
                "replicas": 3,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        },
    )
    (replica_set,) = eventually(lambda: apps.list_namespaced_replica_set(namespace).items)
    assert replica_set.metadata.owner_references[0].name == "web"
    assert eventually(lambda: len(core.list_namespaced_pod(namespace).items) == 3)
    apps.delete_namespaced_deployment("web", namespace)
    # The garbage collector follows the owners.
    assert eventually(lambda: not core.list_namespaced_pod(namespace).items)


def test_a_volume_claim_is_bound_to_a_folder_that_goes_with_the_cluster():
    with LocalCluster("claims", nodes=0) as cluster:
        core = cluster.client()
        core.create_namespaced_persistent_volume_claim(
            "default",
            {
                "metadata": {"name": "data"},
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Mi"}},
                },
            },
        )

        def bound() -> str | None:
            claim = core.read_namespaced_persistent_volume_claim("data", "default")
            return claim.spec.volume_name if claim.status.phase == "Bound" else None

        volume = core.read_persistent_volume(eventually(bound))
        assert volume.spec.storage_class_name == "standard"  # the default
        folder = Path(volume.spec.host_path.path)
        assert folder.parent == CLAIMS
        assert folder.is_dir()
    assert not folder.exists()


def test_a_namespace_goes_with_everything_in_it(cluster):
    from aiinfra_lab.kube.pytest_plugin import new_namespace

    core = cluster.client()
    with new_namespace(cluster) as name:
        core.create_namespaced_config_map(name, {"metadata": {"name": "c"}, "data": {"a": "b"}})

    def gone() -> bool:
        return all(item.metadata.name != name for item in core.list_namespace().items)

    assert eventually(gone)


def test_it_can_be_taken_as_an_existing_cluster_with_the_rights_that_an_account_has(
    cluster, tmp_path
):
    assert check_access(cluster.kubeconfig) == cluster.record.version
    ana = cluster.credentials.user("ana")
    path = cluster.credentials.kubeconfig(tmp_path / "ana", cluster.url, "ana", ana)
    with pytest.raises(MissingNeed, match=r"may not: .*create jobs\.batch.*get pods/log"):
        check_access(path)
    assert check_access(path, rights=()) == cluster.record.version
