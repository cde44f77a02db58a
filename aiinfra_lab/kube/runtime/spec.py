"""What the container runtime is asked to run, and what it knows about what it ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A file or folder of this machine that a container sees at a path of its own."""

    source: Path
    target: str  # absolute; it need not exist on this machine
    read_only: bool = False


@dataclass(frozen=True, kw_only=True)
class ContainerSpec:
    """One run of one container.

    Attributes
    ----------
    id : str
        ``<pod uid>.<container>.<attempt>``; letters, digits, ``.``, ``-`` and ``_``.
    argv : tuple of str
        The program and its words; a bare name is looked up on ``env``'s PATH.
    env : mapping
        The whole environment.
    log : Path
        The file for its output, in the CRI's format: time, stream, tag, line.
    cwd : str
        Its folder, as it sees it.
    mounts : tuple of Mount
        Seen by it alone where the system allows a mount namespace; else not at all.
    memory : int, optional
        Bytes that its processes may have resident together.
    cpus : float, optional
        Processors' worth of time that it may use.
    user, group : int, optional
        Whom it runs as; by default whom the runtime runs as.
    labels : mapping
        For whoever asked; the runtime keeps them and gives them back.
    """

    id: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    log: Path
    cwd: str = "/"
    mounts: tuple[Mount, ...] = ()
    memory: int | None = None
    cpus: float | None = None
    user: int | None = None
    group: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As one JSON object."""
        document = asdict(self) | {"log": str(self.log), "argv": list(self.argv)}
        document["mounts"] = [asdict(m) | {"source": str(m.source)} for m in self.mounts]
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The same from a JSON object."""
        fields = dict(document)
        fields["argv"], fields["log"] = tuple(fields["argv"]), Path(fields["log"])
        fields["mounts"] = tuple(
            Mount(**(m | {"source": Path(m["source"])})) for m in fields.get("mounts", ())
        )
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class ContainerState:
    """What is known about one run of one container.

    ``reason`` is Kubernetes': Completed, Error, OOMKilled, or StartError where the program could
    not be started, with ``message`` saying why. Times are seconds since the epoch.
    """

    id: str
    status: Literal["running", "exited"]
    pid: int
    started_at: float
    finished_at: float = 0.0
    exit_code: int = 0  # 128 + the signal where one ended it
    signal: int = 0
    reason: str = ""
    message: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
