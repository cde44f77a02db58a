"""The lock of the official downloads: which version, from where, and the SHA-256 that must match.

``pins.json`` lies beside this module, so that a wheel has it too. A platform whose digest is not
in it cannot be downloaded: a digest is copied from the publisher by ``python -m
aiinfra_lab.kube.pins`` on a machine with a network, never guessed, and reviewed in the diff.
The versions are those of ``cluster/control-plane/go.mod`` (a test compares them).
"""

from __future__ import annotations

import json
import platform
import re
import sys
import urllib.request
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from aiinfra_lab.errors import InputError, MissingNeed
from aiinfra_lab.files import write_text

PINS = Path(__file__).with_name("pins.json")
_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_TIMEOUT_S = 30.0
_LARGEST_SUMS = 1 << 20  # bytes; a list of digests is a few lines


@dataclass(frozen=True)
class Artifact:
    """One file of a publisher: where it is, what it must hash to, and what to take out of it."""

    program: str
    version: str
    url: str
    sha256: str
    member: str | None = None  # the program's path in an archive; None: the file is the program


@dataclass(frozen=True)
class Pin:
    """What is known about one program's downloads, for all platforms."""

    program: str
    version: str
    url: str
    sums: str
    platforms: tuple[str, ...]
    sha256: dict[str, str]
    member: str | None = None

    def artifact(self, where: str) -> Artifact:
        """The file for the platform ``where`` (``linux/amd64``).

        Raises
        ------
        MissingNeed
            It is not published for that platform, or its digest is not pinned.
        """
        if where not in self.platforms:
            raise MissingNeed(f"{self.program} {self.version} is not published for {where}")
        if where not in self.sha256:
            raise MissingNeed(f"no digest of {self.program} {self.version} is pinned for {where}")
        member = None if self.member is None else self._filled(self.member, where)
        return Artifact(
            self.program, self.version, self._filled(self.url, where), self.sha256[where], member
        )

    def published_digest(self, where: str) -> str:
        """The SHA-256 that the publisher states for the platform ``where``, read from the network.

        Raises
        ------
        InputError
            The answer holds no digest of that file.
        """
        address = self._filled(self.sums, where)
        with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as answer:
            text = answer.read(_LARGEST_SUMS).decode("utf-8", "replace")
        name = self._filled(self.url, where).rpartition("/")[2]
        for line in text.splitlines():
            digest, *names = str(line).split()[:2] or [""]
            if re.fullmatch("[0-9a-f]{64}", digest) and (not names or names[0].lstrip("*") == name):
                return digest
        raise InputError(f"{address} holds no SHA-256 of {name}")

    def _filled(self, template: str, where: str) -> str:
        system, _, machine = where.partition("/")
        archive = "zip" if system == "darwin" else "tar.gz"  # etcd's custom
        words = {"version": self.version, "os": system, "arch": machine, "archive": archive}
        return template.format_map(words)


def this_platform() -> str:
    """``linux/amd64`` and the like, in Go's words."""
    machine = platform.machine().lower()
    return f"{sys.platform}/{_MACHINES.get(machine, machine)}"


@cache
def read_pins(path: Path = PINS) -> dict[str, Pin]:
    """The pins by program, in the file's order."""
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if document["schema"] != 1:
        raise InputError(f"{path} has schema {document['schema']}", needed="1")
    return {
        name: Pin(name, **{**entry, "platforms": tuple(entry["platforms"])})
        for name, entry in document["programs"].items()
    }


def update_pins(path: Path = PINS) -> list[str]:
    """Write the publishers' digests of every platform into ``path``; give what changed.

    A digest that changed for an unchanged version is refused: a release is never replaced.
    """
    document = json.loads(path.read_text("utf-8"))
    changed = []
    for name, pin in read_pins.__wrapped__(path).items():
        for where in pin.platforms:
            digest, known = pin.published_digest(where), pin.sha256.get(where)
            if known is not None and known != digest:
                raise InputError(
                    f"the digest of {name} {pin.version} for {where} has changed",
                    needed=known,
                    found=digest,
                    fix="After a new version empty its sha256 object first.",
                )
            if known is None:
                document["programs"][name]["sha256"][where] = digest
                changed.append(f"{name} {pin.version} {where} {digest}")
    if changed:
        write_text(path, _text(document))
    return changed


def _text(document: dict[str, Any]) -> str:
    """As the file is kept: indented by one, a list of platforms on one line."""
    text = json.dumps(document, indent=1)
    flat = re.sub(r"\[\s+([^\[\]]*?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)
    return flat + "\n"


if __name__ == "__main__":
    print("\n".join(update_pins()) or "nothing changed", file=sys.stderr)
