"""The command that builds the walls: bubblewrap, and before it the drop from root."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aiinfra_lab.needs import bubblewrap_program, require
from aiinfra_lab.sandbox.launcher import STAGED
from aiinfra_lab.sandbox.limits import Limits
from aiinfra_lab.sandbox.world import HOME, World

NOBODY = 65534
CONTROL = "/run/aiinfra"


@dataclass(frozen=True)
class Bubblewrap:
    """One sandbox to be started.

    Parameters
    ----------
    world : World
        What exists inside.
    folder : Path
        A private folder outside for what is made for the inside. Its subfolder ``control`` is
        bound read-only at ``CONTROL``: a process inside can connect to a socket in it.
    limits : Limits
        The size of /tmp; the other limits are applied from within.
    nested : bool
        Leave user namespaces open, for a server inside that puts each of its forks behind walls
        of its own and then closes them. Otherwise nobody inside can make one.
    """

    world: World
    folder: Path
    limits: Limits
    nested: bool = False

    def command(self, argv: Sequence[str]) -> list[str]:
        """The whole command that runs ``argv`` inside; writes the files that it binds.

        Raises
        ------
        MissingNeed
            No sandbox can be made here.
        """
        require("sandbox")
        program = bubblewrap_program()
        assert program is not None
        (self.folder / "made").mkdir()
        self.world.write_files(self.folder / "made")
        (self.folder / "control").mkdir(exist_ok=True)
        mounts = [
            *self.world.mounts(self.folder / "made"),
            (self.folder / "control", CONTROL),
        ]
        if os.geteuid() != 0:
            sources = {source: str(source) for source, _ in mounts}
            return [str(program), *self._words(mounts, sources), "--", *argv]
        return self._from_root(program, mounts, argv)

    def _from_root(
        self, program: Path, mounts: list[tuple[Path, str]], argv: Sequence[str]
    ) -> list[str]:
        # Whole folders are staged, and what lies in one is reached through it.
        roots = [*self.world.folders(), self.folder / "made", self.folder / "control"]
        if not program.is_relative_to("/usr"):
            roots.append(program.parent)
        places = {root: str(number) for number, root in enumerate(roots)}

        def staged(path: Path) -> str:
            for root, place in places.items():
                if path.is_relative_to(root):
                    return str(STAGED / place / path.relative_to(root))
            return str(path)

        stage = self.folder / "stage"
        stage.mkdir()
        sources = {source: staged(source) for source, _ in mounts}
        return [
            *(sys.executable, "-P", "-m", "aiinfra_lab.sandbox.launcher"),
            *(str(NOBODY), str(stage)),
            *(f"{place}={root}" for root, place in places.items()),
            *("--", staged(program), *self._words(mounts, sources), "--", *argv),
        ]

    def _words(self, mounts: list[tuple[Path, str]], sources: dict[Path, str]) -> list[str]:
        size = str(self.limits.scratch)
        words = [
            *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-net"),
            *("--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox"),
            *("--die-with-parent", "--new-session", "--cap-drop", "ALL"),
            *("--uid", str(NOBODY), "--gid", str(NOBODY), "--clearenv"),
        ]
        if not self.nested:
            words.append("--disable-userns")
        for name, value in self.world.environment().items():
            words += ["--setenv", name, value]
        for mount in self.world.system():
            words += mount
        words += ["--proc", "/proc", "--dev", "/dev", "--size", size, "--tmpfs", "/dev/shm"]
        words += ["--size", size, "--perms", "1777", "--tmpfs", HOME]
        for source, place in mounts:
            words += ["--ro-bind", sources[source], place]
        # The roots that bubblewrap made of memory: without this they can be filled.
        return [*words, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", HOME]
