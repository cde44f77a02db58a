"""Where a container sees its volumes: the mounts of one container, with their ``subPath``.

A ``subPath`` is followed link by link and must stay within its volume. Between that and the mount
a container could still swap a link: pods of this node are not kept from each other anyway.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from aiinfra_lab.kube.node.problems import ConfigProblem
from aiinfra_lab.kube.node.provision.environment import expand_strictly
from aiinfra_lab.kube.node.provision.volumes import Volume
from aiinfra_lab.kube.runtime.spec import Mount

Object = dict[str, Any]
_SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


def mounts(
    container: Object, volumes: Mapping[str, Volume], variables: Mapping[str, str]
) -> Iterator[tuple[str, Mount]]:
    """The mounts of ``container``, each with the name of its volume.

    Raises
    ------
    ConfigProblem
        A volume is missing, or a subPath is bad.
    """
    for mount in container.get("volumeMounts") or ():
        name = mount["name"]
        if name not in volumes:
            raise ConfigProblem(
                f'cannot find volume "{name}" to mount into container "{container["name"]}"'
            )
        if mount.get("mountPropagation") == "Bidirectional":
            raise ConfigProblem(f'volumeMount "{name}" asks for mountPropagation Bidirectional')
        volume = volumes[name]
        sub = mount.get("subPath") or ""
        if expression := mount.get("subPathExpr"):
            sub = expand_strictly(expression, variables)
        yield (
            name,
            Mount(
                source=within_volume(volume, sub, name) if sub else volume.path,
                # Two slashes at the beginning would stay: they mean something in POSIX.
                target=os.path.normpath("/" + mount["mountPath"].lstrip("/")),
                read_only=volume.read_only or bool(mount.get("readOnly")),
            ),
        )


def within_volume(volume: Volume, sub: str, name: str) -> Path:
    """The file or folder ``sub`` of a volume; a folder is made where there is nothing.

    Raises
    ------
    ConfigProblem
        It leaves the volume, by its words or by a link; or it is missing where only this agent
        writes.
    """
    words = PurePosixPath(sub)
    if words.is_absolute() or ".." in words.parts:
        raise ConfigProblem(
            f'the subPath "{sub}" of volumeMount "{name}" cannot be used',
            needed="a path within the volume",
        )
    root = path = volume.path.resolve()
    try:
        for word in words.parts:
            path = (path / word).resolve()
            if not path.is_relative_to(root):
                raise ConfigProblem(
                    f'the subPath "{sub}" of volumeMount "{name}" leaves its volume'
                )
            if not path.exists():
                if volume.managed:
                    raise ConfigProblem(f'volume "{name}" has no "{sub}", which is its subPath')
                path.mkdir(mode=0o755)
                path.chmod(root.stat().st_mode & 0o7777)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise ConfigProblem(
            f'the subPath "{sub}" of volumeMount "{name}" cannot be used', found=str(error)
        ) from None
    return path


def folder_variables(seen: Iterable[tuple[str, Mount]]) -> dict[str, str]:
    """The variables that stand for mounts where there are none.

    Of two mounts of one volume the first counts. The volume with the token has a name that nobody
    can foresee, so it has a variable of its own.
    """
    found: dict[str, str] = {}
    for name, mount in seen:
        found.setdefault(f"AIINFRA_VOLUME_{name.upper().replace('-', '_')}", str(mount.source))
        if mount.target == _SERVICE_ACCOUNT:
            found["AIINFRA_SERVICE_ACCOUNT"] = str(mount.source)
    return found


def working_folder(wished: str, seen: Iterable[tuple[str, Mount]], own: Path) -> str:
    """A container's folder where there are no mounts.

    The wished one if this machine has it; else the one that would be there by a mount; else
    ``own``, as an image without the folder gets an empty one.
    """
    if Path(wished).is_dir():
        return wished
    path = PurePosixPath(os.path.normpath(wished))
    for _, mount in sorted(seen, key=lambda entry: len(entry[1].target), reverse=True):
        if path.is_relative_to(mount.target):
            return str(mount.source / path.relative_to(mount.target))
    return str(own)
