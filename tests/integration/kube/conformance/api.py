"""An API server as the cases see it: plain JSON objects over one session."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import aiohttp

Object = dict[str, Any]

LIMIT_S = 150.0  # of one wait; a kubelet takes up to 90 s for a changed volume
LOOK_S = 0.1

#: Where the kinds live.
GROUPS = {
    "ConfigMap": "api/v1",
    "Event": "api/v1",
    "Namespace": "api/v1",
    "Node": "api/v1",
    "PersistentVolume": "api/v1",
    "PersistentVolumeClaim": "api/v1",
    "Pod": "api/v1",
    "Secret": "api/v1",
    "Service": "api/v1",
    "ServiceAccount": "api/v1",
    "Deployment": "apis/apps/v1",
    "Job": "apis/batch/v1",
    "Lease": "apis/coordination.k8s.io/v1",
    "CustomResourceDefinition": "apis/apiextensions.k8s.io/v1",
    "Role": "apis/rbac.authorization.k8s.io/v1",
    "RoleBinding": "apis/rbac.authorization.k8s.io/v1",
}


class Refused(Exception):
    """The API server said no."""

    def __init__(self, status: int, answer: Object) -> None:
        super().__init__(f"{status} {answer.get('message', '')}")
        self.status, self.message = status, str(answer.get("message", ""))


class Api:
    """One session; whatever a kubeconfig names as credentials will do."""

    def __init__(self, session: aiohttp.ClientSession, kubeconfig: Path) -> None:
        self._session, self.kubeconfig = session, kubeconfig

    @classmethod
    async def connect(cls, kubeconfig: Path) -> Self:
        """A session with the cluster of ``kubeconfig``."""
        # Here, so that these tests are collected, and skipped, where the package is missing.
        from kubernetes_asyncio.client import Configuration
        from kubernetes_asyncio.config import load_kube_config

        found = Configuration()
        await load_kube_config(config_file=str(kubeconfig), client_configuration=found)
        context = ssl.create_default_context(cafile=found.ssl_ca_cert)
        if found.cert_file:
            context.load_cert_chain(found.cert_file, found.key_file)
        token = await found.get_api_key_with_prefix("BearerToken")
        session = aiohttp.ClientSession(
            found.host,
            connector=aiohttp.TCPConnector(ssl=context, limit=0),
            headers={"Authorization": token} if token else {},
            read_bufsize=1 << 22,  # a watch's line is a whole object
        )
        return cls(session, kubeconfig)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
        await asyncio.sleep(0.25)  # aiohttp's own advice: until TLS has said goodbye

    async def ask(
        self, method: str, path: str, body: Object | list[Object] | None = None, **how: Any
    ) -> Object:
        """One request; ``how`` has its query, and ``kind`` for the body's media type."""
        kind = how.pop("kind", "application/json")
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": kind} if body is not None else {}
        while True:
            async with self._session.request(
                method, path, params=how, data=data, headers=headers
            ) as answer:
                text = await answer.text()
            if answer.status != 429:  # busy, or about to serve a new kind: come again
                break
            await asyncio.sleep(float(answer.headers.get("Retry-After", 1)))
        if answer.status >= 400:
            raise Refused(answer.status, _document(text))
        return _document(text)

    async def find(self, path: str) -> Object | None:
        """An object, if it is there."""
        try:
            return await self.ask("GET", path)
        except Refused as error:
            if error.status != 404:
                raise
        return None

    async def come(self, path: str) -> Object:
        """Wait until an object is there, and read it."""
        async with asyncio.timeout(LIMIT_S):
            while not (found := await self.find(path)):
                await asyncio.sleep(LOOK_S)
        return found

    async def gone(self, path: str) -> None:
        """Wait until an object is there no more."""
        async with asyncio.timeout(LIMIT_S):
            while await self.find(path):
                await asyncio.sleep(LOOK_S)

    async def text(self, path: str, **query: str) -> str:
        """What is no JSON, such as a log."""
        async with self._session.get(path, params=query) as answer:
            text = await answer.text(errors="replace")
            if answer.status >= 400:
                raise Refused(answer.status, _document(text))
            return text

    async def lines(self, path: str, **query: str) -> AsyncIterator[str]:
        """The lines of an answer that goes on, as they come."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
        async with self._session.get(path, params=query, timeout=timeout) as answer:
            if answer.status >= 400:
                raise Refused(answer.status, _document(await answer.text()))
            async for line in answer.content:
                yield line.decode(errors="replace")


def path_of(kind: str, namespace: str = "", name: str = "") -> str:
    """Where the objects of ``kind`` are; in all namespaces if none is given."""
    plural = f"{kind.lower()}s"
    room = f"/namespaces/{namespace}" if namespace else ""
    return f"/{GROUPS[kind]}{room}/{plural}" + (f"/{name}" if name else "")


def _document(text: str) -> Object:
    try:
        found = json.loads(text)
    except ValueError:
        return {"message": text}
    return found if isinstance(found, dict) else {"message": text}
