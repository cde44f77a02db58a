"""The downward API: a pod's own fields and resources, as text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from aiinfra_lab.kube.node.problems import PodProblem
from aiinfra_lab.kube.node.provision.quantity import ceiling, milli, parse_quantity, whole
from aiinfra_lab.kube.ports import HOST

Object = dict[str, Any]
_SUBSCRIPT = re.compile(r"(metadata\.(?:labels|annotations))\['(.*)'\]", re.DOTALL)
_RESOURCES = ("cpu", "memory", "ephemeral-storage")


def field_text(pod: Object, path: str, problem: type[PodProblem], *, ip: str | None = None) -> str:
    """A field of the pod, by the paths that the downward API knows.

    Parameters
    ----------
    pod : dict
        The pod, as the API has it.
    path : str
        Such as ``metadata.labels['app']``. All labels or annotations give one ``key="value"`` a
        line.
    problem : type
        What to raise.
    ip : str, optional
        The pod's address; files have no ``status`` and ``spec`` fields, so they give none.

    Raises
    ------
    PodProblem
        As ``problem``: the downward API has no such field.
    """
    metadata, spec = pod["metadata"], pod.get("spec", {})
    if found := _SUBSCRIPT.fullmatch(path):
        values: Mapping[str, str] = metadata.get(found[1].partition(".")[2]) or {}
        return values.get(found[2], "")
    if path in ("metadata.labels", "metadata.annotations"):
        pairs = sorted((metadata.get(path.partition(".")[2]) or {}).items())
        return "\n".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in pairs)
    if path in ("metadata.name", "metadata.namespace", "metadata.uid"):
        return str(metadata.get(path.partition(".")[2], ""))
    if ip is not None:
        addresses = {"podIP": ip, "podIPs": ip, "hostIP": HOST, "hostIPs": HOST}
        group, _, name = path.partition(".")
        if group == "status" and name in addresses:
            return addresses[name]
        if path == "spec.serviceAccountName":
            return str(spec.get("serviceAccountName") or "default")
        if path == "spec.nodeName":
            return str(spec.get("nodeName", ""))
    raise problem(f"unsupported fieldPath: {path}")


def resource_text(
    pod: Object,
    container: Object | None,
    selector: Object,
    capacity: Mapping[str, str],
    problem: type[PodProblem],
) -> str:
    """A container's limit or request, in units of the selector's divisor, rounded up.

    ``container`` is the one that asks; a selector with a ``containerName`` means another. A
    missing limit is ``capacity``, the node's as its status shows it; a missing request is 0.

    Raises
    ------
    PodProblem
        As ``problem``: the downward API has no such resource, or the pod no such container.
    """
    name = selector.get("containerName")
    if name:
        everyone = [*pod["spec"].get("containers", []), *pod["spec"].get("initContainers", [])]
        container = next((one for one in everyone if one["name"] == name), None)
    if container is None:
        raise problem(f"container {name} not found")
    group, _, resource = str(selector.get("resource", "")).partition(".")
    if group not in ("limits", "requests") or resource not in _RESOURCES:
        raise problem(f"unsupported container resource : {selector.get('resource')}")
    amounts = (container.get("resources") or {}).get(group) or {}
    amount = amounts.get(resource, "0")
    if group == "limits" and not parse_quantity(amount):
        amount = capacity[resource]
    divisor = selector.get("divisor") or "1"
    if not parse_quantity(divisor):
        divisor = "1"
    count = milli if resource == "cpu" else whole
    return str(ceiling(Decimal(count(amount)) / count(divisor)))
