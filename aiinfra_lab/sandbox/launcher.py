"""Starts bubblewrap as nobody, although what it binds lies where nobody may not look.

For root only: ``python -m aiinfra_lab.sandbox.launcher UID STAGE PLACE=SOURCE... -- bwrap ...``.
Another user cannot reach an interpreter below root's home, and a bubblewrap that root starts
keeps a full bounding set and covers parts of /proc, which forbids a nested one. So the sources
are bound into a private mount namespace first, at /tmp/PLACE; then every privilege is dropped;
then bubblewrap is executed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from aiinfra_lab.sandbox import system

STAGED = Path("/tmp")


def main(words: Sequence[str]) -> None:
    """Stage the sources, drop, execute; returns only by an error."""
    border = words.index("--")
    uid, stage, *sources = words[:border]
    command = list(words[border + 1 :])
    _stage(Path(stage), dict(source.split("=", 1) for source in sources))
    number = int(uid)
    os.setgroups([])
    os.setresgid(number, number, number)
    os.setresuid(number, number, number)
    system.drop_capabilities()
    os.chdir("/")
    os.execv(command[0], command)


def _stage(stage: Path, sources: Mapping[str, str]) -> None:
    system.unshare(system.CLONE_NEWNS)
    system.mount("none", "/", flags=system.MS_REC | system.MS_PRIVATE)
    system.mount("tmpfs", str(stage), "tmpfs", data="mode=0755,size=1m")
    for place, source in sources.items():
        target = stage / place
        if Path(source).is_dir():
            target.mkdir()
        else:
            target.touch()
        system.mount(source, str(target), flags=system.MS_BIND | system.MS_REC)
    # The stage may lie in a folder that others cannot enter; /tmp itself they can.
    system.mount(str(stage), str(STAGED), flags=system.MS_MOVE)


if __name__ == "__main__":
    main(sys.argv[1:])
