"""A kind cluster that ends with the process that made it, as one of ``local`` does.

Containers are Docker's and outlive whoever asked for them. So a keeper, a process of its own, reads
from a pipe of which the maker has the other end: whatever ends the maker, also ``kill -9``, closes
it, and the keeper takes the cluster down.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiinfra_lab.errors import AIInfraLabError, InputError
from aiinfra_lab.kube.kind.removal import data_folder
from aiinfra_lab.kube.place import Place, Record
from aiinfra_lab.kube.provider import Access, Wishes, get_provider


class KindCluster:
    """One cluster of containers; it ends with this process, whatever ends that.

    Parameters
    ----------
    name : str
        Docker knows clusters by their names, so one that another process has is refused.
    nodes : int
        How many nodes beside that of the control plane, which takes pods too.
    gpus, images, node_image, timeout
        As in ``Wishes``.

    Examples
    --------
    >>> with KindCluster("demo") as cluster:  # doctest: +SKIP
    ...     pods = cluster.client("CoreV1Api").list_pod_for_all_namespaces()
    """

    provider = "kind"

    def __init__(
        self,
        name: str,
        *,
        nodes: int = 1,
        gpus: int | None = None,
        images: Sequence[str] = (),
        node_image: str | None = None,
        timeout: float = 120.0,
    ) -> None:
        if nodes < 1:
            raise InputError(f"{nodes} nodes take no pods", needed="at least 1")
        self.place = Place(name)
        self._wishes = Wishes(
            workers=nodes, gpus=gpus, images=images, node_image=node_image, timeout=timeout
        )
        self._keeper: subprocess.Popen[bytes] | None = None
        self._access: Access | None = None
        self._record: Record | None = None

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.place.name

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig with the administrator's rights."""
        return self.place.kubeconfig

    @property
    def claims(self) -> Path:
        """The folder of this machine in which the data of claims lies."""
        return data_folder(self.place)

    @property
    def record(self) -> Record:
        """What was known of it when it had started: version, time, and its nodes as parts."""
        if self._record is None:
            raise RuntimeError(f"cluster {self.name} was not started")
        return self._record

    def client(self, api: str = "CoreV1Api") -> Any:
        """A client of the ``kubernetes`` package, such as ``client("BatchV1Api")``."""
        if self._access is None:
            raise RuntimeError(f"cluster {self.name} does not run")
        return self._access.client(api)

    def start(self) -> Self:
        """Create it; returns when all its nodes are ready.

        Raises
        ------
        MissingNeed, ProcessError
            As ``KindProvider.up``.
        InputError
            There is one of that name already; or as ``KindProvider.up``.
        """
        if self.place.read() is not None:
            raise InputError(
                f"there is a cluster {self.name} already",
                fix=f"Choose another name, or: aiinfra cluster down --name {self.name}",
            )
        kind = get_provider("kind")
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", __name__, self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # what is sent to this process's group is not for it
        )
        try:
            self._access = kind.up(self.name, self._wishes)
            self._record = kind.record(self.name)
        except BaseException:
            # What was begun is undone; what is there now under this name is somebody else's.
            self._keeper.kill()
            self._let_keeper_go()
            raise
        return self

    def stop(self) -> None:
        """Remove it to the last container; may be called again.

        Raises
        ------
        ProcessError
            As ``KindProvider.down``; the keeper tries again when this process ends.
        """
        if self._keeper is None:
            return
        _end(self.place)
        self._access = None
        self._let_keeper_go()

    def _let_keeper_go(self) -> None:
        if self._keeper is not None:
            self._keeper.communicate()
            self._keeper = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _end(place: Place) -> None:
    if place.read() is not None:  # nobody has taken it down by hand
        get_provider("kind").down(place.name)


def _keep(name: str) -> None:
    """Wait until the maker of the cluster has ended, then end the cluster."""
    sys.stdin.buffer.read()
    try:
        _end(Place(name))
    except AIInfraLabError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _keep(sys.argv[1])
