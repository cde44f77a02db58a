"""The tools manifests below ``cluster``: Go modules that name the programs and pin them.

``go.mod`` has the versions and ``go.sum`` the digests of every source file that goes in; no
foreign source enters the repository. A manifest may have packages of its own beside it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from aiinfra_lab.kube.shared import find_shared

PLACE = "control-plane"
_RENAMED = {"go.etcd.io/etcd/server/v3": "etcd"}


@dataclass(frozen=True)
class Tool:
    """One program of the manifest: the Go package that makes it, and its module's version.

    The version is empty for a package that lies beside the manifest.
    """

    name: str
    package: str
    version: str


@dataclass(frozen=True)
class Manifest:
    """A folder with go.mod and go.sum, read."""

    folder: Path
    tools: dict[str, Tool]

    @classmethod
    def find(cls, place: str = PLACE) -> Manifest:
        """The manifest ``cluster/<place>`` of this installation.

        Raises
        ------
        MissingNeed
            There is none: the package was installed without it.
        """
        return cls.read(find_shared(f"{place}/go.mod", "the tools manifest").parent)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest in ``folder``: its ``tool`` packages with the versions required of them.

        Each folder beside it with a ``main.go`` is a program of its own, called like the folder.
        """
        text = re.sub(r"//.*", "", (folder / "go.mod").read_text("utf-8"))
        versions = dict(re.findall(r"^\s*(?:require\s+)?(\S+/\S+)\s+(v\S+)\s*$", text, re.M))
        tools = {}
        for package in _directives(text, "tool"):
            module = max((m for m in versions if _is_within(package, m)), key=len, default="")
            name = _RENAMED.get(package, package.rpartition("/")[2])
            tools[name] = Tool(name, package, versions.get(module, ""))
        for main in sorted(folder.glob("*/main.go")):
            tools[main.parent.name] = Tool(main.parent.name, f"./{main.parent.name}", "")
        return cls(folder, tools)


def _directives(text: str, word: str) -> list[str]:
    blocks = re.findall(rf"^{word}\s*\(([^)]*)\)", text, re.M)
    single = re.findall(rf"^{word}\s+([^\s(]+)\s*$", text, re.M)
    lines = (line.strip() for block in blocks for line in block.splitlines())
    return [*single, *filter(None, lines)]


def _is_within(package: str, module: str) -> bool:
    return package == module or package.startswith(f"{module}/")
