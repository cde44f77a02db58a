"""Get the control plane's programs: what is here already, then a download, then a build.

Installations of several processes take turns by a lock file; who comes second finds what the
first one has got. A program appears under its name only when it is whole, and its stamp after it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from aiinfra_lab.errors import InputError, MissingNeed
from aiinfra_lab.kube import programs
from aiinfra_lab.kube.build import build
from aiinfra_lab.kube.download import Unreachable, download
from aiinfra_lab.kube.manifest import Manifest
from aiinfra_lab.kube.pins import read_pins, this_platform
from aiinfra_lab.kube.programs import Program, Stamp
from aiinfra_lab.needs import KUBE_PROGRAMS, find
from aiinfra_lab.observability import progress

Source = Literal["any", "download", "build"]
ALL_PROGRAMS = (*KUBE_PROGRAMS, "kind")
_LOOK_S = 0.2


def install(
    names: Iterable[str] = KUBE_PROGRAMS, *, source: Source = "any", again: bool = False
) -> list[Program]:
    """Make sure that the programs ``names`` are here, and say where each is.

    Parameters
    ----------
    names : iterable of str
        Some of ``ALL_PROGRAMS``.
    source : {"any", "download", "build"}
        From where a program that is not here may come. "any" downloads, and builds what cannot
        be reached, is not published for this platform or has no pinned digest. A file that is
        not the pinned one is refused, never replaced by a build.
    again : bool
        Get even those that are in the cache.

    Raises
    ------
    InputError
        A name is none of the programs, or the cache cannot be written.
    MissingNeed
        No way leads to a program; the sentence names each way and what it lacks.
    DownloadError
        A download is not the pinned file.
    """
    wanted = list(dict.fromkeys(names))
    if unknown := [name for name in wanted if name not in ALL_PROGRAMS]:
        raise InputError(
            f"there is no program {unknown[0]!r} to install",
            fix=f"There is: {', '.join(ALL_PROGRAMS)}.",
        )
    here = {} if again else {name: found for name in wanted if (found := _present(name))}
    if len(here) < len(wanted):
        folder = programs.programs_folder()
        with _lock(folder):
            for name in wanted:
                # Another process may have got it while this one waited.
                if name not in here:
                    present = None if again else _present(name)
                    here[name] = present or _obtain(name, source, folder)
        find.cache_clear()  # the needs that were absent may be here now
    return [here[name] for name in wanted]


def _present(name: str) -> Program | None:
    try:
        found = programs.find_program(name)
    except MissingNeed:  # not whole
        return None
    if found is None or found.origin == "path":  # PATH's may be of any version
        return None
    if found.origin == "cache" and found.version != programs.wanted_version(name):
        return None
    return found


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with take_turn(folder.parent / "install.lock", "another installation"):
            if not os.access(folder, os.W_OK):
                raise InputError(
                    f"the folder {folder} cannot be written",
                    fix="Set AIINFRA_CACHE to a folder that you may write to.",
                )
            yield
    except OSError as error:
        raise unwritable(folder, error) from None


@contextlib.contextmanager
def take_turn(lock: Path, other: str) -> Iterator[None]:
    """Hold ``lock`` for the block, after whoever has it; stderr says that ``other`` is waited for.

    The system lets go of it when the process ends, however that happens.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        said = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not said:
                    print(f"aiinfra: waiting for {other}", file=sys.stderr, flush=True)
                said = True
                time.sleep(_LOOK_S)
        yield
    finally:
        os.close(descriptor)


def unwritable(folder: Path, error: OSError) -> InputError:
    """That a folder of the cache cannot be written, as a sentence."""
    return InputError(
        f"the folder {folder} cannot be written",
        found=error.strerror,
        fix="Set AIINFRA_CACHE to a folder that you may write to.",
    )


def _obtain(name: str, source: Source, folder: Path) -> Program:
    target, lacks = folder / name, []
    for origin in ("download", "build"):
        if source not in ("any", origin):
            continue
        try:
            version = (_downloaded if origin == "download" else _built)(name, target)
        except (MissingNeed, Unreachable) as error:
            lacks.append(error)
            continue
        programs.write_stamp(folder, name, Stamp.of(target, version, origin))
        return Program(name, target, origin, version)
    fixes = [error.fix for error in lacks if error.fix]
    raise MissingNeed(
        "; ".join(_clause(error) for error in lacks), fix=" ".join(dict.fromkeys(fixes)) or None
    )


def _clause(error: MissingNeed | Unreachable) -> str:
    parts = [error.message]
    parts += [f"found {error.found}"] if error.found else []
    parts += [f"needed {error.needed}"] if error.needed else []
    return ", ".join(parts)


def _downloaded(name: str, target: Path) -> str:
    pin = read_pins()[name]
    artifact = pin.artifact(this_platform())
    with progress(None, f"{name} {pin.version}, MB fetched") as bar:
        download(artifact, target, lambda done, total: bar.update(done >> 20))
    return pin.version


def _built(name: str, target: Path) -> str:
    manifest = Manifest.find()
    tool = manifest.tools[name]
    with progress(None, f"{name} {tool.version}, packages built") as bar:
        build(tool, manifest, target, bar.update)
    return tool.version
