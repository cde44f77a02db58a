"""What each pod of the node has taken: its address, its names, its GPUs; kept on disk.

A record is written when something is taken, so the next agent takes up what the last one gave,
and no two living pods have the same.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from aiinfra_lab.kube.node.provision.devices import Devices
from aiinfra_lab.kube.node.provision.network import Addresses, HostsFile, Name, Neighbours, hostname
from aiinfra_lab.kube.node.provision.projection import replace_file
from aiinfra_lab.kube.node.provision.volumes import remove_tree

Object = dict[str, Any]
_FILE = "pod.json"


@dataclass
class Record:
    """One pod.

    Attributes
    ----------
    name : Name
        How it is called in its network.
    gpus : dict
        The indices that each container has.
    passing : list of str
        Those of its containers with GPUs that end before the others start.
    over : bool
        It will not run again: only its address, its logs and its files are kept.
    """

    name: Name
    gpus: dict[str, list[int]] = field(default_factory=dict)
    passing: list[str] = field(default_factory=list)
    over: bool = False

    def write(self, folder: Path) -> None:
        """Keep it in the pod's folder."""
        replace_file(folder / _FILE, json.dumps(asdict(self)).encode(), mode=0o600)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The record in a pod's folder; None where there is no whole one."""
        try:
            document = json.loads((folder / _FILE).read_bytes())
            return cls(**document | {"name": Name(**document["name"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None


class Records:
    """The pods of one node, by uid.

    Parameters
    ----------
    folder : Path
        Where each pod has its folder; what is found there is taken up.
    addresses, neighbours, devices
        What pods take.
    """

    def __init__(
        self, folder: Path, addresses: Addresses, neighbours: Neighbours, devices: Devices
    ) -> None:
        self._folder, self._addresses = folder, addresses
        self._neighbours, self._devices = neighbours, devices
        self._records: dict[str, Record] = {}
        self._told: dict[str, list[Name]] = {}  # what is in whose hosts file
        for uid in self.uids():
            if record := Record.read(folder / uid):
                self._records[uid] = record
                addresses.take(uid, record.name.ip)
                for container, indices in record.gpus.items():
                    devices.adopt(uid, container, indices, init=container in record.passing)
        neighbours.keep_only(uid for uid, record in self._records.items() if not record.over)

    def uids(self) -> list[str]:
        """The pods that have a folder, also those without a whole record."""
        return sorted(path.name for path in self._folder.iterdir() if path.is_dir())

    def take(self, pod: Object) -> Record:
        """The record of a pod, which gets an address if it has none."""
        metadata, spec = pod["metadata"], pod["spec"]
        uid = metadata["uid"]
        if uid not in self._records:
            name = Name(
                uid=uid,
                namespace=metadata["namespace"],
                hostname=hostname(pod),
                subdomain=spec.get("subdomain") or "",
                ip=self._addresses.take(uid),
                born=metadata.get("creationTimestamp") or "",
            )
            record = Record(name)
            (self._folder / uid).mkdir(exist_ok=True, mode=0o700)
            record.write(self._folder / uid)
            self._records[uid] = record
        return self._records[uid]

    def introduce(self, pod: Object) -> None:
        """Make a pod's hosts file, and the pod known to its siblings."""
        record = self.take(pod)
        uid = record.name.uid
        aliases = pod["spec"].get("hostAliases") or ()
        HostsFile(self._folder / uid / "hosts").create(record.name, aliases)
        if record.name.subdomain and not record.over:
            self._neighbours.tell(record.name)
            self._update_hosts(uid, record)

    def update_hosts(self) -> None:
        """Bring the hosts files of pods with siblings up to date."""
        for uid, record in self._records.items():
            # A pod whose first preparation was cut short has no file yet.
            if record.name.subdomain and (self._folder / uid / "hosts").exists():
                self._update_hosts(uid, record)

    def assign(self, pod: Object, container: str, n: int, *, passing: bool) -> tuple[int, ...]:
        """Give GPUs to a container.

        Raises
        ------
        ConfigProblem
            There are not so many.
        """
        record = self.take(pod)
        uid = record.name.uid
        gpus = self._devices.assign(uid, container, n, init=passing)
        if gpus and record.gpus.get(container) != list(gpus):
            record.gpus[container] = list(gpus)
            record.passing += [container] if passing else []
            record.write(self._folder / uid)
        return gpus

    def end(self, uid: str) -> None:
        """Take back the GPUs and the names of a pod that will not run again."""
        self._devices.release(uid)
        record = self._records.get(uid)
        if record and not record.over:
            record.gpus, record.passing, record.over = {}, [], True
            self._neighbours.untell(record.name)
            record.write(self._folder / uid)

    async def remove(self, uid: str) -> None:
        """Take back everything, and remove the pod's folder."""
        self.end(uid)
        self._records.pop(uid, None)
        self._told.pop(uid, None)
        if (self._folder / uid).is_dir():
            await asyncio.to_thread(remove_tree, self._folder / uid)
        self._addresses.release(uid)

    def _update_hosts(self, uid: str, record: Record) -> None:
        name = record.name
        known = self._neighbours.known(name.namespace, name.subdomain)
        others = [other for other in known if other.uid != uid]
        if self._told.get(uid) != others:
            HostsFile(self._folder / uid / "hosts").update(others)
            self._told[uid] = others
