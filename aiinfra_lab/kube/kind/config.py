"""What kind is asked for: the template ``cluster/kind/cluster.yaml``, filled in as data.

Each node sees this environment's Python at its own paths, read-only: a pod that mounts them from
there runs the course's code without an image that holds it (a torch environment has 5 GB).
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiinfra_lab.errors import InputError

TEMPLATE = "kind/cluster.yaml"
MOST_WORKERS = 20
# Pods may run on the first node too, as on a cluster of processes. A single one kind opens itself,
# and fails where it is open already.
_FIRST_TAKES_PODS = "kind: InitConfiguration\nnodeRegistration:\n  taints: []\n"
#: A node has its own of these; over them a mount would hide what the node runs from.
_NODES_OWN = frozenset(map(Path, ("/", "/bin", "/lib", "/usr", "/usr/local", "/opt", "/var")))


@dataclass(frozen=True, kw_only=True)
class NodePlan:
    """What the template is filled with."""

    name: str
    image: str
    workers: int
    data: Path  # the host's folder for the data of claims
    mounts: tuple[Path, ...] = ()  # the host's folders, each at its own path
    port: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.workers <= MOST_WORKERS:
            raise InputError(
                f"{self.workers} workers cannot be made", needed=f"0 to {MOST_WORKERS}"
            )
        if not 0 <= self.port <= 65535:
            raise InputError(f"the port is {self.port}", needed="0 (any free one) to 65535")
        for folder in (self.data, *self.mounts):
            if ":" in str(folder) or not folder.is_absolute():
                raise InputError(
                    f"the folder {folder} cannot be mounted",
                    needed="an absolute path without a colon, which separates the parts of a mount",
                )

    def document(self, template: Path) -> dict[str, Any]:
        """The configuration for kind.

        Raises
        ------
        InputError
            The template is not what the provider fills in.
        """
        import yaml  # type: ignore[import-untyped]

        try:
            made: dict[str, Any] = yaml.safe_load(template.read_text("utf-8"))
            (node,) = made["nodes"]
            node["extraMounts"][0]["hostPath"] = str(self.data)
        except (OSError, UnicodeError, yaml.YAMLError, LookupError, TypeError, ValueError) as error:
            found = " ".join(str(error).split())
            raise InputError(
                f"the template {template} cannot be filled in",
                needed="one node, with the mount of the claims' data first",
                found=found,
            ) from None
        node["image"] = self.image
        node["extraMounts"] += [
            {"hostPath": str(path), "containerPath": str(path), "readOnly": True}
            for path in self.mounts
        ]
        workers = [copy.deepcopy(node) | {"role": "worker"} for _ in range(self.workers)]
        made["name"], made["nodes"] = self.name, [node, *workers]
        if workers:
            made.setdefault("kubeadmConfigPatches", []).append(_FIRST_TAKES_PODS)
        if self.port:
            made.setdefault("networking", {})["apiServerPort"] = self.port
        return made


def environment_folders() -> tuple[list[Path], list[Path]]:
    """The folders of this Python and of the course's code, and those that a node cannot take.

    A virtual environment's python is a link into the interpreter that made it, so both are needed,
    under the names that the link uses. Only Linux has programs that a node can run.
    """
    if sys.platform != "linux":
        return [], []
    package = Path(__file__).resolve().parents[2]
    return _mountable((sys.prefix, sys.base_prefix, package))


def _mountable(wanted: Iterable[str | Path]) -> tuple[list[Path], list[Path]]:
    named = [Path(path).absolute() for path in wanted]
    both = dict.fromkeys(name for path in named for name in (path, path.resolve()))
    refused = [path for path in both if path in _NODES_OWN]
    taken: list[Path] = []
    for path in sorted(both.keys() - set(refused), key=lambda path: len(path.parts)):
        # What lies within another one comes with it.
        if path.is_dir() and not any(path.is_relative_to(outer) for outer in taken):
            taken.append(path)
    return taken, refused
