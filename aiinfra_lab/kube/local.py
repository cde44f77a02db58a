"""A real Kubernetes on this machine: etcd, API server, controllers, scheduler, nodes as children.

The control plane is Kubernetes itself, not an imitation: what an operator or kubectl sees is what
a big cluster shows. Its nodes run pods as processes of this machine, without an image's isolation:
they are no place for code that is not trusted.

Any number may run side by side, each in its own folder and on its own ports. All of it ends with
the process that started it, whatever ends that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from asyncio import CancelledError
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from aiinfra_lab.errors import AIInfraLabError, InputError, ProcessError
from aiinfra_lab.kube.components import (
    APISERVER,
    COMPONENTS,
    CONTROLLERS,
    ETCD,
    SCHEDULER,
    checked_component,
)
from aiinfra_lab.kube.control_plane import ControlPlane, Interrupted
from aiinfra_lab.kube.credentials import ADMIN_GROUP, Credentials
from aiinfra_lab.kube.node.provision.images import ImageTable
from aiinfra_lab.kube.nodes import LocalNodes, checked_count
from aiinfra_lab.kube.place import Place, Record
from aiinfra_lab.kube.programs import find_programs
from aiinfra_lab.kube.storage import STORAGE_CLASS, STORAGE_CLASSES
from aiinfra_lab.processes import Child, HttpAnswers, Service

READY_S = 120.0  # it needs 3 to 5 s; this is for a machine under heavy load
MOST_GPUS = 64


class LocalCluster(Service):
    """One control plane; it ends with this process, whatever ends that.

    Parameters
    ----------
    name : str
        Its name, and by default its folder: ``clusters/<name>`` in the course's home, where
        ``aiinfra cluster status`` and ``logs`` look too.
    folder : str or Path, optional
        Another folder.
    nodes : int
        How many nodes it has, 0 to 8. Without one, pods stay Pending.
    gpus : int, optional
        How many ``nvidia.com/gpu`` each node says it has; None counts the real ones.
    port : int
        Of the API server; 0 takes the one of last time if it is free, else any.
    keep : bool
        Whether its state outlives ``stop``, and a state that was kept is taken up.
    durable : bool
        Whether every write waits for the disk. Without it nothing is lost when processes die,
        only when the machine does.
    crds : sequence of dict or Path
        CustomResourceDefinitions, or YAML files of them. They are there before the controllers
        start: the garbage collector looks for new kinds only every 30 s.
    flags : mapping, optional
        More flags by component: ``{"kube-apiserver": ["--emulated-version=kube=1.34"]}``.
    timeout : float
        Seconds that one component may take to become healthy.
    detached : bool
        For the record: this process is a supervisor that ``aiinfra cluster down`` may end.

    Examples
    --------
    >>> with LocalCluster("demo") as cluster:  # doctest: +SKIP
    ...     pods = cluster.client("CoreV1Api").list_pod_for_all_namespaces()
    """

    provider = "local"

    def __init__(
        self,
        name: str = "local",
        *,
        nodes: int = 1,
        gpus: int | None = None,
        folder: str | os.PathLike[str] | None = None,
        port: int = 0,
        keep: bool = False,
        durable: bool = False,
        crds: Sequence[dict[str, Any] | str | os.PathLike[str]] = (),
        flags: Mapping[str, Sequence[str]] | None = None,
        timeout: float = READY_S,
        detached: bool = False,
    ) -> None:
        if not 0 <= port <= 65535:
            raise InputError(f"the port is {port}", needed="0 (any free one) to 65535")
        if gpus is not None and not 0 <= gpus <= MOST_GPUS:
            raise InputError(f"a node cannot have {gpus} GPUs", needed=f"0 to {MOST_GPUS}")
        self.place = Place(name, None if folder is None else Path(folder))
        self.node_count, self.gpus = checked_count(nodes), gpus
        self.keep, self.durable, self.timeout = keep, durable, timeout
        self.flags = {checked_component(key): list(value) for key, value in (flags or {}).items()}
        self._crds, self._detached = crds, detached
        self._port = port
        self._plane: ControlPlane | None = None
        self._nodes: LocalNodes | None = None
        self._credentials: Credentials | None = None
        self._record: Record | None = None
        self._called_off = threading.Event()
        self._lock = threading.RLock()

    # What can be asked.

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.place.name

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig with the administrator's rights; the file has mode 0600."""
        return self.place.kubeconfig

    @property
    def url(self) -> str:
        """Where the API server answers, from the first start on."""
        return self._running().plan.url

    @property
    def record(self) -> Record:
        """What ``aiinfra cluster status`` shows: phase, version, parts and their times."""
        if self._record is None:
            raise RuntimeError(f"cluster {self.name} was not started")
        return self._record

    @property
    def credentials(self) -> Credentials:
        """The authority, for more users and for nodes."""
        if self._credentials is None:
            raise RuntimeError(f"cluster {self.name} was not started")
        return self._credentials

    def child(self, component: str) -> Child:
        """The process of ``kube-apiserver``, ``node-1``, ``node-1-runtime`` and so on."""
        return self._running().children[self._checked(component)]

    def client(self, api: str = "CoreV1Api") -> Any:
        """A client of the ``kubernetes`` package with the administrator's rights, such as
        ``client("BatchV1Api")``."""
        from aiinfra_lab.kube.clients import client

        return client(self.kubeconfig, api)

    # Start.

    def start(self) -> Self:
        """Start the control plane; returns when it takes pods.

        Raises
        ------
        MissingNeed
            Its programs are not here, or not whole.
        InputError
            The name is in use, the port is taken, or a folder cannot be written.
        ProcessError
            A component ended, or did not become healthy in time; its last lines say why.
        """
        with self._lock:
            programs = find_programs(COMPONENTS)
            ImageTable()  # a mistake in the setting is told before anything runs
            self._take_place(programs)
            try:
                self._start()
            except BaseException as error:
                self._fail(error)
                raise
        return self

    async def start_async(self) -> Self:
        """As ``start``; a cancelled start leaves nothing."""
        work = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            return await asyncio.shield(work)
        except CancelledError:
            self._called_off.set()
            with contextlib.suppress(Interrupted):
                await work
                await asyncio.to_thread(self.stop)
            raise

    def call_off(self) -> None:
        """Have a start that runs in another thread end with ``Interrupted``."""
        self._called_off.set()

    def _take_place(self, programs: Mapping[str, Path]) -> None:
        if self._record is not None and self._record.phase in ("starting", "ready"):
            raise RuntimeError(f"cluster {self.name} runs already")
        if not self.place.hold():
            raise self._in_use()
        plane = ControlPlane(
            self.place,
            programs,
            port=self._port,
            durable=self.durable,
            flags=self.flags,
            timeout=self.timeout,
            called_off=self._called_off,
        )
        try:
            last = self.place.read()
            # This process holds the place, so a phase of running is a killed holder's.
            if last is not None and last.keep and not self.keep:
                raise InputError(
                    f"cluster {self.name} has a state that was kept",
                    fix=f"Take it up with keep=True, or: aiinfra cluster down --name {self.name}",
                )
            plane.reserve({part.name: part.port for part in last.parts} if last else {})
            self.place.end_leftovers()
            if not self.keep:
                self.place.clear()
            for folder in (self.place.pki, self.place.logs, self.place.pids):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except BaseException:
            plane.end()
            self.place.release()
            raise
        self._plane = plane

    def _in_use(self) -> InputError:
        record = self.place.read()
        who = f" by process {record.pid}" if record else ""
        return InputError(
            f"cluster {self.name} is in use{who}",
            fix=f"Choose another name, or: aiinfra cluster down --name {self.name}",
        )

    def _start(self) -> None:
        began = time.monotonic()
        self._begin_record()
        plane = self._running()
        self._credentials = Credentials(self.place.pki, self.name)
        self._credentials.issue()
        self._write_kubeconfigs()
        for component in (ETCD, APISERVER):
            plane.launch(component)
            self._await(component)
        self._nodes = nodes = LocalNodes(
            self.place, plane, self._credentials, count=self.node_count, gpus=self.gpus
        )
        nodes.clear()
        self._add_storage_class()
        if self._crds:
            from aiinfra_lab.kube.clients import apply_crds

            plane.check("its CustomResourceDefinitions")
            apply_crds(self.kubeconfig, self._crds, self.timeout)
        # Side by side: none needs another to start.
        for component in (CONTROLLERS, SCHEDULER):
            plane.launch(component)
        for process in nodes.processes:
            nodes.launch(process)
        for component in (CONTROLLERS, SCHEDULER):
            self._await(component)
        # Until the controllers have made it, no pod is admitted.
        account = f"{self.url}/api/v1/namespaces/default/serviceaccounts/default"
        probe = HttpAnswers(account, status=200, tls=plane.plan.admin())
        plane.wait_for(APISERVER, probe, "the service account of the namespace default")
        for process in nodes.processes:
            self._await(process)
        record = self.record
        record.url, record.version = self.url, plane.version()
        record.start_s, record.phase = round(time.monotonic() - began, 3), "ready"
        self.place.write(record)

    def _begin_record(self) -> None:
        from aiinfra_lab.processes import tree

        self._record = Record(
            name=self.name,
            phase="starting",
            pid=os.getpid(),
            start_time=tree.start_time(os.getpid()) or 0.0,
            keep=self.keep,
            detached=self._detached,
        )
        self.place.write(self._record)

    def _write_kubeconfigs(self) -> None:
        credentials, url = self.credentials, self.url
        for name in (CONTROLLERS, SCHEDULER):
            user = f"system:{name}"
            path = self.place.pki / f"{name}.kubeconfig"
            credentials.kubeconfig(path, url, user, credentials.user(user))
        admin = credentials.user("admin", ADMIN_GROUP)
        credentials.kubeconfig(self.kubeconfig, url, "admin", admin)

    def _add_storage_class(self) -> None:
        status, answer = self._running().request("POST", STORAGE_CLASSES, STORAGE_CLASS)
        if status not in (201, 409):  # 409: of a state that was kept
            raise ProcessError(f"the StorageClass was refused: {answer.get('message')}")

    def _checked(self, component: str) -> str:
        return checked_component(component, *(self._nodes.processes if self._nodes else ()))

    def _await(self, component: str) -> None:
        if self._nodes is not None and component in self._nodes.processes:
            part = self._nodes.await_ready(component)
        else:
            part = self._running().await_healthy(component, self._write_kubeconfigs)
        record = self.record
        old = next((known for known in record.parts if known.name == component), None)
        part.restarts = old.restarts + 1 if old else 0
        record.parts = [*(known for known in record.parts if known.name != component), part]
        self.place.write(record)

    def _running(self) -> ControlPlane:
        if self._plane is None:
            raise RuntimeError(f"cluster {self.name} does not run")
        return self._plane

    # While it runs.

    def restart(self, component: str) -> None:
        """End one component and start it again on its port; returns when it is healthy.

        The others wait for it by themselves, as on every cluster.
        """
        component = self._checked(component)
        with self._lock:
            self.child(component).stop()
            if self._nodes is not None and component in self._nodes.processes:
                self._nodes.launch(component)
            else:
                self._running().launch(component)
            self._await(component)

    def ended(self) -> list[str]:
        """The components that have ended by themselves."""
        return self._running().ended()

    # The end.

    def stop(self) -> None:
        """End everything in order, within 3 s; may be called again."""
        with self._lock:
            if self._record is None or self._record.phase in ("stopped", "failed"):
                return
            self._record.phase = "stopping"
            with contextlib.suppress(OSError):
                self.place.write(self._record)
            self._settle("stopped")

    async def stop_async(self) -> None:
        """As ``stop``."""
        await asyncio.shield(asyncio.to_thread(self.stop))

    def fail(self, error: AIInfraLabError) -> None:
        """As ``stop``, because of ``error``: the record says so, and the logs stay."""
        with self._lock:
            if self._record is not None and self._record.phase not in ("stopped", "failed"):
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        called_off = isinstance(error, Interrupted | KeyboardInterrupt)
        if self._record is not None:
            self._record.sentence = "" if called_off else str(error)
        self._settle("stopped" if called_off else "failed")

    def _settle(self, phase: Literal["stopped", "failed"]) -> None:
        """End the children, keep or remove the folder, and let the place go."""
        try:
            if self._nodes is not None:
                self._nodes.note_volumes()
            if self._plane is not None:
                self._plane.end()
        finally:
            self._plane = self._nodes = None
            self._called_off.clear()
            if self._record is not None:
                self._record.phase = phase
            with contextlib.suppress(OSError):
                if not self.keep and phase == "stopped":
                    self.place.remove()
                elif self._record is not None:  # after a failure its logs say why
                    self.place.write(self._record)
            self.place.release()

    def __repr__(self) -> str:
        phase = self._record.phase if self._record else "not started"
        return f"<LocalCluster {self.name} {phase}>"
