"""What tests of the node's preparation share: an API server of dicts, and pods."""

from __future__ import annotations

import base64
from typing import Any

from aiinfra_lab.kube.node.api import ApiAway, ApiError

CORE = "/api/v1/namespaces/lab"


class FakeApi:
    """Objects by path; tokens that count up. ``away`` makes every call fail."""

    def __init__(self, objects: dict[str, dict[str, Any]] | None = None) -> None:
        self.objects = objects or {}
        self.calls: list[tuple[str, Any]] = []
        self.away = False
        self.lives_until = "2026-01-01T01:00:00Z"

    async def get(self, path: str, **params: str) -> dict[str, Any]:
        self.calls.append((path, None))
        if self.away:
            raise ApiAway("nobody answers")
        if path not in self.objects:
            raise ApiError(f"{path} not found", status=404, reason="NotFound")
        found = self.objects[path]
        if isinstance(found, Exception):
            raise found
        return found

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.calls.append((path, body))
        if self.away:
            raise ApiAway("nobody answers")
        number = sum(1 for called, _ in self.calls if called == path)
        return {"status": {"token": f"token-{number}", "expirationTimestamp": self.lives_until}}

    def config_map(self, name: str, binary: dict[str, bytes] | None = None, **data: str) -> None:
        coded = {key: base64.b64encode(value).decode() for key, value in (binary or {}).items()}
        self.objects[f"{CORE}/configmaps/{name}"] = {"data": data, "binaryData": coded}

    def secret(self, name: str, **data: bytes) -> None:
        coded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        self.objects[f"{CORE}/secrets/{name}"] = {"data": coded}


def make_pod(name: str = "p", uid: str | None = None, **spec: Any) -> dict[str, Any]:
    """A pod with one container that mounts every volume at ``/<name>``."""
    spec.setdefault("containers", [make_container(volumes=spec.get("volumes", ()))])
    metadata = {"name": name, "namespace": "lab", "uid": uid or f"uid-{name}"}
    return {"metadata": metadata, "spec": {"nodeName": "n0", **spec}}


def make_container(name: str = "c", *, volumes: Any = (), **fields: Any) -> dict[str, Any]:
    """A container of busybox."""
    container = {"name": name, "image": "busybox", **fields}
    if volumes:
        container["volumeMounts"] = [
            {"name": volume["name"], "mountPath": f"/{volume['name']}"} for volume in volumes
        ]
    return container
