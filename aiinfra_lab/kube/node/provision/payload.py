"""What the files of a configMap, secret, downwardAPI or projected volume hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from aiinfra_lab.kube.node.problems import VolumeProblem
from aiinfra_lab.kube.node.provision.fields import field_text, resource_text
from aiinfra_lab.kube.node.provision.projection import File
from aiinfra_lab.kube.node.provision.sources import Source, Sources
from aiinfra_lab.kube.node.provision.tokens import Tokens

Object = dict[str, Any]
Files = dict[str, File]
_MODE = 0o644
#: The kinds of volume that are files made from what the API server says.
KINDS = ("configMap", "secret", "downwardAPI", "projected")


@dataclass(frozen=True)
class Owner:
    """Whom a pod's files are for: the one user that all its containers run as, and its fsGroup."""

    user: int | None = None
    group: int | None = None


class Payload:
    """Makes the files of volumes.

    Parameters
    ----------
    sources, tokens
        Where the contents come from.
    capacity : mapping
        The node's, as its status shows it: what a missing limit stands for.
    """

    def __init__(self, sources: Sources, tokens: Tokens, capacity: Mapping[str, str]) -> None:
        self._sources, self._tokens, self._capacity = sources, tokens, capacity

    async def files(self, pod: Object, kind: str, volume: Object, owner: Owner) -> Files:
        """The files of one volume of ``pod``; ``volume`` is what stands under ``kind``.

        Raises
        ------
        VolumeProblem
            Something that is not optional is missing, or a kind of source is unknown.
        """
        mode = volume.get("defaultMode")
        mode = _MODE if mode is None else mode
        if kind == "projected":
            files: Files = {}
            for source in volume.get("sources") or ():
                for name, part in source.items():
                    files |= await self._part(pod, name, part, mode, owner)
        else:
            named = volume | {"name": volume["secretName"]} if kind == "secret" else volume
            files = await self._part(pod, kind, named, mode, owner)
        if owner.group is None:
            return files
        # As the kubelet does for an fsGroup: the group may read what the owner may.
        return {
            path: replace(file, group=owner.group, mode=file.mode | 0o440)
            for path, file in files.items()
        }

    async def _part(self, pod: Object, kind: str, part: Object, mode: int, owner: Owner) -> Files:
        if kind in ("configMap", "secret"):
            fetch = self._sources.config_map if kind == "configMap" else self._sources.secret
            optional = bool(part.get("optional"))
            source = await fetch(
                pod["metadata"]["namespace"],
                part.get("name", ""),
                optional=optional,
                problem=VolumeProblem,
            )
            return _keys(source, part, mode, optional) if source else {}
        if kind == "downwardAPI":
            return self._fields(pod, part, mode)
        if kind == "serviceAccountToken":
            token = await self._tokens.token(
                pod, audience=part.get("audience", ""), seconds=part.get("expirationSeconds")
            )
            private = owner != Owner()
            user = -1 if owner.user is None else owner.user
            return {part["path"]: File(token.encode(), 0o600 if private else mode, user)}
        raise VolumeProblem(f"a projected volume's source {kind} is not known to this node")

    def _fields(self, pod: Object, part: Object, default: int) -> Files:
        files: Files = {}
        for item in part.get("items") or ():
            if field := item.get("fieldRef"):
                text = field_text(pod, field["fieldPath"], VolumeProblem)
            else:
                selector = item["resourceFieldRef"]
                text = resource_text(pod, None, selector, self._capacity, VolumeProblem)
            mode = item.get("mode")
            path = str(PurePosixPath(item["path"]))
            files[path] = File(text.encode(), default if mode is None else mode)
        return files


def _keys(source: Source, part: Object, default: int, optional: bool) -> Files:
    if not part.get("items"):
        return {key: File(data, default) for key, data in source.data.items()}
    files: Files = {}
    for item in part["items"]:
        if item["key"] not in source.data:
            if optional:
                continue
            said = (
                "configmap references non-existent config key"
                if source.kind == "ConfigMap"
                else "references non-existent secret key"
            )
            raise VolumeProblem(f"{said}: {item['key']}")
        mode = item.get("mode")
        files[item["path"]] = File(source.data[item["key"]], default if mode is None else mode)
    return files
