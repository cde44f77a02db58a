"""Addresses and names of pods without a network of their own.

Every pod has an address of its own in 127.0.0.0/8, the second number of which says the node. There
is no cluster DNS: each pod has a hosts file with its own names and, where it has a ``subdomain``,
those of its siblings on all nodes, which nodes tell each other by files in a common folder.

A hosts file is mounted into containers, so it keeps its inode and is changed in place, while
anybody may be reading it: a sibling that comes is appended, one that goes gets a ``#`` in front.
Every other byte stays where it is, so there is no moment in which a name that stays is missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube.node.provision.projection import replace_file
from aiinfra_lab.kube.ports import HOST

Object = dict[str, Any]
_DOMAIN = "cluster.local"
_LONGEST_NAME = 63
_NODES = 127  # 127.64.x.y to 127.190.x.y; 127.255.255.255 is the loopback's broadcast address
_PER_NODE = 2**16 - 2
_MARK = "\t# pod "
_HEAD = ("127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback")


@dataclass(frozen=True)
class Name:
    """How one pod is called and where it is; ``born`` is its creationTimestamp."""

    uid: str
    namespace: str
    hostname: str
    subdomain: str
    ip: str
    born: str = ""

    @property
    def names(self) -> list[str]:
        """What its siblings call it.

        Not the headless Service's own name, which leads to all its pods: of several addresses of
        one name in a hosts file the C library gives the first, and half an answer is worse than
        none.
        """
        if not self.subdomain:
            return []
        domain = f"{self.hostname}.{self.subdomain}"
        service = f"{domain}.{self.namespace}.svc"
        return [f"{service}.{_DOMAIN}", service, f"{domain}.{self.namespace}", domain]

    @property
    def line(self) -> str:
        """Its line in a sibling's hosts file; by the comment it is known as ours."""
        return f"{self.ip}\t{' '.join(self.names)}{_MARK}{self.uid}"


def hostname(pod: Object) -> str:
    """A pod's hostname: the one it asks for, or its name, at most 63 letters."""
    name = pod["spec"].get("hostname") or pod["metadata"]["name"]
    return str(name)[:_LONGEST_NAME].rstrip("-.")


def can_share_loopback() -> bool:
    """Whether 127.64.0.1 is an address of this machine, as on Linux; not on macOS."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.64.0.1", 0))
        except OSError:
            return False
    return True


class Addresses:
    """The addresses of one node's pods.

    Parameters
    ----------
    number : int
        The node's number in its cluster.
    own : bool, optional
        False gives every pod 127.0.0.1, for machines that have no other such address; by default
        the machine is asked.
    """

    def __init__(self, number: int, *, own: bool | None = None) -> None:
        if not 0 <= number < _NODES:
            raise InputError(f"a node cannot have the number {number}", needed=f"0 to {_NODES - 1}")
        self._own = can_share_loopback() if own is None else own
        self._prefix = f"127.{64 + number}"
        self._held: dict[str, int] = {}  # pod's uid
        self._last = 0

    def take(self, uid: str, ip: str | None = None) -> str:
        """The address of a pod: the one that it has, ``ip`` of its last agent, or a free one.

        Raises
        ------
        InputError
            All are taken.
        """
        if not self._own:
            return HOST
        if uid not in self._held:
            taken = set(self._held.values())
            wished = self._index(ip)
            if wished is None or wished in taken:
                # Onward from the last one: an address that was free a moment ago may still be in
                # somebody's mind.
                turns = (self._last + turn for turn in range(_PER_NODE))
                free = (turn % _PER_NODE + 1 for turn in turns)
                wished = next((index for index in free if index not in taken), None)
            if wished is None:
                raise InputError(f"the node has no address left for a pod; it has {len(taken)}")
            self._held[uid] = self._last = wished
        high, low = divmod(self._held[uid], 256)
        return f"{self._prefix}.{high}.{low}"

    def release(self, uid: str) -> None:
        """Take a pod's address back; may be called again."""
        self._held.pop(uid, None)

    def _index(self, ip: str | None) -> int | None:
        prefix, _, rest = (ip or "").partition(f"{self._prefix}.")
        numbers = rest.split(".")
        if prefix or len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
            return None
        index = int(numbers[0]) * 256 + int(numbers[1])
        return index if 0 < index <= _PER_NODE else None


class HostsFile:
    """One pod's hosts file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, name: Name, aliases: Iterable[Object] = ()) -> None:
        """Write the pod's own lines; a file that is there stays.

        Parameters
        ----------
        name : Name
            The pod.
        aliases : iterable of dict
            Its ``hostAliases``.
        """
        if self.path.exists():
            return
        # A process asks the machine who it is, and gets the machine's name; in a pod that name
        # must lead to the pod.
        machine = socket.gethostname()
        own = dict.fromkeys([*name.names, name.hostname, machine])
        lines = [*_HEAD, f"{name.ip}\t{' '.join(own)}"]
        lines += [f"{alias['ip']}\t{' '.join(alias.get('hostnames') or ())}" for alias in aliases]
        replace_file(self.path, ("\n".join(lines) + "\n").encode(), mode=0o644)

    def update(self, siblings: Iterable[Name]) -> bool:
        """Have the file name exactly these siblings; False where it does already."""
        wanted = {sibling.line for sibling in siblings}
        present: dict[str, int] = {}  # line, and where it begins
        data, offset = self.path.read_bytes(), 0
        for raw in data.split(b"\n"):
            line = raw.decode("utf-8", "replace")
            if _MARK in line and not line.startswith("#"):
                present[line] = offset
            offset += len(raw) + 1
        fresh, gone = sorted(wanted - present.keys()), sorted(present.keys() - wanted)
        if fresh:  # first: a pod that replaces another has its name
            start = "" if data.endswith(b"\n") else "\n"
            with self.path.open("ab", buffering=0) as file:
                file.write((start + "".join(f"{line}\n" for line in fresh)).encode())
        if gone:
            with self.path.open("r+b", buffering=0) as file:
                for line in gone:
                    os.pwrite(file.fileno(), b"#", present[line])
        return bool(fresh or gone)


class Neighbours:
    """What the nodes of a cluster tell each other about pods with a subdomain.

    Parameters
    ----------
    shared : Path
        The folder common to all nodes.
    node : str
        This node's name.
    """

    def __init__(self, shared: Path, node: str) -> None:
        self._root, self._node = shared / "names", node
        self._seen: dict[str, dict[str, Name]] = {}

    def tell(self, name: Name) -> None:
        """Make a pod known to its siblings."""
        folder = self._folder(name.namespace, name.subdomain)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(name) | {"node": self._node})
        replace_file(folder / f"{name.uid}.json", text.encode(), mode=0o600)

    def untell(self, name: Name) -> None:
        """Take it back; may be called again."""
        (self._folder(name.namespace, name.subdomain) / f"{name.uid}.json").unlink(missing_ok=True)

    def keep_only(self, uids: Iterable[str]) -> None:
        """Take back what this node told about pods that it does not have any more."""
        living = set(uids)
        for path in self._root.glob("*/*.json"):
            if path.stem not in living and _read(path).get("node") == self._node:
                path.unlink(missing_ok=True)

    def known(self, namespace: str, subdomain: str) -> list[Name]:
        """Every pod of the namespace and subdomain, on all nodes.

        Of two with one hostname it is the younger: a Job makes it when the other has failed.
        """
        folder = self._folder(namespace, subdomain)
        with contextlib.suppress(FileNotFoundError):
            files = {path.name for path in folder.iterdir() if path.suffix == ".json"}
            seen = self._seen.setdefault(folder.name, {})
            for gone in seen.keys() - files:
                del seen[gone]
            # What is told of a pod never changes.
            for fresh in files - seen.keys():
                if name := _name(folder / fresh):
                    seen[fresh] = name
            living = sorted(seen.values(), key=lambda name: (name.born, name.uid))
            return list({name.hostname: name for name in living}.values())
        return []

    def _folder(self, namespace: str, subdomain: str) -> Path:
        # Neither holds a dot.
        return self._root / f"{namespace}.{subdomain}"


def _read(path: Path) -> Object:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _name(path: Path) -> Name | None:
    document = _read(path)
    document.pop("node", None)
    try:
        return Name(**document)
    except TypeError:
        return None
