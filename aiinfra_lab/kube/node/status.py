"""A pod's status from what is known of its containers: the rules of a kubelet, without effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from aiinfra_lab.kube.node.states import (
    ContainerView,
    Object,
    compact,
    container_entry,
    is_sidecar,
    timestamp,
)

TERMINAL = ("Succeeded", "Failed")
_NONE = ContainerView()


@dataclass(frozen=True, kw_only=True)
class PodView:
    """What is known of a pod beside its object.

    Attributes
    ----------
    containers : mapping
        By name, the init containers among them.
    over : bool
        Whether all has ended and nothing will be started again.
    ip, host_ip : str
        The pod's address ("" before it has one) and the node's.
    failure : tuple of str, optional
        Reason and message, where the pod as a whole failed, such as DeadlineExceeded.
    """

    containers: Mapping[str, ContainerView]
    over: bool = False
    ip: str = ""
    host_ip: str = "127.0.0.1"
    failure: tuple[str, str] | None = None

    def of(self, container: Object) -> ContainerView:
        """What is known of one container."""
        return self.containers.get(container["name"], _NONE)


def init_specs(pod: Object) -> list[Object]:
    """The init containers, in order."""
    return list(pod["spec"].get("initContainers") or ())


def main_specs(pod: Object) -> list[Object]:
    """The containers proper."""
    return list(pod["spec"]["containers"])


def is_terminal(pod: Object) -> bool:
    """Whether the pod has come to its end, for good."""
    return (pod.get("status") or {}).get("phase") in TERMINAL


def restarts(pod: Object, container: Object, exit_code: int) -> bool:
    """Whether a container that ended with ``exit_code`` is started again."""
    policy = container.get("restartPolicy") or pod["spec"].get("restartPolicy") or "Always"
    if policy == "Always" and not is_sidecar(container):
        # An init container that did its work is done under every policy of the pod.
        done = exit_code == 0 and any(c["name"] == container["name"] for c in init_specs(pod))
        return not done
    return bool(policy == "Always" or (policy == "OnFailure" and exit_code != 0))


def finished(pod: Object, view: PodView) -> bool:
    """Whether the containers have done, or can no more do, what the pod is for."""

    def final(container: Object) -> bool:
        ended = view.of(container).ended
        return ended is not None and not restarts(pod, container, ended.exit_code)

    mains = main_specs(pod)
    inits = [container for container in init_specs(pod) if not is_sidecar(container)]
    began = any(view.of(container).now is not None for container in mains)
    failed = any(final(c) and not view.of(c).succeeded for c in inits)
    return (failed and not began) or all(final(c) for c in mains)


def own_grace(pod: Object) -> float:
    """The seconds that a pod's containers get to end where nobody says otherwise."""
    grace = pod["spec"].get("terminationGracePeriodSeconds")
    return 30.0 if grace is None else float(grace)


def uninitialised(pod: Object, view: PodView) -> list[str]:
    """The init containers that the containers proper still wait for, by name."""
    # They never run before, so that one which has run settles it: a sidecar that is started
    # again later makes no pod new.
    if any(view.of(container).now is not None for container in main_specs(pod)):
        return []
    return [
        container["name"]
        for container in init_specs(pod)
        if not (
            view.of(container).running and view.of(container).started
            if is_sidecar(container)
            else view.of(container).succeeded
        )
    ]


def pod_status(pod: Object, view: PodView, now: datetime) -> Object:
    """The fields of the pod's status that a node decides.

    Parameters
    ----------
    pod : dict
        The pod; its status as far as it was written before.
    view : PodView
        What is known now.
    now : datetime
        Aware.

    Returns
    -------
    dict
        Empty once the phase in ``pod`` is terminal.
    """
    if is_terminal(pod):
        return {}
    pending, inits = uninitialised(pod, view), init_specs(pod)
    phase = _phase(pod, view, pending)
    blank = "PodInitializing" if pending else "ContainerCreating"
    status: Object = {
        "phase": phase,
        "hostIP": view.host_ip,
        "hostIPs": [{"ip": view.host_ip}],
        "startTime": (pod.get("status") or {}).get("startTime") or timestamp(now),
        "conditions": _conditions(pod, view, phase, pending, now),
        "containerStatuses": [
            container_entry(c, view.of(c), over=view.over, blank=blank) for c in main_specs(pod)
        ],
    }
    if inits:
        status["initContainerStatuses"] = [
            container_entry(c, view.of(c), over=view.over, blank="PodInitializing")
            | ({} if is_sidecar(c) else {"ready": view.of(c).succeeded})
            for c in inits
        ]
    if view.ip:
        status |= {"podIP": view.ip, "podIPs": [{"ip": view.ip}]}
    if view.failure and phase == "Failed":
        status["reason"], status["message"] = view.failure
    return status | _generation(pod)


def status_patch(pod: Object, status: Object) -> Object | None:
    """The strategic merge patch that makes ``pod``'s status ``status``; None: it is so already."""
    old = pod.get("status") or {}
    changed: Object = {}
    for key, value in status.items():
        if key == "conditions":
            known = {c["type"]: compact(c) for c in old.get("conditions") or ()}
            if new := [c for c in value if known.get(c["type"]) != compact(c)]:
                changed[key] = new
        elif compact(old.get(key)) != compact(value):
            # These merge by address: an old one would stay beside the new one.
            whole = key in ("podIPs", "hostIPs") and old.get(key)
            changed[key] = [{"$patch": "replace"}, *value] if whole else value
    if not changed:
        return None
    return {"metadata": {"uid": pod["metadata"]["uid"]}, "status": changed}


def _phase(pod: Object, view: PodView, pending: Sequence[str]) -> str:
    mains = [view.of(container) for container in main_specs(pod)]
    if view.over:
        good = not view.failure and all(main.succeeded for main in mains)
        return "Succeeded" if good else "Failed"
    return "Running" if not pending and all(main.now is not None for main in mains) else "Pending"


def _conditions(
    pod: Object, view: PodView, phase: str, pending: Sequence[str], now: datetime
) -> list[Object]:
    watched = [*filter(is_sidecar, init_specs(pod)), *main_specs(pod)]
    unready = [c["name"] for c in watched if not (view.of(c).running and view.of(c).ready)]
    initialized = _no("ContainersNotInitialized", "not complete", pending) if pending else _yes()
    containers = _no("ContainersNotReady", "not ready", unready) if unready else _yes()
    if phase in TERMINAL:
        containers = _no("PodCompleted" if phase == "Succeeded" else "PodFailed")
    found = {
        "PodReadyToStartContainers": _yes() if view.ip and not view.over else _no(),
        "Initialized": initialized,
        "ContainersReady": containers,
        "Ready": _gated(pod, containers),
    }
    known = {c["type"]: c for c in (pod.get("status") or {}).get("conditions") or ()}
    dated = []
    for kind, condition in found.items():
        old = known.get(kind, {})
        same = old.get("status") == condition["status"]
        since = (old.get("lastTransitionTime") if same else None) or timestamp(now)
        # Named though empty: a strategic merge keeps an old reason that nobody mentions.
        blank = {"type": kind, "reason": None, "message": None, "lastTransitionTime": since}
        dated.append(blank | condition | _generation(pod))
    return dated


def _gated(pod: Object, containers: Object) -> Object:
    """The condition Ready: its containers are, and the pod's readiness gates are open."""
    known = {c["type"]: c["status"] for c in (pod.get("status") or {}).get("conditions") or ()}
    gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates") or ()]
    closed = [gate for gate in gates if known.get(gate) != "True"]
    if closed and containers["status"] == "True":
        return _no("ReadinessGatesNotReady", "not true", closed)
    return containers


def _yes() -> Object:
    return {"status": "True"}


def _no(reason: str = "", what: str = "", names: Sequence[str] = ()) -> Object:
    message = f"{what}: {', '.join(names)}" if names else None
    why: Object = compact({"reason": reason or None, "message": message})
    return {"status": "False"} | why


def _generation(pod: Object) -> Object:
    """Since Kubernetes 1.34 a status says which specification it belongs to."""
    generation = pod["metadata"].get("generation")
    return {"observedGeneration": generation} if generation else {}
