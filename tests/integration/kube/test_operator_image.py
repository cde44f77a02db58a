"""The image for operators is really built, and one runs from it in a pod that may do nothing."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml
from image_building import ROOT, docker, image, node_image, python_image, write_context

from aiinfra_lab.kube.clients import kubernetes
from aiinfra_lab.kube.provider import Access, Wishes, get_provider

sys.path.insert(0, str(ROOT / "scripts"))

NAME = f"operator-{os.getpid()}"
LIMIT_S = 120.0  # to act takes 5 s; a machine under load takes many times that
INSTALLED = """\
import json, os
from importlib.metadata import distributions
import kopf, kubernetes.client
import aiinfra_lab.kube.clients, aiinfra_lab.observability, aiinfra_lab.settings
print(json.dumps({
    "packages": {one.metadata["Name"].lower(): one.version for one in distributions()},
    "user": [os.getuid(), os.getgid()],
    "writable": [name for name in ("/", "/operator", "/operator/bin", "/root", "/etc")
                 if os.access(name, os.W_OK)],
}))
"""
OPERATOR = '''\
"""Says to each ConfigMap that asks for it what the operator may do."""
import os
from pathlib import Path

import kopf


@kopf.on.event("configmaps", labels={"ask": kopf.PRESENT})
def answer(patch, **_):
    try:
        Path("/operator/file").write_text("")
    except OSError as error:
        patch.metadata.labels["disk"] = str(error.errno)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    patch.metadata.labels["user"] = str(os.getuid())
    patch.metadata.labels["capabilities"] = status["CapBnd"].strip()
'''
# The API server itself refuses pods here that could do more than they must.
MANIFESTS = """\
apiVersion: v1
kind: Namespace
metadata: {name: course, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: operator, namespace: course}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: operator, namespace: course}
rules:
- {apiGroups: [""], resources: [configmaps], verbs: [get, list, watch, patch]}
- {apiGroups: [""], resources: [events], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: operator, namespace: course}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: operator}
subjects: [{kind: ServiceAccount, name: operator, namespace: course}]
---
# kopf looks for both, and tries for a minute before it takes a refusal for one.
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: operator-looks}
rules:
- {apiGroups: [""], resources: [namespaces], verbs: [list, watch]}
- {apiGroups: [apiextensions.k8s.io], resources: [customresourcedefinitions], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: operator-looks}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: operator-looks}
subjects: [{kind: ServiceAccount, name: operator, namespace: course}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: operator, namespace: course}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app: operator}}
  template:
    metadata: {labels: {app: operator}}
    spec:
      serviceAccountName: operator
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      containers:
      - name: operator
        image: IMAGE
        imagePullPolicy: Never
        args: [run, --standalone, --namespace=course, --liveness=http://0.0.0.0:8080/healthz,
               /handlers/answers.py]
        startupProbe:
          {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, failureThreshold: 120}
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities: {drop: [ALL]}
        volumeMounts: [{name: handlers, mountPath: /handlers}]
      volumes: [{name: handlers, configMap: {name: handlers}}]
"""


@pytest.fixture(scope="module")
def base() -> str:
    return python_image()


@pytest.fixture(scope="module")
def operator_image(base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    context = write_context(tmp_path_factory.mktemp("operator") / "course")
    with (
        image(context, "operator.Dockerfile", base=base, target="build"),
        image(context, "operator.Dockerfile", base=base, target="operator") as tag,
    ):
        yield tag


@pytest.fixture(scope="module")
def access(request: pytest.FixtureRequest, base: str) -> Iterator[Access]:
    """A cluster of one node with the image, which is built while the cluster comes up."""
    provider, nodes = get_provider("kind"), node_image(request.config)
    with ThreadPoolExecutor() as beside:
        coming = beside.submit(provider.up, NAME, Wishes(node_image=nodes))
        try:
            tag = request.getfixturevalue("operator_image")
            coming.result()
            yield provider.up(NAME, Wishes(images=[tag]))
        finally:
            if coming.exception() is None:
                provider.down(NAME)


@pytest.mark.needs("kind", "kubernetes")
def test_an_operator_acts_without_a_name_rights_or_a_disk(
    access: Access, operator_image: str
) -> None:
    api, create = access.client(), kubernetes().utils.create_from_dict
    manifests = list(yaml.safe_load_all(MANIFESTS.replace("IMAGE", operator_image)))
    handlers = {"metadata": {"name": "handlers"}, "data": {"answers.py": OPERATOR}}
    asking = {"metadata": {"name": "early", "labels": {"ask": "yes"}}}
    create(api.api_client, manifests[0])
    for body in (handlers, asking):
        api.create_namespaced_config_map("course", body)
    for manifest in manifests[1:]:
        create(api.api_client, manifest)
    # 30 is EROFS: nobody may write there.
    expected = {"ask": "yes", "user": "10001", "disk": "30", "capabilities": "0" * 16}
    assert labels(api, "early") == expected, told(api)
    asking["metadata"]["name"] = "late"
    api.create_namespaced_config_map("course", asking)
    assert labels(api, "late") == expected, told(api)
    assert api.read_namespaced_config_map("handlers", "course").metadata.labels is None
    assert until(lambda: ready(api)), told(api)  # it says itself that it is well


@pytest.mark.needs("docker")
def test_it_holds_what_the_lock_names_and_nothing_that_installs(operator_image: str) -> None:
    from pins import read_pins

    locked = {pin.name: pin.version for pin in read_pins((ROOT / "requirements.lock").read_text())}
    words = ["--network", "none", "--entrypoint", "python", operator_image, "-c", INSTALLED]
    seen = json.loads(docker("run", "--rm", *words))
    found = {name.replace("_", "-"): version for name, version in seen["packages"].items()}
    assert {"kopf", "kubernetes", "aiinfra-lab"} <= found.keys()
    assert {n: v for n, v in found.items() if locked.get(n) != v}.keys() == {"aiinfra-lab"}
    assert not {"pip", "hatchling", "numpy"} & found.keys()
    assert seen["user"] == [10001, 10001]
    assert seen["writable"] == []
    said = docker("run", "--rm", "--network", "none", "--read-only", operator_image)
    assert said.startswith("Usage: kopf run")


def labels(api: Any, name: str) -> dict[str, str]:
    """The labels of a ConfigMap, once the operator has said what there is to say."""

    def now() -> dict[str, str]:
        found: dict[str, str] = api.read_namespaced_config_map(name, "course").metadata.labels
        return found

    until(lambda: "capabilities" in now())
    return now()


def ready(api: Any) -> bool:
    """Whether the operator's pod is ready."""
    (pod,) = api.list_namespaced_pod("course").items
    return any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions)


def until(condition: Callable[[], bool]) -> bool:
    """Whether it becomes true in time."""
    last = time.monotonic() + LIMIT_S
    while not (holds := condition()) and time.monotonic() < last:
        time.sleep(0.1)
    return holds


def told(api: Any) -> str:
    """What the operator's pods and their containers say."""
    said = []
    for pod in api.list_namespaced_pod("course").items:
        said.append(str(pod.status.container_statuses or pod.status.conditions))
        try:
            said.append(api.read_namespaced_pod_log(pod.metadata.name, "course"))
        except kubernetes().client.ApiException as error:
            said.append(str(error))
    return "\n".join(said) or "there is no pod"
