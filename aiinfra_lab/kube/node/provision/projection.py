"""A folder of files whose contents change all at once, as the kubelet's volumes do.

The files lie in a folder with a date in its name, ``..data`` is a symbolic link to it, and each
visible name a link into ``..data``: one rename changes every file. A folder that was replaced stays
for some seconds, because a reader may have followed ``..data`` just before the rename; the kubelet
removes it at once, and such a reader finds no file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from aiinfra_lab.kube.node.problems import VolumeProblem

_DATA = "..data"
_LINGER_S = 5.0


@dataclass(frozen=True)
class File:
    """One file of a projection: its bytes, its permissions, and by number whose it is."""

    data: bytes
    mode: int = 0o644
    user: int = -1
    group: int = -1


def write_projection(folder: Path, files: Mapping[str, File]) -> bool:
    """Have ``folder`` show exactly ``files``; False where it does already.

    Parameters
    ----------
    folder : Path
        Made if need be.
    files : mapping
        Relative path to file.

    Raises
    ------
    VolumeProblem
        A path leaves the folder, starts with ``..``, or is another's folder.
    """
    _check(files)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    link = folder / _DATA
    present = folder / link.readlink() if link.is_symlink() else None
    if present and _holds(present, files):
        _sweep(folder, present)
        return False
    fresh = Path(tempfile.mkdtemp(dir=folder, prefix=time.strftime("..%Y_%m_%d_%H_%M_%S.")))
    fresh.chmod(0o755)
    for name, file in files.items():
        _write(fresh, name, file)
    swap = folder / "..data_tmp"
    swap.unlink(missing_ok=True)
    swap.symlink_to(fresh.name)
    swap.replace(link)
    if present and present.is_dir():
        os.utime(present)  # from now on it is old
    shown = {PurePosixPath(name).parts[0] for name in files}
    for name in sorted(shown):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"{_DATA}/{name}")
    for entry in folder.iterdir():
        if not entry.name.startswith("..") and entry.name not in shown:
            entry.unlink()
    _sweep(folder, fresh)
    return True


def _sweep(folder: Path, present: Path) -> None:
    """Remove what was replaced, or left half-made by an agent that ended, some seconds ago."""
    for entry in folder.glob("..2*"):
        if entry != present and entry.stat().st_mtime < time.time() - _LINGER_S:
            shutil.rmtree(entry, ignore_errors=True)


def replace_file(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file that is whole or absent to every reader.

    Unlike ``aiinfra_lab.files`` it does not wait for the disk: what a machine that lost its power
    knew of its pods is of no use to it.
    """
    descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=".")
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        os.fchmod(descriptor, mode)
    Path(part).replace(path)


def _check(files: Mapping[str, File]) -> None:
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or not path.parts or ".." in path.parts or name.startswith(".."):
            raise VolumeProblem(f"invalid path {name!r} of a file in a volume")
        if any(str(parent) in files for parent in path.parents):
            raise VolumeProblem(f"{name!r} would lie below a file of the same volume")


def _write(folder: Path, name: str, file: File) -> None:
    path = folder / name
    for parent in reversed(path.relative_to(folder).parents[:-1]):
        (folder / parent).mkdir(exist_ok=True)
        (folder / parent).chmod(0o755)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as target:
        target.write(file.data)
        # Only root may give a file away; without that the container runs as its writer anyway.
        with contextlib.suppress(PermissionError):
            os.fchown(target.fileno(), file.user, file.group)
        os.fchmod(target.fileno(), file.mode)


def _holds(folder: Path, files: Mapping[str, File]) -> bool:
    try:
        found = {
            path.relative_to(folder).as_posix(): path
            for path in folder.rglob("*")
            if not path.is_dir()
        }
        return found.keys() == {str(PurePosixPath(name)) for name in files} and all(
            found[str(PurePosixPath(name))].read_bytes() == file.data
            and found[str(PurePosixPath(name))].stat().st_mode & 0o7777 == file.mode
            for name, file in files.items()
        )
    except OSError:
        return False
