"""The node's own objects: Node and Lease, made, renewed, and made again if somebody deletes them.

All waiting is on a monotonic clock, so a machine whose clock jumps keeps its heartbeat; the
controllers, too, look only at whether a Lease changes, never at the time it names.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import shutil
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import psutil

from aiinfra_lab.kube.node.api import ApiAway, ApiError
from aiinfra_lab.kube.node.states import timestamp

Object = dict[str, Any]

LEASE_S = 40  # a node whose Lease is older counts as unreachable
_RENEW_S, _STATUS_S = 10.0, 60.0  # kubelet's own
_RETRY_S = 1.0
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_PRESSURES = {
    "MemoryPressure": ("KubeletHasSufficientMemory", "memory is not short"),
    "DiskPressure": ("KubeletHasNoDiskPressure", "the disk is not full"),
    "PIDPressure": ("KubeletHasSufficientPID", "there are process ids left"),
}

_log = logging.getLogger(__name__)


class NodeApi(Protocol):
    """What is needed of ``Api``."""

    async def get(self, path: str, **params: str) -> Object: ...
    async def create(self, path: str, body: Object) -> Object: ...
    async def patch(self, path: str, body: Object, *, strategy: Any = ...) -> Object: ...


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What a node says it has: bytes, processors, pods, GPUs (None: the resource is not named)."""

    cpus: int
    memory: int
    disk: int
    pods: int
    gpus: int | None = None

    @classmethod
    def of_this_machine(cls, folder: Path, *, pods: int, gpus: int | None) -> Capacity:
        """What this process may use; ``folder`` lies on the disk that counts."""
        return cls(
            cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cpus(),
            memory=psutil.virtual_memory().total,
            disk=shutil.disk_usage(folder).total,
            pods=pods,
            gpus=gpus,
        )

    def to_json(self) -> Object:
        """As ``status.capacity``."""
        found = {
            "cpu": str(self.cpus),
            "memory": f"{self.memory // 1024}Ki",
            "ephemeral-storage": f"{self.disk // 1024}Ki",
            "pods": str(self.pods),
        }
        return found if self.gpus is None else found | {"nvidia.com/gpu": str(self.gpus)}


@dataclass
class Registration:
    """One node's Node and Lease.

    Parameters
    ----------
    api : Api
        With the node's own certificate.
    name : str
        The node's name.
    capacity : Capacity
        What it has; all of it may be allocated.
    port : int
        Where its own HTTPS server listens.
    version : str
        The API server's, such as ``v1.36.2``: the agent does what that release asks of a node.
    labels : mapping
        More labels.
    features : sequence of str
        What the API server may take for granted: ``status.declaredFeatures``.
    host_ip : str
        Its address.
    renew_s, status_s : float
        Seconds between renewals of the Lease, and of the status where nothing changes.
    """

    api: NodeApi
    name: str
    capacity: Capacity
    port: int
    version: str
    labels: Mapping[str, str] = field(default_factory=dict)
    features: Sequence[str] = ()
    host_ip: str = "127.0.0.1"
    renew_s: float = _RENEW_S
    status_s: float = _STATUS_S

    def __post_init__(self) -> None:
        self._path, self._uid, self._since = f"/api/v1/nodes/{self.name}", "", timestamp(_now())
        self._changed = asyncio.Event()

    async def register(self) -> None:
        """Make the Node, or take over the one that is there, and the Lease.

        Raises
        ------
        ApiAway, ApiError
            It cannot be done now.
        """
        node = self._node()
        try:
            made = await self.api.create("/api/v1/nodes", node)
        except ApiError as error:
            if error.status != 409:
                raise
            labels = {"metadata": {"labels": node["metadata"]["labels"]}}
            made = await self.api.patch(self._path, labels)
            await self._report()
        self._uid = made["metadata"]["uid"]
        await self._renew()

    def change(self, capacity: Capacity) -> None:
        """Report another capacity, at once."""
        if capacity != self.capacity:
            self.capacity = capacity
            self._changed.set()

    async def keep(self) -> None:
        """Renew the Lease and report the status for ever."""
        loop = asyncio.get_running_loop()
        report_at, failed = loop.time() + self.status_s, False
        while True:
            try:
                if not failed:
                    await asyncio.wait_for(self._changed.wait(), self.renew_s)
            except TimeoutError:
                pass
            try:
                await self._renew()
                # A deleted Node is registered again, whether or not its status is due.
                known = await self.api.get(self._path)
                if known["metadata"]["uid"] != self._uid:
                    await self.register()
                elif self._changed.is_set() or loop.time() >= report_at:
                    self._changed.clear()
                    report_at = loop.time() + self.status_s
                    await self._report()
                failed = False
            except ApiAway:
                failed = True
            except ApiError as error:
                failed = True
                if error.status == 404:
                    failed = not await self._again()
                else:
                    _log.warning("node %s: %s", self.name, error)
            if failed:
                await asyncio.sleep(min(_RETRY_S, self.renew_s))

    async def _again(self) -> bool:
        _log.warning("node %s was deleted from the API and registers again", self.name)
        try:
            await self.register()
        except (ApiAway, ApiError) as error:
            _log.warning("node %s: %s", self.name, error)
            return False
        return True

    async def _report(self) -> None:
        await self.api.patch(f"{self._path}/status", {"status": self._status()})

    async def _renew(self) -> None:
        moment = _now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        owner = {"apiVersion": "v1", "kind": "Node", "name": self.name, "uid": self._uid}
        spec = {
            "holderIdentity": self.name,
            "leaseDurationSeconds": LEASE_S,
            "renewTime": moment,
        }
        lease = {"metadata": {"name": self.name, "ownerReferences": [owner]}, "spec": spec}
        try:
            await self.api.patch(f"{leases}/{self.name}", lease, strategy="merge")
        except ApiError as error:
            if error.status != 404:
                raise
            kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
            await self.api.create(leases, kind | lease)

    def _node(self) -> Object:
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": self._labels()},
            "spec": {},
            "status": self._status(),
        }

    def _labels(self) -> dict[str, str]:
        return {
            **self.labels,
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": _os(),
            "kubernetes.io/arch": _architecture(),
        }

    def _status(self) -> Object:
        has, beat = self.capacity.to_json(), timestamp(_now())
        conditions = [
            {"type": kind, "status": "False", "reason": reason, "message": f"{self.name}: {text}"}
            for kind, (reason, text) in _PRESSURES.items()
        ]
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        conditions.append(ready | {"message": "pods run as processes of this machine"})
        return {
            "capacity": has,
            "allocatable": has,
            "addresses": [
                {"type": "InternalIP", "address": self.host_ip},
                {"type": "Hostname", "address": self.name},
            ],
            "conditions": [
                c | {"lastHeartbeatTime": beat, "lastTransitionTime": self._since}
                for c in conditions
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
            "nodeInfo": self._info(),
            **({"declaredFeatures": sorted(self.features)} if self.features else {}),
        }

    def _info(self) -> Object:
        machine = uuid.uuid5(uuid.NAMESPACE_DNS, socket.gethostname()).hex
        booted = uuid.uuid5(uuid.NAMESPACE_DNS, f"{machine} {psutil.boot_time():.0f}")
        return {
            "machineID": machine,
            "systemUUID": str(uuid.UUID(machine)),
            "bootID": str(booted),
            "kernelVersion": platform.release(),
            "osImage": platform.platform(terse=True),
            "containerRuntimeVersion": "process://1.0.0",
            "kubeletVersion": self.version,
            "kubeProxyVersion": "",
            "operatingSystem": _os(),
            "architecture": _architecture(),
        }


def _now() -> datetime:
    return datetime.now(UTC)


def _cpus() -> int:
    return os.cpu_count() or 1


def _os() -> str:
    return platform.system().lower()


def _architecture() -> str:
    machine = platform.machine().lower()
    return _ARCHITECTURES.get(machine, machine)
