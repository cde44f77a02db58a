"""The node image in a file of the cache: a minute's work is saved, and it outlives the daemon."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from aiinfra_lab.errors import ProcessError
from aiinfra_lab.kube.kind.engine import Engine, last_line, run
from aiinfra_lab.kube.kind.messages import say
from aiinfra_lab.kube.kind.node_image.recipe import ARCHIVE_ENDS, Recipe
from aiinfra_lab.processes import Child
from aiinfra_lab.processes.tail import read_tail

_LOOK_S = 0.1
_LIMIT_S = 900.0  # it takes ten seconds to load and thirty to write
_PACK = 'set -eu -o pipefail; "$1" save "$2" | {pack} > "$3"'
_PACKERS = {".tar.zst": ("zstd", "zstd -q -3 -T0"), ".tar.gz": ("gzip", "gzip -6")}
# The archive is not to blame for these.
_NOT_ITS_FAULT = re.compile(
    r"no space left|cannot connect|error during connect|permission denied|connection refused", re.I
)


def find_archive(recipe: Recipe) -> Path | None:
    """The archive of this key, or None."""
    return next((path for path in recipe.archives if path.is_file()), None)


def load_archive(engine: Engine, recipe: Recipe) -> bool:
    """Have the engine take the image out of its archive; whether it has the image now.

    What goes wrong is said. A damaged archive is removed, for it would fail each time.
    """
    path = find_archive(recipe)
    if path is None:
        return False
    say(f"loading the node image from {path}; about 10 seconds")
    why, damaged = _loaded(engine, path)
    if not why and not engine.has_image(recipe.tag):
        why, damaged = f"it does not hold {recipe.tag}", True
    if not why:
        return True
    if not damaged:
        say(f"the archive was not loaded: {why}")
        return False
    with contextlib.suppress(OSError):
        path.unlink()
    gone = "could not be removed" if path.exists() else "is removed"
    say(f"the archive {path} is damaged and {gone}: {why}")
    return False


def _loaded(engine: Engine, path: Path) -> tuple[str, bool]:
    """Why it was not loaded, empty if it was; and whether the archive is to blame."""
    program = _PACKERS[_end(path)][0]
    if shutil.which(program) is None:
        return f"{program} is not here to unpack it", False
    try:
        # First: the sum over an archive stands at its end, and Docker has the image by then.
        whole = run((program, "-tq", str(path)), _LIMIT_S)
        if whole.returncode != 0:
            return last_line(whole.stderr), True
        return _piped(engine, [program, "-dc", str(path)])
    except ProcessError as error:
        return error.message, False


def _piped(engine: Engine, words: list[str]) -> tuple[str, bool]:
    with (
        subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as unpacking,
        subprocess.Popen(
            [engine.program, "load"], stdin=unpacking.stdout, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as loading,
    ):  # fmt: skip
        assert unpacking.stdout is not None
        unpacking.stdout.close()  # so that it ends when the engine does
        try:
            _, said = loading.communicate(timeout=_LIMIT_S)
        except subprocess.TimeoutExpired:
            return f"it took longer than {_LIMIT_S:g} s", False
        finally:  # also after Ctrl-C
            for process in (loading, unpacking):
                if process.poll() is None:
                    process.kill()
    if loading.returncode == 0:
        return "", False
    text = said.decode("utf-8", "replace")
    return last_line(text), not _NOT_ITS_FAULT.search(text)


def save_archive(engine: Engine, recipe: Recipe, log: Path, tick: Callable[[], None]) -> None:
    """Write the archive of this key; it appears when it is whole.

    Raises
    ------
    ProcessError
        It could not be written; the image is there all the same.
    """
    end = next((end for end in ARCHIVE_ENDS if shutil.which(_PACKERS[end][0])), None)
    if end is None:
        raise ProcessError("neither zstd nor gzip is here to pack it")
    target = next(path for path in recipe.archives if _end(path) == end)
    part = target.with_name(f"{target.name}.part")
    pack = _PACK.format(pack=_PACKERS[end][1])
    command = ["nice", "-n", "10", "bash", "-c", pack, "-", engine.program, recipe.tag, str(part)]
    last = time.monotonic() + _LIMIT_S
    try:
        with Child(command, name="docker save", log=log) as child:
            while child.returncode is None:
                if time.monotonic() > last:
                    raise ProcessError(f"it took longer than {_LIMIT_S:g} s")
                tick()
                time.sleep(_LOOK_S)
            status = child.wait()
        if status != 0:
            raise ProcessError(read_tail(log, 1, 0.0) or f"docker save ended with {status}")
        part.chmod(0o644)  # another user than root makes clusters
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _end(path: Path) -> str:
    return next(end for end in ARCHIVE_ENDS if path.name.endswith(end))
