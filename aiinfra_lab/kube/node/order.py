"""What the agent's program is told at its start: one JSON object in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from aiinfra_lab.errors import InputError

_PATHS = ("folder", "shared", "cert", "key", "ca")
_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "number": (int,),
    "url": (str,),
    "gpus": (int, type(None)),
    "labels": (dict,),
    "pods": (int,),
    "images": (dict, type(None)),
}


@dataclass(frozen=True, kw_only=True)
class Order:
    """One node.

    Attributes
    ----------
    name, number : str, int
        Its name, and its number among the cluster's nodes, from which pods get their addresses.
    folder : Path
        Its own: ``pods``, ``runtime`` (where the runtime listens), ``port`` (written when ready).
    shared : Path
        Common to all nodes of the cluster.
    url : str
        The API server's.
    cert, key, ca : Path
        Its certificate, whose user is ``system:node:<name>``, and the cluster's authority.
    gpus : int, optional
        How many it says it has; by default the machine's own are counted.
    labels : mapping
        More labels of the Node.
    pods : int
        How many pods it takes.
    images : mapping, optional
        The table of images; by default the settings'.
    """

    name: str
    number: int
    folder: Path
    shared: Path
    url: str
    cert: Path
    key: Path
    ca: Path
    gpus: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    pods: int = 1000
    images: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The order in a file.

        Raises
        ------
        InputError
            It cannot be read, or is none.
        """
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"the order {path} cannot be read", found=str(error)) from None
        return cls.from_json(found)

    @classmethod
    def from_json(cls, found: object) -> Self:
        """The same from a JSON object."""
        if not isinstance(found, dict):
            raise InputError("a node's order is a JSON object", found=type(found).__name__)
        names = {item.name for item in fields(cls)}
        needed = names - {"gpus", "labels", "pods", "images"}
        if unknown := sorted(set(found) - names):
            raise InputError(
                f"a node's order has no {unknown[0]!r}", needed=", ".join(sorted(names))
            )
        if missing := sorted(needed - set(found)):
            raise InputError(f"the node's order lacks {', '.join(missing)}")
        for name, value in found.items():
            kinds = _TYPES.get(name, (str,))
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise InputError(
                    f"{name} in the node's order is {value!r}",
                    needed=" or ".join(kind.__name__ for kind in kinds),
                )
        paths = {name: Path(found[name]) for name in _PATHS}
        return cls(**(found | paths))
