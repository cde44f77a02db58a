"""Where a cluster comes from, behind one protocol: the same chapter runs on each.

``local`` makes one out of processes, ``existing`` takes the one of a kubeconfig. Another is one
class with these four methods and one line in ``PROVIDERS``.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube.place import Record


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


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a user may ask of ``up``; a provider refuses what it cannot give."""

    port: int = 0
    crds: Sequence[Path] = ()
    kubeconfig: Path | None = None
    context: str | None = None
    timeout: float = 120.0


class ClusterProvider(Protocol):
    """Makes clusters by name, or takes them, and lets them go."""

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
    "existing": ("aiinfra_lab.kube.existing", "ExistingProvider"),
}


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
