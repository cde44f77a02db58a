"""The nodes of a local cluster: two processes each.

The runtime has the processes of the pods, the agent talks to the API server. They are apart so
that the agent can be restarted, or fall, while pods run: as on a machine with containerd and a
kubelet.
"""

from __future__ import annotations

import http.client
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiinfra_lab.errors import InputError
from aiinfra_lab.files import write_json
from aiinfra_lab.kube.control_plane import ControlPlane
from aiinfra_lab.kube.credentials import Credentials
from aiinfra_lab.kube.place import Part, Place
from aiinfra_lab.kube.runtime.place import socket_of
from aiinfra_lab.processes import Child
from aiinfra_lab.processes.probes import Probe
from aiinfra_lab.settings import settings

MOST = 8  # each costs some 90 MB
RUNTIME = "-runtime"
# Seconds between TERM and KILL: a runtime ends the containers that it has first.
AGENT_GRACE_S, RUNTIME_GRACE_S = 1.0, 3.0
_NODES = "/api/v1/nodes"


class LocalNodes:
    """The nodes of one cluster, called ``node-1`` and so on.

    Parameters
    ----------
    place, plane, credentials
        The cluster's.
    count : int
    gpus : int, optional
        How many ``nvidia.com/gpu`` each node says it has; None counts the real ones.
    """

    def __init__(
        self,
        place: Place,
        plane: ControlPlane,
        credentials: Credentials,
        *,
        count: int,
        gpus: int | None,
    ) -> None:
        self._place, self._plane, self._credentials = place, plane, credentials
        self._gpus = gpus
        self.names = [f"node-{number}" for number in range(1, count + 1)]

    @property
    def processes(self) -> list[str]:
        """The names of all their processes: ``node-1-runtime``, ``node-1``, ..."""
        return [word for name in self.names for word in (name + RUNTIME, name)]

    def launch(self, process: str) -> None:
        """Start one process; it need not be ready yet."""
        name = process.removesuffix(RUNTIME)
        folder = self._folder(name)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if process.endswith(RUNTIME):
            words, grace = ["aiinfra_lab.kube.runtime", str(folder / "runtime")], RUNTIME_GRACE_S
        else:
            (folder / "port").unlink(missing_ok=True)
            words, grace = ["aiinfra_lab.kube.node", str(self._order(name))], AGENT_GRACE_S
        argv = [sys.executable, "-P", "-m", *words]
        self._plane.start_child(process, argv, grace=grace, env=_environment())

    def await_ready(self, process: str) -> Part:
        """Wait until a process that was launched does its work; give what is known about it."""
        child = self._plane.children[process]
        if not process.endswith(RUNTIME):
            probe = NodeReady(process, self._folder(process) / "port", self._plane.request)
            port = self._plane.wait_for(process, probe, f"{process} to be ready for pods")
            return self._plane.part(process, child, port)
        socket = socket_of(self._folder(process.removesuffix(RUNTIME)) / "runtime")
        since = self._plane.wait_for(process, Listens(socket), f"{process} to listen")
        # Not when it was seen: others were waited for first.
        seconds = round(max(since - child.started_at, 0.0), 3)
        return replace(self._plane.part(process, child, 0), ready_s=seconds)

    def clear(self) -> None:
        """Remove what the pods of an earlier run have left, all but the volumes that last."""
        for name in self.names:
            shutil.rmtree(self._folder(name), ignore_errors=True)

    def note_volumes(self) -> None:
        """Write down where the claims' data lies, for whoever removes the cluster's place."""
        try:
            _, answer = self._plane.request("GET", "/api/v1/persistentvolumes")
        except (OSError, ValueError, http.client.HTTPException):
            return  # the server is gone; the agents have noted what they mounted
        specs = [volume["spec"] for volume in answer.get("items") or ()]
        paths = [spec["hostPath"]["path"] for spec in specs if "hostPath" in spec]
        if paths:
            self._place.volumes.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._place.volumes.open("a", encoding="utf-8") as file:
                file.writelines(f"{path}\n" for path in paths)

    def _folder(self, name: str) -> Path:
        return self._place.root / "nodes" / name

    def _order(self, name: str) -> Path:
        cert, key = self._credentials.node(name).write(self._place.pki, name)
        order = {
            "name": name,
            "number": self.names.index(name) + 1,
            "folder": str(self._folder(name)),
            "shared": str(self._place.volumes.parent),
            "url": self._plane.plan.url,
            "cert": str(cert),
            "key": str(key),
            "ca": str(self._place.pki / "ca.crt"),
            "gpus": self._gpus,
            "images": settings().images,
        }
        path = self._folder(name) / "order.json"
        write_json(path, order)
        return path


@dataclass(frozen=True)
class Listens(Probe[float]):
    """The child has made its socket; gives when, in seconds since the epoch."""

    socket: Path

    def watch(self, child: Child) -> Callable[[], float | None]:
        def look() -> float | None:
            made = self.socket.stat().st_mtime  # absent: not yet
            # The clock of files may lag behind by a tick.
            return made if made >= child.started_at - 0.05 else None

        return look


@dataclass(frozen=True)
class NodeReady(Probe[int]):
    """The agent serves, and the scheduler may use its node; gives the agent's port."""

    name: str
    port_file: Path
    request: Callable[[str, str], tuple[int, dict[str, Any]]]

    def __str__(self) -> str:
        return f"node {self.name} to be ready"

    def watch(self, child: Child) -> Callable[[], int | None]:
        def look() -> int | None:
            port = int(self.port_file.read_text("utf-8"))
            _, node = self.request("GET", f"{_NODES}/{self.name}")
            conditions = node.get("status", {}).get("conditions") or []
            ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
            # A new node has the taint not-ready until a controller has seen that it is.
            return port if ready and not node["spec"].get("taints") else None

        return look


def checked_count(count: int) -> int:
    """``count``, if a cluster may have so many nodes.

    Raises
    ------
    InputError
        It may not.
    """
    if not 0 <= count <= MOST:
        raise InputError(f"a local cluster cannot have {count} nodes", needed=f"0 to {MOST}")
    return count


def _environment() -> dict[str, str]:
    """This process's own, without what a shell or a test has set for Python's start."""
    dropped = ("PYTHONPATH", "PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONWARNINGS")
    return {name: value for name, value in os.environ.items() if name not in dropped}
