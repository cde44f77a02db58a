"""What an image stands for on a node without images: folders on PATH, a command, variables.

A table leads from the image's name to one of these. A name is compared whole
(``docker.io/library/python:3.11``), without its registry, and without Docker's ``library/``, each
with and without its tag; a digest is passed over, and a missing tag is ``latest``. The user's
patterns come first, the longest one before the others, then the built-in ones.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube.node.problems import ImageProblem

_HOST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What a sandbox's pause program does: nothing, until it is asked to end.
_PAUSE = "trap 'exit 0' INT TERM; while :; do sleep 86400 & wait $!; done"


@dataclass(frozen=True)
class Image:
    """What stands for an image.

    Attributes
    ----------
    path : tuple of str
        Folders before the machine's own on PATH.
    command : tuple of str
        What runs where the pod gives neither ``command`` nor ``args``.
    env : mapping
        Variables that the image would set.
    """

    path: tuple[str, ...] = ()
    command: tuple[str, ...] = ("sh",)
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def search_path(self) -> str:
        """The value of PATH."""
        return os.pathsep.join((*self.path, _HOST_PATH))


#: The names that a table may use.
KINDS: dict[str, Image] = {
    "python": Image((str(Path(sys.executable).parent),), ("python3",)),
    "shell": Image(),
    "pause": Image(command=("sh", "-c", _PAUSE)),
}
DEFAULTS: dict[str, str] = {
    "python:3*": "python",
    "python:latest": "python",
    "aiinfra-lab/*": "python",
    "ml-training:*": "python",
    "busybox:*": "shell",
    "alpine:*": "shell",
    "debian:*": "shell",
    "pause:*": "pause",
}


class ImageTable:
    """Which image is what.

    Parameters
    ----------
    images : mapping, optional
        Pattern (as a shell's: ``*``, ``?``, ``[...]``; a ``*`` crosses ``/``) to the name of a
        kind (python, shell, pause) or to an object with some of ``path`` (folders), ``command``
        (words) and ``env`` (an object). It goes before the built-in table. By default the
        setting ``images``.

    Raises
    ------
    InputError
        An entry is none of these.

    Examples
    --------
    >>> ImageTable().find("registry.example/library/busybox").command
    ('sh',)
    """

    def __init__(self, images: Mapping[str, Any] | None = None) -> None:
        if images is None:
            from aiinfra_lab.settings import settings  # 11 MB, which no agent has to have

            images = settings().images
        own = {pattern: _read(pattern, entry) for pattern, entry in images.items()}
        ranked = sorted(own.items(), key=lambda entry: len(entry[0]), reverse=True)
        self._table = [*ranked, *((pattern, KINDS[kind]) for pattern, kind in DEFAULTS.items())]

    def find(self, image: str) -> Image:
        """What stands for ``image``.

        Raises
        ------
        ImageProblem
            Nothing does.
        """
        names = _names(image)
        for pattern, found in self._table:
            if any(fnmatchcase(name, pattern) for name in names):
                return found
        raise ImageProblem(
            f'nothing on this node stands for the image "{image}"',
            fix="Name what runs it in the setting images, such as "
            f"""AIINFRA_IMAGES='{{"{names[-1]}": "python"}}', or use a kind cluster.""",
        )


def _names(image: str) -> list[str]:
    """The names of ``image`` that a pattern may mean; the last is the usual one."""
    name = image.partition("@")[0]
    if ":" not in name.rpartition("/")[2]:
        name += ":latest"
    names = [name]
    # Docker's rule: what stands before the first slash is a registry if it looks like a host.
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        names.append(rest)
    for prefix in ("docker/library/", "library/"):
        if names[-1].startswith(prefix):
            names.append(names[-1].removeprefix(prefix))
    return [*(name.rpartition(":")[0] for name in names), *names]


def _read(pattern: str, entry: Any) -> Image:
    if isinstance(entry, str) and entry in KINDS:
        return KINDS[entry]
    if isinstance(entry, dict) and entry.keys() <= {"path", "command", "env"}:
        path, command, env = entry.get("path", []), entry.get("command", ["sh"]), entry.get("env")
        lists = all(
            isinstance(words, list) and all(isinstance(word, str) for word in words)
            for words in (path, command)
        )
        pairs = env is None or (
            isinstance(env, dict) and all(isinstance(value, str) for value in env.values())
        )
        if lists and pairs and command:
            return Image(tuple(path), tuple(command), dict(env or {}))
    raise InputError(
        f"the image table's entry for {pattern!r} cannot be used",
        found=repr(entry),
        needed=f"one of {', '.join(KINDS)}, or an object of path and command (lists of words) "
        "and env (an object of words)",
    )
