"""What a new cluster still needs before it counts as ready: its nodes, its storage, its GPUs.

kind ends with status 0 also when its own wait was too short, and it waits for the control plane's
node alone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from aiinfra_lab.errors import ProcessError
from aiinfra_lab.kube.clients import api_client, call, client, error_message, kubernetes

_LOOK_S = 0.5
_CLASSES = "/apis/storage.k8s.io/v1/storageclasses"


def await_nodes(
    kubeconfig: Path, count: int, limit: float, check: Callable[[], None]
) -> dict[str, float]:
    """Wait until ``count`` nodes are ready; give the seconds after which each was seen to be.

    Raises
    ------
    ProcessError
        They are not within ``limit`` seconds; a node that lacks is named with the kubelet's words.
    """
    began, seen = time.monotonic(), dict[str, float]()
    with api_client(kubeconfig) as made:
        while True:
            waiting = [f"the API server at {made.configuration.host} does not answer"]
            if (answer := _asked(made, "GET", "/api/v1/nodes")) is not None:
                found = [(item["metadata"]["name"], _ready(item)) for item in answer["items"]]
                waiting = [f"{name}, which says: {why}" for name, why in found if why]
                now = time.monotonic() - began
                seen = {name: seen.get(name, now) for name, why in found if not why}
                if len(seen) >= count:
                    return seen
            if time.monotonic() > began + limit:
                what = waiting[0] if waiting else f"{count - len(seen)} of {count} nodes"
                raise ProcessError(f"not ready within {limit:g} s: {what}")
            check()
            time.sleep(_LOOK_S)


def use_shared_storage(kubeconfig: Path, wanted: dict[str, Any]) -> None:
    """Have ``wanted`` as the storage class of its name, also where the node image has another.

    Raises
    ------
    ProcessError
        The API server refuses it.
    """
    path = f"{_CLASSES}/{wanted['metadata']['name']}"
    with api_client(kubeconfig) as made:
        there = _asked(made, "GET", path)
        if there is not None and there.get("provisioner") == wanted["provisioner"]:
            return
        if there is not None:  # whose provisioner cannot be changed
            _asked(made, "DELETE", path)
        if _asked(made, "POST", _CLASSES, wanted) is None:
            raise ProcessError("the API server does not take the storage class of shared folders")


def advertise_gpus(kubeconfig: Path, nodes: Iterable[str], count: int) -> None:
    """Have each node say that it has ``count`` ``nvidia.com/gpu``, whatever it has.

    The scheduler then counts them, and a pod that asks for more says why it is Pending. The
    kubelet keeps a resource that it does not know itself, and makes it allocatable with its next
    report, which may be ten seconds away: until then that is said for it.

    Raises
    ------
    ProcessError
        The API server refuses it.
    """
    said = {"nvidia.com/gpu": str(count)}
    patch = {"status": {"capacity": said, "allocatable": said}}
    api = client(kubeconfig)
    with api.api_client:
        for name in nodes:
            try:
                api.patch_node_status(name, patch)
            except kubernetes().client.ApiException as error:
                raise ProcessError(f"node {name} takes no GPUs: {error_message(error)}") from None


def skew(server: str, client: str) -> str | None:
    """A warning where ``kubectl`` of version ``client`` is not made for ``server``, else None.

    One minor version apart is what Kubernetes' skew policy allows.
    """
    numbers = [re.match(r"v?(\d+)\.(\d+)", version) for version in (server, client)]
    if all(numbers):
        (major, minor), (ours, near) = (
            [int(n) for n in found.groups()] for found in numbers if found
        )
        if major == ours and abs(minor - near) <= 1:
            return None
    return f"the cluster runs Kubernetes {server}, and kubectl {client} may not understand it"


def _ready(node: dict[str, Any]) -> str:
    """Why the node is not ready; empty if it is."""
    for condition in (node.get("status") or {}).get("conditions") or []:
        if condition["type"] == "Ready":
            is_so = condition["status"] == "True"
            return "" if is_so else " ".join(str(condition.get("message") or "nothing").split())
    return "nothing yet"


def _asked(
    made: Any, method: str, path: str, body: dict[str, Any] | None = None
) -> dict[str, Any] | None:
    """The answer; None where there is none, or a refusal."""
    import urllib3

    try:
        status, answer = call(made, method, path, body)
    except (urllib3.exceptions.HTTPError, kubernetes().client.ApiException, ValueError):
        return None
    return answer if 200 <= status < 300 else None
