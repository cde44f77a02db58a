"""The programs that go into the node image: those that are here, and those still to be compiled."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from aiinfra_lab.errors import MissingNeed
from aiinfra_lab.kube.build import build
from aiinfra_lab.kube.kind.node_image.recipe import Recipe, digest, file_parts, images_folder
from aiinfra_lab.kube.manifest import Manifest, Tool
from aiinfra_lab.kube.programs import Stamp, programs_folder, read_stamps, write_stamp

#: In the order in which they are built, with the seconds that each costs after those before it, on
#: two cores with nothing in Go's cache.
PROGRAMS = {
    "kube-apiserver": 179.0,
    "kube-controller-manager": 40.0,
    "kube-scheduler": 4.0,
    "kubectl": 17.0,
    "kubelet": 30.0,
    "kubeadm": 6.0,
    "kube-proxy": 4.0,
    "etcd": 14.0,
    "containerd": 30.0,
    "containerd-shim-runc-v2": 3.0,
    "ctr": 3.0,
    "crictl": 6.0,
    "host-local": 1.0,
    "loopback": 1.0,
    "ptp": 2.0,
    "portmap": 1.0,
    "coredns": 18.0,
    "pause": 1.0,
}


@dataclass(frozen=True)
class Wanted:
    """One program, and what it is compiled from."""

    tool: Tool
    manifest: Manifest

    @property
    def name(self) -> str:
        """Its name."""
        return self.tool.name

    @property
    def sources(self) -> str:
        """What says whether it would come out otherwise now: its version, and a digest."""
        folder = self.manifest.folder
        parts = [(name, (folder / name).read_bytes()) for name in ("go.mod", "go.sum")]
        if self.tool.package.startswith("./"):
            parts += file_parts(folder / self.tool.package)
        return f"{self.tool.version} {digest(parts)[:16]}".strip()


def wanted_programs(recipe: Recipe) -> list[Wanted]:
    """All programs of a node, in the order in which they are built.

    Raises
    ------
    MissingNeed
        No manifest has one of them.
    """
    found = []
    for name in PROGRAMS:
        manifest = next((m for m in (recipe.kubernetes, recipe.node) if name in m.tools), None)
        if manifest is None:
            raise MissingNeed(
                f"no manifest has {name}, which a node needs",
                needed=f"a line in {recipe.node.folder / 'go.mod'}",
            )
        found.append(Wanted(manifest.tools[name], manifest))
    return found


def built_folder() -> Path:
    """The folder of the cache with the programs that only a node image needs."""
    return images_folder() / "programs"


def present(wanted: Wanted) -> Path | None:
    """Where the program is already, just as it would be built; None where it is not.

    The programs that ``aiinfra cluster install`` has got count if they have the pinned version.
    """
    name, shared, own = wanted.name, programs_folder(), built_folder()
    stamp = read_stamps(shared).get(name)
    if stamp and stamp.version == wanted.tool.version and stamp.fits(shared / name):
        return shared / name
    stamp = read_stamps(own).get(name)
    if stamp and stamp.version == wanted.sources and stamp.fits(own / name):
        return own / name
    return None


def compile_program(wanted: Wanted, tick: Callable[[], None]) -> None:
    """Compile a program into the cache; its stamp comes last."""
    folder = built_folder()
    target, sources = folder / wanted.name, wanted.sources
    build(wanted.tool, wanted.manifest, target, lambda packages: tick())
    write_stamp(folder, wanted.name, Stamp.of(target, sources, "build"))


def gather(programs: Iterable[Wanted], folder: Path) -> None:
    """Show all programs in one folder, which has nothing else.

    Raises
    ------
    MissingNeed
        One has gone since it was looked for.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for wanted in programs:
        path = present(wanted)
        if path is None:
            raise MissingNeed(f"{wanted.name} is not there any more", fix="Run the command again.")
        with contextlib.suppress(OSError):  # another file system, or one without links
            os.link(path, folder / wanted.name)
            continue
        shutil.copy2(path, folder / wanted.name)
