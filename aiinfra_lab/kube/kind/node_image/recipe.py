"""What the images are made of, and the key that says so.

The same files give the same key in a checkout and in what a wheel has installed: of a file's mode
only the bit that makes it a program counts, and its path is taken from the folder of the script.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aiinfra_lab.errors import MissingNeed
from aiinfra_lab.kube.manifest import Manifest
from aiinfra_lab.kube.pins import this_platform
from aiinfra_lab.kube.shared import find_shared
from aiinfra_lab.settings import settings

PLACE, SCRIPT = "kind/node", "build.sh"
NODE, PYTHON = "aiinfra/node", "aiinfra/python"  # the names of the images, without a tag
ARCHIVE_ENDS = (".tar.zst", ".tar.gz")
#: To be raised when an image comes out otherwise though no file of the recipe has changed: other
#: flags of the compiler, another way to call the script.
_FORMAT = 1


@dataclass(frozen=True)
class Recipe:
    """The two manifests and the script, read."""

    script: Path
    kubernetes: Manifest
    node: Manifest
    version: str  # of Kubernetes
    key: str
    python_key: str

    @classmethod
    def find(cls) -> Recipe:
        """The recipe of this installation.

        Raises
        ------
        MissingNeed
            The package was installed without it, or it names no kubelet.
        """
        script = find_shared(f"{PLACE}/{SCRIPT}", "the script that makes the node image")
        return cls.read(Manifest.find(), script)

    @classmethod
    def read(cls, kubernetes: Manifest, script: Path) -> Recipe:
        """The recipe of a manifest of Kubernetes and a folder with the script."""
        folder = script.parent
        kubelet = kubernetes.tools.get("kubelet")
        if kubelet is None or not (folder / "go.mod").is_file():
            raise MissingNeed(
                "the manifests do not have all that goes into a node image",
                needed=f"kubelet in {kubernetes.folder / 'go.mod'}, and {folder / 'go.mod'}",
            )
        common = [("format", str(_FORMAT).encode()), ("machine", this_machine().encode())]
        pins = [(f"kubernetes/{name}", _bytes(kubernetes.folder / name)) for name in _PINS]
        version = ("version", kubelet.version.encode())
        return cls(
            script=script,
            kubernetes=kubernetes,
            node=Manifest.read(folder),
            version=kubelet.version,
            key=digest([*common, version, *pins, *file_parts(folder)])[:12],
            python_key=digest([*common, ("script", _bytes(script))])[:12],
        )

    @property
    def tag(self) -> str:
        """The node image's name."""
        return f"{NODE}:{self.version}-{self.key}"

    @property
    def python_tag(self) -> str:
        """The name of the small Debian image with Python."""
        return f"{PYTHON}:{self.python_key}"

    @property
    def archives(self) -> list[Path]:
        """Where the node image may lie in the cache, by how it is packed."""
        return [images_folder() / f"node-{self.key}{end}" for end in ARCHIVE_ENDS]


_PINS = ("go.mod", "go.sum")


def images_folder() -> Path:
    """The folder of the cache with all that belongs to images."""
    return settings().cache / "kube" / "kind"


def this_machine() -> str:
    """``amd64`` and the like: an image is for one of them."""
    return this_platform().partition("/")[2]


def file_parts(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The files below ``folder`` in a fixed order: path and kind, and content."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    for path in sorted(paths, key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder)
        if "__pycache__" not in name.parts:
            kind = "program" if path.stat().st_mode & 0o100 else "file"
            yield f"{kind} {name.as_posix()}", _bytes(path)


def digest(parts: Iterable[tuple[str, bytes]]) -> str:
    """One SHA-256 over named parts; nothing can move from one part to the next unseen."""
    made = hashlib.sha256()
    for name, data in parts:
        made.update(f"{len(name.encode())}:{name} {len(data)}:".encode())
        made.update(data)
    return made.hexdigest()


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""
