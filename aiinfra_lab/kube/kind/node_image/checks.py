"""What a machine must have before an image is made on it, asked before anything is begun."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from aiinfra_lab.errors import MissingNeed
from aiinfra_lab.kube.kind.engine import Engine, run
from aiinfra_lab.needs import go_program

_INFO_S = 30.0
_SYSTEM_FOLDERS = "/usr/sbin:/sbin"  # of debootstrap; not on every user's PATH


def search_path() -> str:
    """PATH with the folders of the system's own programs."""
    return f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_FOLDERS}"


def check_system(what: str, command: str) -> None:
    """See that this machine can make a system's image.

    Parameters
    ----------
    what : str
        Is to be made.
    command : str
        The words after ``aiinfra`` that ask for it.

    Raises
    ------
    MissingNeed
        It is not Linux, the user is not root, or debootstrap is not here.
    """
    if sys.platform != "linux":
        raise MissingNeed(
            f"{what} can be made on Linux only",
            found=sys.platform,
            fix="Make it on a machine with Linux, and bring it: docker save and docker load.",
        )
    if not _is_root():
        raise MissingNeed(
            f"{what} is made by root only: it holds a whole system's files with their owners",
            fix=f'As root: sudo env "PATH=$PATH" aiinfra {command}',
        )
    if shutil.which("debootstrap", path=search_path()) is None:
        apt = shutil.which("apt-get") is not None
        raise MissingNeed(
            f"{what} cannot be made: debootstrap, which gets Debian's packages, is not here",
            fix="apt-get install -y debootstrap"
            if apt
            else "Install debootstrap by your system's package manager.",
        )


def check_go(lacking: int) -> None:
    """See that there is Go, if programs are lacking.

    Raises
    ------
    MissingNeed
        There is none.
    """
    if lacking and go_program() is None:
        raise MissingNeed(
            f"{lacking} programs of the node image have to be compiled",
            needed="Go",
            fix="Install it as go.dev/doc/install shows.",
        )


def check_disk(wanted: Mapping[Path, float]) -> None:
    """See that there is room for ``wanted``: GB by folder, which need not exist yet.

    Raises
    ------
    MissingNeed
        A file system has less than is wanted of it in all.
    """
    by_device: dict[int, tuple[Path, float]] = {}
    for folder, size in wanted.items():
        place = next(p for p in (folder, *folder.parents) if p.exists())
        first, sum_ = by_device.get(place.stat().st_dev, (place, 0.0))
        by_device[place.stat().st_dev] = (first, sum_ + size)
    for place, size in by_device.values():
        free = shutil.disk_usage(place).free / 1e9
        if free < size:
            raise MissingNeed(
                f"the disk of {place} has too little room for the build",
                found=f"{free:.1f} GB",
                needed=f"{size:.1f} GB",
                fix=free_space_hint(),
            )


def docker_folder(engine: Engine) -> Path | None:
    """Where Docker keeps images; None where that is another machine's folder."""
    done = run((engine.program, "info", "--format", "{{.DockerRootDir}}"), _INFO_S)
    folder = Path(done.stdout.strip() or ".")
    return folder if folder.is_absolute() and folder.is_dir() else None


def go_folder() -> Path:
    """Where Go keeps what it has compiled."""
    own = os.environ.get("GOCACHE", "")
    return Path(own) if own.startswith("/") else Path.home() / ".cache" / "go-build"


def free_space_hint() -> str:
    """How to mend a full disk."""
    return "See what can go: docker system df; go clean -cache; df -h"


def _is_root() -> bool:
    return os.geteuid() == 0
