"""The logs of a kind cluster, fetched out of its nodes when they are asked for.

The names are those of the other providers' components, so that one command reads a scheduler's
log anywhere. A file is what there was when it was fetched: following it shows nothing more.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from aiinfra_lab.errors import InputError, ProcessError
from aiinfra_lab.kube.components import COMPONENTS
from aiinfra_lab.kube.kind.engine import Engine, last_line, run
from aiinfra_lab.kube.kind.removal import own_nodes
from aiinfra_lab.kube.place import Place

#: What kind and its commands have printed.
CREATION = "kind"
_UNITS = ("kubelet", "containerd")
_EXPORT_S = 180.0


def node_log(place: Place, engine: Engine, kind: Path, component: str) -> Path:
    """The log of a node's container, of a unit in it, or of a part of the control plane.

    Parameters
    ----------
    component : str
        A node's name; ``kubelet`` or ``containerd`` of the control plane's node, or
        ``NODE/kubelet``; or ``apiserver``, ``scheduler`` and so on.

    Raises
    ------
    InputError
        There is no such component, or it has written no log.
    ProcessError
        kind cannot fetch it.
    """
    nodes, _ = own_nodes(place, engine)
    for node in nodes:
        if component == node.name:
            target = place.logs / f"{node.name}.log"
            engine.write_log(node, target)
            return target
    first = next((node.name for node in nodes if node.role == "control-plane"), place.name)
    name, _, unit = component.rpartition("/")
    node_name = name or first
    parts = [part for part in COMPONENTS if unit in (part, part.removeprefix("kube-"))]
    if node_name not in [node.name for node in nodes] or not (unit in _UNITS or parts):
        there = [CREATION, *(node.name for node in nodes), *_UNITS, *COMPONENTS]
        raise InputError(
            f"there is no component {component!r}", fix=f"There is: {', '.join(there)}."
        )
    folder = _export(place, kind) / node_name
    if parts:
        found = folder.glob(f"containers/{parts[0]}-{node_name}_kube-system_*.log")
        files = sorted(found, key=lambda path: path.stat().st_mtime)
    else:
        files = [path for path in [folder / f"{unit}.log"] if path.is_file()]
    if not files:
        raise InputError(f"{component} of cluster {place.name} has written no log")
    return files[-1]


def _export(place: Place, kind: Path) -> Path:
    folder = place.logs / "export"
    shutil.rmtree(folder, ignore_errors=True)
    done = run((str(kind), "export", "logs", str(folder), "--name", place.name), _EXPORT_S)
    # It goes on where one file cannot be had, and ends with an error all the same.
    if done.returncode != 0 and not folder.is_dir():
        raise ProcessError(f"kind cannot fetch the logs: {last_line(done.stderr)}")
    return folder
