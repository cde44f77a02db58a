"""What a pod may ask of a node whose containers are processes of this machine.

Ignored, because nothing that the pod needs is missing: ``privileged``, ``capabilities.add``,
``hostNetwork``, ``hostPID``, ``hostIPC``, ``hostUsers``, ``shareProcessNamespace``,
``imagePullPolicy``, ``imagePullSecrets``, ``dnsPolicy``, ``dnsConfig``, a ``hostPort`` that is the
container's own port.

Ignored, because hardened manifests have them everywhere, though they take nothing away here:
``readOnlyRootFilesystem``, ``capabilities.drop``, ``allowPrivilegeEscalation``, ``seccompProfile``,
``appArmorProfile``, ``seLinuxOptions``, ``procMount``, ``sysctls``, ``supplementalGroups``, limits
of ephemeral storage. This node is not for code that is not trusted.

Refused, because the pod would run and do harm or be of no use: ``runAsNonRoot`` where it would be
root; a ``hostPort`` other than the container's port, where nobody would listen; a
``runtimeClassName`` that promises a sandbox; block devices; mountPropagation Bidirectional.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from aiinfra_lab.kube.node.problems import ConfigProblem
from aiinfra_lab.kube.node.provision.payload import Owner

Object = dict[str, Any]
# Runtime classes that are but ways to an ordinary container.
_PLAIN_CLASSES = frozenset({"", "runc", "crun", "nvidia"})


@dataclass(frozen=True)
class User:
    """Whom a container runs as; None: whom the agent runs as."""

    user: int | None = None
    group: int | None = None


def user_of(pod: Object, container: Object, *, may_change: bool) -> User:
    """Whom a container of ``pod`` runs as.

    Parameters
    ----------
    pod, container : dict
        The container's ``securityContext`` goes before the pod's. Without ``runAsGroup`` the
        ``fsGroup`` is its group: a process here has one group.
    may_change : bool
        Whether the agent is root and containers have their own view of the files; if not, who the
        pod wishes to be is ignored.

    Raises
    ------
    ConfigProblem
        ``runAsNonRoot`` is set and it would be root.
    """
    context = _context(pod, container)
    wished, name = context.get("runAsUser"), container["name"]
    group = context.get("runAsGroup", context.get("fsGroup"))
    if context.get("runAsNonRoot"):
        if wished == 0:
            raise ConfigProblem(f"container's runAsUser breaks non-root policy (container: {name})")
        if os.geteuid() == 0 and (wished is None or not may_change):
            raise ConfigProblem(
                f"container has runAsNonRoot and image will run as root (container: {name})",
                fix="Set runAsUser, or run the cluster as a user who is not root."
                if may_change
                else "Run the cluster as a user who is not root.",
            )
    if not may_change:
        return User()
    return User(wished, group)


def owner_of(pod: Object, *, may_change: bool) -> Owner:
    """Whom the files of a pod's volumes are for."""
    if not may_change:
        return Owner()
    spec = pod["spec"]
    containers = (*(spec.get("initContainers") or ()), *spec["containers"])
    users = {_context(pod, container).get("runAsUser") for container in containers}
    return Owner(
        users.pop() if len(users) == 1 else None,
        (spec.get("securityContext") or {}).get("fsGroup"),
    )


def check(pod: Object, container: Object) -> None:
    """Refuse what cannot be had here and would be missed.

    Raises
    ------
    ConfigProblem
        The pod asks for such a thing.
    """
    name = pod["spec"].get("runtimeClassName") or ""
    if name not in _PLAIN_CLASSES:
        raise ConfigProblem(f'this node has no runtime class "{name}": containers are processes')
    if container.get("volumeDevices"):
        raise ConfigProblem("this node has no block devices for volumeDevices")
    for port in container.get("ports") or ():
        asked, own = port.get("hostPort"), port["containerPort"]
        if asked and asked != own:
            raise ConfigProblem(
                f"hostPort {asked} does not lead to port {own}: containers share the machine's "
                "ports",
                fix=f"Have the container listen on {asked}, or leave hostPort out.",
            )


def _context(pod: Object, container: Object) -> Object:
    own = container.get("securityContext") or {}
    return {**(pod["spec"].get("securityContext") or {}), **own}
