"""A pod's volumes as folders of this machine.

An ``emptyDir`` is a plain folder also with the medium Memory, and its ``sizeLimit`` is not
enforced. A claim is mounted where its volume is a ``hostPath`` or ``local`` one, as the
controller-manager's host-path provisioner makes them. Other kinds are refused by name, and only
where a container mounts them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiinfra_lab.kube.node.api import ApiAway, ApiError
from aiinfra_lab.kube.node.problems import VolumeProblem
from aiinfra_lab.kube.node.provision.payload import KINDS, Owner, Payload
from aiinfra_lab.kube.node.provision.projection import write_projection
from aiinfra_lab.kube.node.provision.sources import ApiCalls
from aiinfra_lab.kube.storage import CLAIMS

Object = dict[str, Any]
_FOLDER_TYPES = ("Directory", "DirectoryOrCreate")
_FILE_TYPES = ("File", "FileOrCreate")
_CHECKS: dict[str, tuple[Callable[[int], bool], str]] = {
    **dict.fromkeys(_FOLDER_TYPES, (stat.S_ISDIR, "directory")),
    **dict.fromkeys(_FILE_TYPES, (stat.S_ISREG, "file")),
    "Socket": (stat.S_ISSOCK, "socket file"),
    "CharDevice": (stat.S_ISCHR, "character device"),
    "BlockDevice": (stat.S_ISBLK, "block device"),
}


@dataclass(frozen=True)
class Volume:
    """One volume of one pod; ``managed`` where its files are written by this agent."""

    path: Path
    read_only: bool = False
    managed: bool = False


class Volumes:
    """The volumes of the pods of one node.

    Parameters
    ----------
    api : ApiCalls
        Where claims and their volumes are looked up.
    payload : Payload
        What the files of configMap, secret, downwardAPI and projected volumes hold.
    ledger : Path
        Gets a line with the path of each provisioned claim that was mounted, so that whoever
        takes the cluster down for good can remove its data.
    """

    def __init__(self, api: ApiCalls, payload: Payload, ledger: Path) -> None:
        self._api, self._payload, self._ledger = api, payload, ledger

    async def fill(self, pod: Object, folder: Path, owner: Owner) -> dict[str, Volume]:
        """Make the volumes that a container mounts, each by its name below ``folder``.

        May be called again: what is there stays, and files get their present contents.

        Raises
        ------
        VolumeProblem
            One cannot be had now.
        """
        found: dict[str, Volume] = {}
        mounted = mounted_names(pod)
        for volume in pod["spec"].get("volumes") or ():
            name = volume["name"]
            if name not in mounted:
                continue
            try:
                found[name] = await self._volume(pod, volume, folder / name, owner)
            except (VolumeProblem, OSError) as error:
                said = error.strerror if isinstance(error, OSError) else error
                raise VolumeProblem(
                    f'MountVolume.SetUp failed for volume "{name}" : {said}'
                ) from None
        return found

    async def refresh(self, pod: Object, folder: Path, owner: Owner) -> list[str]:
        """Give files their present contents; what cannot be read now keeps the old.

        Returns
        -------
        list of str
            Why a volume kept the old.
        """
        problems = []
        mounted = mounted_names(pod)
        for volume in pod["spec"].get("volumes") or ():
            name, kind = volume["name"], kind_of(volume)
            if kind in KINDS and name in mounted:
                try:
                    files = await self._payload.files(pod, kind, volume[kind] or {}, owner)
                    write_projection(folder / name, files)
                except (VolumeProblem, OSError) as error:
                    problems.append(f'MountVolume.SetUp failed for volume "{name}" : {error}')
        return problems

    async def _volume(self, pod: Object, volume: Object, folder: Path, owner: Owner) -> Volume:
        kind = kind_of(volume)
        source = volume.get(kind) or {}
        if kind == "emptyDir":
            if not folder.exists():
                folder.mkdir(parents=True)
                # Any user of the pod may write; nobody else gets below the pod's folder.
                folder.chmod(0o777)
                _give_to(folder, owner)
            return Volume(folder)
        if kind == "hostPath":
            return Volume(_host_path(source))
        if kind == "persistentVolumeClaim":
            return await self._claim(pod, source, owner)
        if kind in KINDS:
            write_projection(folder, await self._payload.files(pod, kind, source, owner))
            return Volume(folder, read_only=True, managed=True)
        raise VolumeProblem(
            f"this node cannot mount a volume of the kind {kind}",
            needed="emptyDir, hostPath, persistentVolumeClaim, " + ", ".join(KINDS),
        )

    async def _claim(self, pod: Object, source: Object, owner: Owner) -> Volume:
        namespace, name = pod["metadata"]["namespace"], source["claimName"]
        said = f"error processing PVC {namespace}/{name}"
        try:
            claim = await self._api.get(
                f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}"
            )
            bound_to = claim["spec"].get("volumeName")
            if not bound_to or claim.get("status", {}).get("phase") != "Bound":
                raise VolumeProblem(f"{said}: PVC is not bound")
            volume = await self._api.get(f"/api/v1/persistentvolumes/{bound_to}")
        except (ApiError, ApiAway) as error:
            raise VolumeProblem(f"{said}: failed to fetch PVC from API server: {error}") from None
        spec = volume["spec"]
        if (spec.get("claimRef") or {}).get("uid") != claim["metadata"]["uid"]:
            raise VolumeProblem(f"{said}: volume {bound_to} is bound to another claim")
        if spec.get("volumeMode") == "Block":
            raise VolumeProblem(f"{said}: this node cannot mount the volumeMode Block")
        if "hostPath" in spec:
            path = _host_path(spec["hostPath"])
        elif "local" in spec:
            path = Path(spec["local"]["path"])
            if not path.exists():
                raise VolumeProblem(f"{said}: path {path} does not exist")
        else:
            raise VolumeProblem(
                f"{said}: this node cannot mount volume {bound_to}",
                needed="a persistent volume of the kind hostPath or local",
            )
        if path.is_relative_to(CLAIMS):
            self._remember(path)
            if os.geteuid() == 0:
                # The provisioner makes it root's alone; a storage class of a real cluster lets
                # the pod's user write, whoever that is.
                path.chmod(0o777)
                _give_to(path, owner)
        return Volume(path, read_only=bool(source.get("readOnly")))

    def _remember(self, path: Path) -> None:
        line = f"{path}\n"
        # One short append is whole also beside another node's.
        with self._ledger.open("a+", encoding="utf-8") as ledger:
            ledger.seek(0)
            if line not in ledger.readlines():
                ledger.write(line)


def mounted_names(pod: Object) -> set[str]:
    """The names of the volumes that some container mounts."""
    spec = pod["spec"]
    return {
        mount["name"]
        for container in (*(spec.get("initContainers") or ()), *spec["containers"])
        for mount in container.get("volumeMounts") or ()
    }


def kind_of(volume: Object) -> str:
    """What kind of volume it is; an emptyDir where it does not say."""
    return next((key for key in volume if key != "name"), "emptyDir")


def remove_tree(folder: Path) -> None:
    """Remove a folder, also where a container took its own rights away; links are not followed."""
    try:
        shutil.rmtree(folder)
    except PermissionError:
        for parent, names, _ in os.walk(folder):
            for path in (Path(parent, name) for name in names):
                if not path.is_symlink():
                    path.chmod(0o700)  # before it is walked into
        shutil.rmtree(folder)


def _give_to(folder: Path, owner: Owner) -> None:
    if owner.group is not None:
        with contextlib.suppress(PermissionError):
            os.chown(folder, -1, owner.group)
            # What is made in it belongs to the group, too.
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) | 0o2770)


def _host_path(source: Object) -> Path:
    path, kind = Path(source["path"]), source.get("type") or ""
    if not path.exists():
        if kind in ("", "DirectoryOrCreate"):
            path.mkdir(parents=True, mode=0o755)
        elif kind == "FileOrCreate":
            path.touch(mode=0o644)
    if kind:
        check, word = _CHECKS.get(kind, (None, ""))
        if check is None:
            raise VolumeProblem(f"{kind} is an invalid volume type")
        if not path.exists() or not check(path.stat().st_mode):
            raise VolumeProblem(f"hostPath type check failed: {path} is not a {word}")
    return path
