"""The objects that the cases are made of, short enough to be read in a case."""

from __future__ import annotations

from typing import Any

from .api import Object

#: What containers are of, where the suite has no image of its own for both.
PYTHON, SHELL = "python:3.12", "busybox:1.36"
# Volumes are mounted at paths that no machine has: on ``local`` a mount would hide what is there.
#: Waits for ever, but hears signals at once, also as the first process of its container.
LOOP = "while :; do sleep 600 & wait; done"
#: Ends at once when it is told to.
FOREVER = f"trap 'exit 0' TERM; {LOOP}"


def shell(script: str, name: str = "main", **fields: Any) -> Object:
    """A container that runs a script of plain POSIX sh."""
    return {"name": name, "image": SHELL, "command": ["sh", "-c", _literal(script)], **fields}


def python(script: str, name: str = "main", **fields: Any) -> Object:
    """A container that runs a Python script."""
    return {"name": name, "image": PYTHON, "command": ["python", "-uc", _literal(script)], **fields}


def of_image(item: Any, image: str) -> Any:
    """``item`` with ``image`` in the place of those that the cases name."""
    if isinstance(item, dict):
        return {key: of_image(value, image) for key, value in item.items()}
    if isinstance(item, list):
        return [of_image(value, image) for value in item]
    return image if item in (PYTHON, SHELL) else item


def _literal(script: str) -> str:
    """Without what Kubernetes itself would expand: ``$(A)`` and ``$$``."""
    return script.replace("$", "$$")


def spec(*containers: Object, **fields: Any) -> Object:
    """A pod's specification: never restarted, and with little patience at its end."""
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 2,
        "containers": list(containers),
        **fields,
    }


def pod(name: str, *containers: Object, labels: Object | None = None, **fields: Any) -> Object:
    """A pod."""
    metadata: Object = {"name": name, "labels": labels or {}}
    return {"kind": "Pod", "metadata": metadata, "spec": spec(*containers, **fields)}


def job(name: str, template: Object, *, labels: Object | None = None, **fields: Any) -> Object:
    """A Job of pods with the specification ``template``."""
    made = {"metadata": {"labels": labels or {}}, "spec": template}
    return {"kind": "Job", "metadata": {"name": name}, "spec": {"template": made, **fields}}


def env(**values: str | Object) -> list[Object]:
    """The variables of a container; one that is no text says where it comes from."""
    return [
        {"name": name, "value": value} if isinstance(value, str) else {"name": name, **value}
        for name, value in values.items()
    ]


def config(name: str, **data: str) -> Object:
    """A ConfigMap."""
    return {"kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def secret(name: str, **data: str) -> Object:
    """A Secret."""
    return {"kind": "Secret", "metadata": {"name": name}, "stringData": data}


def claim(name: str) -> Object:
    """A claim of the default class."""
    wanted = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Mi"}}}
    return {"kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": wanted}


def service(name: str, **labels: str) -> Object:
    """A headless Service that names its pods before they are ready."""
    wanted = {"clusterIP": "None", "selector": labels, "publishNotReadyAddresses": True}
    return {"kind": "Service", "metadata": {"name": name}, "spec": wanted}


def field(path: str) -> Object:
    """A ``valueFrom`` of one of the pod's own fields."""
    return {"fieldRef": {"fieldPath": path}}


def key(kind: str, name: str, entry: str, **more: Any) -> Object:
    """A ``valueFrom`` of a ConfigMap's or Secret's entry; ``kind`` is configMap or secret."""
    return {f"{kind}KeyRef": {"name": name, "key": entry, **more}}


def volume(name: str, **source: Any) -> Object:
    """A volume."""
    return {"name": name, **(source or {"emptyDir": {}})}


def mount(name: str, path: str, **more: Any) -> Object:
    """Where a container sees a volume."""
    return {"name": name, "mountPath": path, **more}


# What a status says.


def phase(found: Object) -> str:
    """A pod's phase."""
    return str(found.get("status", {}).get("phase", ""))


def condition(found: Object, kind: str) -> Object:
    """A condition; empty where there is none."""
    conditions = found.get("status", {}).get("conditions") or []
    return next((c for c in conditions if c["type"] == kind), {})


def holds(found: Object, kind: str) -> bool:
    """Whether a condition is true."""
    return condition(found, kind).get("status") == "True"


def status(found: Object, container: str = "main", *, init: bool = False) -> Object:
    """A container's status; empty where there is none yet."""
    name = "initContainerStatuses" if init else "containerStatuses"
    statuses = found.get("status", {}).get(name) or []
    return next((s for s in statuses if s["name"] == container), {})


def state(found: Object, kind: str, container: str = "main", *, init: bool = False) -> Object:
    """A container's state if it is ``kind`` (waiting, running, terminated), else nothing."""
    return (status(found, container, init=init).get("state") or {}).get(kind) or {}


def is_running(found: Object) -> bool:
    """Whether the container ``main`` runs."""
    return bool(state(found, "running"))


def waits(found: Object, container: str = "main") -> str:
    """Why a container waits."""
    return str(state(found, "waiting", container).get("reason", ""))


def ended(found: Object) -> bool:
    """Whether a pod has come to its end."""
    return phase(found) in ("Succeeded", "Failed")


def exit_code(found: Object, container: str = "main") -> int | None:
    """A container's exit code, once it has one."""
    return state(found, "terminated", container).get("exitCode")


def is_complete(found: Object) -> bool:
    """Whether a Job is complete."""
    return holds(found, "Complete")


def has_failed(found: Object) -> bool:
    """Whether a Job has failed."""
    return holds(found, "Failed")
