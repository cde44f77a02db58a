"""The Python that runs these tests, with all its packages, inside a pod."""

from __future__ import annotations

import sys
from typing import Any

from aiinfra_lab.kube.kind.config import environment_folders

from .api import Object
from .manifests import mount, volume
from .namespace import Namespace


def in_environment(ns: Namespace, template: Object) -> Object:
    """A pod's specification, so that ``python`` is this one; nothing is copied to any node.

    The processes of ``local`` have it already. The nodes of kind see its folders at their own
    paths, from where a pod mounts them.
    """
    if ns.provider != "kind":
        return template
    folders, _ = environment_folders()
    names = {f"environment-{number}": str(path) for number, path in enumerate(folders)}
    mounts = [mount(name, path, readOnly=True) for name, path in names.items()]
    volumes = [
        volume(name, hostPath={"path": path, "type": "Directory"}) for name, path in names.items()
    ]
    return {
        **template,
        "containers": [_container(one, mounts) for one in template["containers"]],
        "volumes": [*template.get("volumes", []), *volumes],
    }


def _container(one: Object, mounts: list[Any]) -> Object:
    program, *words = one["command"]
    assert program == "python", program
    return {
        **one,
        "command": [sys.executable, *words],
        "volumeMounts": [*one.get("volumeMounts", []), *mounts],
    }
