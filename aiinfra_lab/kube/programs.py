"""The control plane's programs on this disk: where each is, from where it came, and its stamp.

The course's cache holds them with a stamp file, written after the last byte: version, length and
digest of each. A program of the cache without a matching stamp was cut off or replaced, and does
not count. What the user's own variables name (envtest's ``TEST_ASSET_*`` and
``KUBEBUILDER_ASSETS``) is taken as it is.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from aiinfra_lab.errors import MissingNeed
from aiinfra_lab.files import write_json
from aiinfra_lab.kube.pins import read_pins
from aiinfra_lab.needs import KUBE_PROGRAMS, kube_program
from aiinfra_lab.settings import settings

Origin = Literal["environment", "cache", "path", "download", "build"]
STAMPS = "stamps.json"


@dataclass(frozen=True)
class Stamp:
    """What is known about a program that the course has put into its cache."""

    version: str
    size: int  # bytes
    sha256: str
    origin: Literal["download", "build"]

    @classmethod
    def of(cls, path: Path, version: str, origin: Literal["download", "build"]) -> Stamp:
        """The stamp of a program that is whole."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(version, path.stat().st_size, digest, origin)

    def fits(self, path: Path) -> bool:
        """Whether the program is there, and as long as it was."""
        return path.is_file() and path.stat().st_size == self.size


@dataclass(frozen=True)
class Program:
    """One program that can be started."""

    name: str
    path: Path
    origin: Origin
    version: str = ""  # empty where it is not ours


def programs_folder() -> Path:
    """The folder of the cache in which the programs lie."""
    return settings().cache / "kube" / "bin"


def read_stamps(folder: Path) -> dict[str, Stamp]:
    """The stamps in ``folder``; none where the file is absent or damaged."""
    try:
        document = json.loads((folder / STAMPS).read_text("utf-8"))
        return {name: Stamp(**fields) for name, fields in document.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_stamp(folder: Path, name: str, stamp: Stamp) -> None:
    """Add one stamp, or replace it; the caller holds the installation's lock."""
    stamps = read_stamps(folder) | {name: stamp}
    write_json(folder / STAMPS, {key: asdict(value) for key, value in stamps.items()})


def find_program(name: str) -> Program | None:
    """Where ``name`` is, in envtest's order; None when it is not here.

    Raises
    ------
    MissingNeed
        The cache's copy is not whole.
    """
    path = kube_program(name)
    if path is None:
        return None
    if path.parent != programs_folder():
        return Program(name, path, "path" if shutil.which(name) == str(path) else "environment")
    stamp = read_stamps(path.parent).get(name)
    if stamp is None or not stamp.fits(path):
        raise MissingNeed(
            f"{path} is not whole, or was put there by something else",
            fix="To mend it: aiinfra cluster install",
        )
    return Program(name, path, "cache", stamp.version)


def find_programs(names: Iterable[str] = KUBE_PROGRAMS) -> dict[str, Path]:
    """The paths of all ``names``.

    Raises
    ------
    MissingNeed
        One is not here or not whole; the sentence has the command that gets it.
    """
    found = {name: find_program(name) for name in names}
    if lacking := [name for name, program in found.items() if program is None]:
        raise MissingNeed(
            f"{', '.join(lacking)} not found: a control plane needs its programs",
            fix="To get them: aiinfra cluster install",
        )
    return {name: program.path for name, program in found.items() if program is not None}


def wanted_version(name: str) -> str:
    """The version of ``name`` that the course pins."""
    return read_pins()[name].version
