"""One cluster's place on this disk: its files, who holds it, and what is known about it.

Whether a cluster runs is told by a lock, not by a pid: the kernel drops it with its holder,
whatever ended that, and no clock that was set can make a living holder look like a dead one. The
record beside it says who the holder is and how far it has come; a record without a lock is what
a killed holder has left.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
import weakref
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from aiinfra_lab.errors import InputError
from aiinfra_lab.files import write_bytes
from aiinfra_lab.kube.storage import CLAIMS
from aiinfra_lab.settings import settings

Phase = Literal["starting", "ready", "stopping", "stopped", "failed", "killed"]
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?")
_LOOK_S, _LOOKS = 0.02, 15
_held: weakref.WeakSet[Place] = weakref.WeakSet()


@dataclass
class Part:
    """One component of a running cluster."""

    name: str
    pid: int
    port: int
    ready_s: float  # from its start to its first healthy answer
    restarts: int = 0


@dataclass
class Record:
    """What is known about a cluster; written by its holder at every change."""

    name: str
    phase: Phase
    pid: int  # the holder
    start_time: float  # of the holder, seconds since the epoch
    keep: bool
    provider: str = "local"
    detached: bool = False  # its holder is a supervisor of its own, which `down` ends
    url: str = ""
    version: str = ""
    sentence: str = ""  # why it failed
    start_s: float = 0.0
    parts: list[Part] = field(default_factory=list)


class Place:
    """The folder of one cluster.

    Parameters
    ----------
    name : str
        At most 42 lower-case letters, digits and inner hyphens.
    root : Path, optional
        By default ``clusters/<name>`` in the course's home.
    """

    def __init__(self, name: str, root: Path | None = None) -> None:
        if not _NAME.fullmatch(name):
            raise InputError(
                f"a cluster cannot be called {name!r}",
                needed="at most 42 lower-case letters, digits and inner hyphens",
            )
        self.name = name
        self.root = root.absolute() if root else clusters_folder() / name
        self.pki, self.logs, self.etcd = (self.root / part for part in ("pki", "logs", "etcd"))
        self.pids = self.root / "pids"
        #: A line for each folder outside of ``root`` in which a claim's data lies.
        self.volumes = self.root / "nodes" / "shared" / "volumes.txt"
        self.kubeconfig = self.root / "kubeconfig"
        self._record, self._lock = self.root / "cluster.json", self.root / "lock"
        self._descriptor = -1

    def hold(self) -> bool:
        """Take the cluster for this process; False where another one has it."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise InputError(
                f"the folder {self.root} cannot be written",
                found=error.strerror,
                fix="Set AIINFRA_HOME to a folder that you may write to.",
            ) from None
        # Whoever asks `is_held` has the lock for an instant: one refusal is no answer.
        for _ in range(_LOOKS):
            if _locked(descriptor):
                break
            time.sleep(_LOOK_S)
        else:
            os.close(descriptor)
            return False
        if not self._is_current(descriptor):  # who had it removed the folder meanwhile
            os.close(descriptor)
            return self.hold()
        self._descriptor = descriptor
        _held.add(self)
        return True

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._lock.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let others have it; may be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        _held.discard(self)

    @property
    def is_held(self) -> bool:
        """Whether some process has the cluster now."""
        if self._descriptor >= 0:
            return True
        try:
            descriptor = os.open(self._lock, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def read(self) -> Record | None:
        """What is known; None where there is no cluster. A record without a holder is "killed"."""
        held = self.is_held  # before the record: a holder writes it before it lets go
        try:
            document: dict[str, Any] = json.loads(self._record.read_text("utf-8"))
            parts = [Part(**part) for part in document.pop("parts")]
            record = Record(**document, parts=parts)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        if not held and record.provider == "local" and record.phase not in ("stopped", "failed"):
            record.phase = "killed"
        return record

    def write(self, record: Record) -> None:
        """Replace the record; readable by its owner alone."""
        text = json.dumps(asdict(record), indent=1)
        write_bytes(self._record, text.encode(), mode=0o600)

    def end_leftovers(self) -> None:
        """End what a killed supervisor of the last run has left; the caller holds the place."""
        from aiinfra_lab.processes import tree
        from aiinfra_lab.processes.pidfile import read_pid_file

        for path in self.pids.glob("*.pid"):
            with contextlib.suppress(InputError):  # it is no pid file
                if record := read_pid_file(path):
                    alive = tree.same_process(record.pid, record.start_time)
                    tree.end(record.mark, also=[record.pid] if alive else [])
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove everything but the lock, and the data of the cluster's claims."""
        self._remove_volumes()
        for path in self.root.iterdir() if self.root.is_dir() else ():
            if path == self._lock:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _remove_volumes(self) -> None:
        try:
            lines = self.volumes.read_text("utf-8").splitlines()
        except OSError:
            return
        for path in map(Path, set(lines)):
            if path.parent == CLAIMS and ".." not in path.name:
                shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):  # another cluster has some there
            CLAIMS.rmdir()

    def remove(self) -> None:
        """Remove the folder; who waits for its lock sees that it has gone."""
        self.clear()
        self._lock.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.root.rmdir()


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def clusters_folder() -> Path:
    """Where the clusters of this user lie."""
    return settings().home / "clusters"


def known_clusters() -> list[Place]:
    """The places of all clusters that run or were kept, by name."""
    folder = clusters_folder()
    names = sorted(path.parent.name for path in folder.glob("*/cluster.json"))
    return [Place(name) for name in names if _NAME.fullmatch(name)]


def _forget_held() -> None:
    """In a forked copy of the holder: the lock is the holder's, and must end with it."""
    for place in list(_held):
        place.release()


os.register_at_fork(after_in_child=_forget_held)
