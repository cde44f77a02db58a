"""The container engine below kind, asked through its command line as kind itself asks it.

It is Docker, or what ``KIND_EXPERIMENTAL_PROVIDER`` names: kind reads that variable too, and the
others take the same words. Which daemon a command reaches (``DOCKER_HOST``, a context) is left to
the command.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiinfra_lab import needs
from aiinfra_lab.errors import AIInfraLabError, MissingNeed, ProcessError

CLUSTER_LABEL, ROLE_LABEL = "io.x-k8s.kind.cluster", "io.x-k8s.kind.role"
_ENGINES = ("docker", "podman", "nerdctl", "finch", "nerdctl.lima")
_LIMIT_S = 60.0  # a daemon answers in 0.1 s; this is for one under heavy load


@dataclass(frozen=True)
class Node:
    """One container that is a node of a kind cluster."""

    id: str
    name: str
    role: str
    state: str  # running, exited, ...
    image: str
    sources: frozenset[str]  # the host's folders that it mounts
    volumes: tuple[str, ...]  # the engine's own volumes that it mounts

    @property
    def runs(self) -> bool:
        """Whether its processes run."""
        return self.state == "running"

    def mounts(self, folder: Path) -> bool:
        """Whether it mounts the host's ``folder``; on a Mac it is shown below another one."""
        return any(source.endswith(str(folder)) for source in self.sources)


@dataclass(frozen=True)
class Engine:
    """One engine: its program's name or path."""

    program: str

    @classmethod
    def find(cls) -> Engine:
        """The engine of this machine.

        Raises
        ------
        MissingNeed
            Its program is not here, or its daemon does not answer; two sentences.
        """
        named = os.environ.get("KIND_EXPERIMENTAL_PROVIDER", "")
        name = named if named in _ENGINES else "docker"
        if name == "docker":
            return cls.docker()
        path = shutil.which(name)
        if path is None:
            raise MissingNeed(
                f"KIND_EXPERIMENTAL_PROVIDER names {name}, which is not on PATH",
                fix="Install it, or unset the variable to use Docker.",
            )
        return cls(path)

    @classmethod
    def docker(cls) -> Engine:
        """Docker itself, whatever engine kind is told to use.

        Raises
        ------
        MissingNeed
            It is not here, or its daemon does not answer.
        """
        needs.find.cache_clear()  # it may have been started since somebody asked
        needs.require("docker")
        return cls(shutil.which("docker") or "docker")

    @property
    def has_daemon(self) -> bool:
        """Whether containers belong to a daemon, and not to the command that started them."""
        return Path(self.program).name != "podman"

    def nodes(self, cluster: str) -> list[Node]:
        """The containers that carry kind's label of ``cluster``, also those that have ended."""
        found = self._ask(
            "ps", "-a", "-q", "--no-trunc", "--filter", f"label={CLUSTER_LABEL}={cluster}"
        )
        if not found.split():
            return []
        # One that has gone meanwhile is an error, and the others are printed all the same.
        done = self._run("inspect", *found.split())
        try:
            return sorted(map(_node, json.loads(done.stdout or "[]")), key=lambda node: node.name)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ProcessError(
                f"{self._name} described the nodes in other words: {error!r}"
            ) from None

    def has_image(self, image: str) -> bool:
        """Whether ``image`` is here."""
        return self._run("image", "inspect", image).returncode == 0

    def remove(self, nodes: Iterable[Node]) -> None:
        """Remove containers with their processes and unnamed volumes; one that has gone is none."""
        self._run("rm", "-f", "-v", *(node.id for node in nodes))

    def volumes(self, names: Iterable[str]) -> list[str]:
        """Those of the volumes ``names`` that there are."""
        there = set(self._ask("volume", "ls", "-q").split())
        return sorted(there.intersection(names))

    def remove_volumes(self, names: Sequence[str]) -> None:
        """Remove volumes that no container uses."""
        self._run("volume", "rm", *names)

    def empty(self, folder: Path, image: str) -> None:
        """Empty a folder of the host as root, in a container: pods have written there as root."""
        self._run(
            *("run", "--rm", "--network=none", "--security-opt=label=disable"),
            f"--volume={folder}:/emptied",
            *("--entrypoint=find", image, "/emptied", "-mindepth", "1", "-delete"),
        )

    def write_log(self, node: Node, target: Path) -> None:
        """Write what the node's own processes have printed to ``target``."""
        done = self._run("logs", node.id)
        target.write_text(done.stdout + done.stderr, "utf-8")

    @property
    def _name(self) -> str:
        return Path(self.program).name

    def _ask(self, *words: str) -> str:
        done = self._run(*words)
        if done.returncode != 0:
            raise ProcessError(
                f"{self._name} {words[0]} failed: {last_line(done.stderr)}",
                returncode=done.returncode,
            )
        return done.stdout

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run((self.program, *words), _LIMIT_S)


def run(command: Sequence[str], limit: float) -> subprocess.CompletedProcess[str]:
    """The output of a short command, which has ``limit`` seconds.

    Raises
    ------
    ProcessError
        It does not answer, or cannot be started.
    """
    name = f"{Path(command[0]).name} {command[1]}"
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProcessError(f"{name} did not answer within {limit:g} s") from None
    except OSError as error:
        raise ProcessError(f"{name} cannot be started: {error.strerror}") from None


def last_line(text: str) -> str:
    """The last line that is not empty."""
    return next(
        (line.strip() for line in reversed(text.splitlines()) if line.strip()), "nothing said"
    )


def _node(found: dict[str, Any]) -> Node:
    labels, mounts = found["Config"].get("Labels") or {}, found.get("Mounts") or []
    # As they are and as they were asked for, which differ where Docker has its own machine.
    sources = [mount.get("Source", "") for mount in mounts if mount.get("Type") == "bind"]
    sources += [bind.partition(":")[0] for bind in found.get("HostConfig", {}).get("Binds") or []]
    return Node(
        id=found["Id"],
        name=found["Name"].lstrip("/"),
        role=labels.get(ROLE_LABEL, ""),
        state=found["State"]["Status"],
        image=found["Config"].get("Image", ""),
        sources=frozenset(sources),
        volumes=tuple(mount["Name"] for mount in mounts if mount.get("Type") == "volume"),
    )


def sentence(error: AIInfraLabError) -> str:
    """The error on one line, for a record."""
    return " ".join(str(error).split())
