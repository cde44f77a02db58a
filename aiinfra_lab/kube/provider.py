"""Where a cluster comes from, behind one protocol: the same chapter runs on each.

``local`` makes one out of processes, ``kind`` out of containers, ``existing`` takes the one of a
kubeconfig. Another is one class with these four methods and one line in ``PROVIDERS``.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube.place import Place, Record, known_clusters


@dataclass(frozen=True)
class Access:
    """The way into a cluster that runs."""

    provider: str
    name: str
    kubeconfig: Path
    version: str
    url: str

    def client(self, api: str = "CoreV1Api") -> Any:
        """A client of the ``kubernetes`` package, such as ``client("BatchV1Api")``."""
        from aiinfra_lab.kube.clients import client

        return client(self.kubeconfig, api)

    @classmethod
    def to(cls, place: Place, record: Record) -> Access:
        """The way into the cluster that ``record`` describes."""
        return cls(record.provider, place.name, place.kubeconfig, record.version, record.url)


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a user may ask of ``up``; a provider refuses what it cannot give.

    Attributes
    ----------
    port : int
        Of the API server; 0 is any free one.
    crds : sequence of Path
        YAML files of CustomResourceDefinitions.
    kubeconfig, context
        Where a cluster is that exists.
    timeout : float
        Seconds that one step of the start may take.
    node_image : str, optional
        The container image of a node.
    workers : int
        Nodes beside the first.
    gpus : int, optional
        How many ``nvidia.com/gpu`` each node says it has; None: the real ones.
    images : sequence of str
        Local container images that pods are to find in the nodes.
    """

    port: int = 0
    crds: Sequence[Path] = ()
    kubeconfig: Path | None = None
    context: str | None = None
    timeout: float = 120.0
    node_image: str | None = None
    workers: int = 0
    gpus: int | None = None
    images: Sequence[str] = ()


class ClusterProvider(Protocol):
    """Makes clusters by name, or takes them, and lets them go.

    ``meets`` has the names of the ``Wishes`` that it can meet, beside those that each must.
    """

    meets: ClassVar[frozenset[str]]

    def up(self, name: str, wishes: Wishes) -> Access:
        """Have the cluster run, and return when it takes pods; one that runs is left as it is."""

    def down(self, name: str, *, keep: bool = False) -> None:
        """Have it gone; with ``keep`` its objects are there again after the next ``up``."""

    def record(self, name: str) -> Record | None:
        """What is known about it now; None where there is no such cluster."""

    def log(self, name: str, component: str) -> Path:
        """The file with a component's output."""


PROVIDERS = {
    "local": ("aiinfra_lab.kube.detached", "LocalProvider"),
    "kind": ("aiinfra_lab.kube.kind.provider", "KindProvider"),
    "existing": ("aiinfra_lab.kube.existing", "ExistingProvider"),
}
_ALL_MEET = {"crds", "timeout"}
_OPTIONS = {"images": "load"}  # where the command line calls a wish something else


def get_provider(name: str) -> ClusterProvider:
    """The provider called ``name``.

    Raises
    ------
    InputError
        There is none.
    """
    try:
        module, kind = PROVIDERS[name]
    except KeyError:
        raise InputError(
            f"there is no provider {name!r}", fix=f"There is: {', '.join(PROVIDERS)}."
        ) from None
    return cast(ClusterProvider, getattr(importlib.import_module(module), kind)())


def refuse_unmet(wishes: Wishes, provider: str) -> None:
    """Refuse wishes that ``provider`` cannot meet.

    Raises
    ------
    InputError
        There is one; the sentence says which provider meets it.
    """
    for wish in fields(wishes):
        value = getattr(wishes, wish.name)
        if wish.name in _ALL_MEET | get_provider(provider).meets or value in (wish.default, []):
            continue
        able = [name for name in PROVIDERS if wish.name in get_provider(name).meets]
        option = _OPTIONS.get(wish.name, wish.name.replace("_", "-"))
        raise InputError(
            f"the provider {provider} takes no --{option}", fix=f"That is for {' and '.join(able)}."
        )


def own_record(place: Place, provider: str) -> Record | None:
    """What is known about a cluster of ``provider``; None where there is none of that name.

    Raises
    ------
    InputError
        Another provider has made it.
    """
    record = place.read()
    if record is not None and record.provider != provider:
        raise InputError(f"the cluster {place.name} belongs to the provider {record.provider}")
    return record


def unknown_cluster(name: str) -> InputError:
    """The error that there is no such cluster, with those that there are."""
    names = ", ".join(place.name for place in known_clusters())
    return InputError(f"there is no cluster {name!r}", fix=f"There is: {names or 'none'}.")
