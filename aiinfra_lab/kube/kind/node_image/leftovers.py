"""What a finished build leaves behind, and what older keys have left."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from pathlib import Path

from aiinfra_lab.kube.kind.engine import Engine, run
from aiinfra_lab.kube.kind.messages import say
from aiinfra_lab.kube.kind.node_image.recipe import images_folder

KEPT = 2  # images and archives: that of this key, and the newest of the others
HALF = "-base"  # ends the tag of an image that the script makes on its way
_MOUNTS = Path("/proc/self/mountinfo")
_LIMIT_S = 60.0


def remove_builds() -> None:
    """Remove the folders of all builds; the caller holds the turn, so none is in use."""
    for folder in images_folder().glob("build-*"):
        remove_folder(folder)
    for part in images_folder().glob("*.part"):
        part.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove one build's folder, unless something is mounted in it: that is not the build's.

    A build that was killed may have left ``/proc`` there, or the machine's own ``/dev``.
    """
    for mount in sorted(_mounts_in(folder), reverse=True):
        with contextlib.suppress(OSError):
            subprocess.run(["umount", "--lazy", mount], capture_output=True, check=False)
    if left := _mounts_in(folder):
        say(f"{folder} is not removed, for something is mounted in it: umount {left[0]}")
        return
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        say(f"{folder} could not be removed whole; as root: rm -r {folder}")


def remove_old_archives(current: Path) -> None:
    """Keep the archive ``current`` and the newest of the others."""
    others = [path for path in images_folder().glob("node-*.tar.*") if path != current]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[KEPT - 1 :]:
        with contextlib.suppress(OSError):
            path.unlink()


def remove_old_images(engine: Engine, name: str, current: str) -> None:
    """Keep the image ``current`` and the newest other one called ``name``.

    One from which a container was made is refused by Docker, and stays.
    """
    words = ("image", "ls", name, "--format", "{{.Repository}}:{{.Tag}}")  # the newest first
    tags = run((engine.program, *words), _LIMIT_S).stdout.split()
    spared = {current, f"{name}:latest"}
    others = [tag for tag in tags if tag not in spared and not tag.endswith(":<none>")]
    halves = [tag for tag in others if tag.endswith(HALF)]
    whole = [tag for tag in others if tag not in halves]
    for tag in [*halves, *whole[KEPT - 1 :]]:
        run((engine.program, "image", "rm", tag), _LIMIT_S)


def _mounts_in(folder: Path) -> list[str]:
    try:
        lines = _MOUNTS.read_text("utf-8", "replace").splitlines()
    except OSError:  # no Linux: nothing was built here
        return []
    mounts = [_unescaped(line.split()[4]) for line in lines if len(line.split()) > 4]
    return [mount for mount in mounts if Path(mount).is_relative_to(folder.resolve())]


def _unescaped(word: str) -> str:
    """A path as the kernel writes it, with blanks in octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)
