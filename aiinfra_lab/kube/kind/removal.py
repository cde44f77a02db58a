"""The end of a kind cluster: everything that it was made of is removed, or named.

kind removes its containers. What it cannot know is here: containers of a creation that was cut
off, volumes of containers that somebody removed by hand, and the data of claims, which pods have
written as root.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from aiinfra_lab.errors import ProcessError
from aiinfra_lab.files import write_json
from aiinfra_lab.kube.kind.engine import Engine, Node, run
from aiinfra_lab.kube.place import Place

_DELETE_S = 120.0  # kind needs 2 s
_TRIES, _LOOK_S = 5, 0.2
#: A daemon goes on with a request whose client was ended: for so long it may still make a node.
_LATE_S = 8.0


@dataclass(frozen=True)
class Made:
    """What a cluster was made of, for the day when its containers are not there to be asked."""

    image: str
    nodes: list[str]  # their containers' ids
    volumes: list[str]

    @classmethod
    def of(cls, image: str, nodes: Sequence[Node]) -> Made:
        """What the containers ``nodes`` were made of."""
        volumes = [name for node in nodes for name in node.volumes]
        return cls(image, [node.id for node in nodes], volumes)

    def write(self, place: Place) -> None:
        """Keep it in the cluster's place."""
        write_json(_made_file(place), asdict(self))

    @classmethod
    def read(cls, place: Place) -> Made:
        """What was kept; nothing where the cluster never came so far."""
        try:
            return cls(**json.loads(_made_file(place).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return cls("", [], [])


def data_folder(place: Place) -> Path:
    """The host's folder for the data of claims."""
    return place.root / "claims"


def own_nodes(
    place: Place, engine: Engine, *, all_own: bool = False
) -> tuple[list[Node], list[Node]]:
    """The nodes of kind's cluster of that name: those made from this place, and a stranger's.

    Parameters
    ----------
    all_own : bool
        Whether there was none when this process began to make them.
    """
    nodes, made, data = engine.nodes(place.name), Made.read(place), data_folder(place)
    own = [node for node in nodes if all_own or node.id in made.nodes or node.mounts(data)]
    return own, [node for node in nodes if node not in own]


def remove(place: Place, engine: Engine, kind: Path | None, *, coming: int = 0) -> list[str]:
    """Remove a cluster's containers, volumes and data; give what could not be removed.

    Parameters
    ----------
    kind : Path, optional
        The program; without it the containers are removed all the same.
    coming : int
        How many containers this process has had made, when their creation was ended: they are
        all its own, and some may still come up.
    """
    made = Made.read(place)
    image, volumes = made.image, set(made.volumes)
    own, strangers = own_nodes(place, engine, all_own=coming > 0)
    seen = set(own)
    if own and kind is not None and not strangers:
        words = ("delete", "cluster", "--name", place.name, "--kubeconfig", str(place.kubeconfig))
        with contextlib.suppress(ProcessError):  # what is left, is looked for below
            run((str(kind), *words), _DELETE_S)
    tries, last = 0, time.monotonic() + _LATE_S
    while True:
        own, _ = own_nodes(place, engine, all_own=coming > 0)
        seen.update(own)
        if own and tries < _TRIES:
            engine.remove(own)
            tries += 1
        elif own or len({node.id for node in seen}) >= coming or time.monotonic() > last:
            break
        time.sleep(_LOOK_S)
    image = next((node.image for node in seen), image)
    volumes.update(name for node in seen for name in node.volumes)
    if left := engine.volumes(volumes):
        engine.remove_volumes(left)
    return [
        *(f"the container {node.name}" for node in own),
        *(f"the volume {name}" for name in engine.volumes(volumes)),
        *(f"the folder {path}" for path in _remove_data(place, engine, image)),
    ]


def _remove_data(place: Place, engine: Engine, image: str) -> list[Path]:
    data = data_folder(place)
    shutil.rmtree(data, ignore_errors=True)
    if data.exists() and image:
        with contextlib.suppress(ProcessError):
            engine.empty(data, image)
        shutil.rmtree(data, ignore_errors=True)
    return [data] if data.exists() else []


def _made_file(place: Place) -> Path:
    return place.root / "made.json"
