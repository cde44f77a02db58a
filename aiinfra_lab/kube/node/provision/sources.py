"""The ConfigMaps and Secrets that a pod names, and what is said where one is missing."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiinfra_lab.kube.node.api import ApiAway, ApiError
from aiinfra_lab.kube.node.problems import PodProblem

Object = dict[str, Any]
#: Published in every namespace by the controller-manager; its only key is the cluster's CA.
ROOT_CA = "kube-root-ca.crt"


class ApiCalls(Protocol):
    """What is asked of the API server here."""

    async def get(self, path: str, **params: str) -> Object:
        """Read one object."""
        ...

    async def create(self, path: str, body: Object) -> Object:
        """Create ``body`` in the collection ``path``."""
        ...


@dataclass(frozen=True)
class Source:
    """One ConfigMap or Secret."""

    kind: str  # as a sentence names it: ConfigMap or Secret
    namespace: str
    name: str
    data: dict[str, bytes] = field(default_factory=dict)
    text: frozenset[str] = frozenset()  # the keys that environment variables may name


class Sources:
    """ConfigMaps and Secrets, read from the API server when they are asked for.

    Parameters
    ----------
    api : ApiCalls
        Where they are.
    ca_pem : str
        The cluster's CA: what ``kube-root-ca.crt`` holds in every namespace. With it a pod in a
        new namespace need not wait for the controller that publishes it.
    """

    def __init__(self, api: ApiCalls, ca_pem: str = "") -> None:
        self._api, self._ca = api, ca_pem.encode()

    async def config_map(
        self, namespace: str, name: str, *, optional: bool, problem: type[PodProblem]
    ) -> Source | None:
        """A ConfigMap; None where it is optional and missing.

        Raises
        ------
        PodProblem
            As ``problem``: it is missing, or cannot be read.
        """
        if name == ROOT_CA and self._ca:
            data = {"ca.crt": self._ca}
            return Source("ConfigMap", namespace, name, data, frozenset(data))
        found = await self._read("configmap", namespace, name, optional, problem)
        if found is None:
            return None
        texts = {key: text.encode() for key, text in (found.get("data") or {}).items()}
        binary = {key: _decode(text) for key, text in (found.get("binaryData") or {}).items()}
        return Source("ConfigMap", namespace, name, binary | texts, frozenset(texts))

    async def secret(
        self, namespace: str, name: str, *, optional: bool, problem: type[PodProblem]
    ) -> Source | None:
        """A Secret; None where it is optional and missing.

        Raises
        ------
        PodProblem
            As ``problem``: it is missing, or cannot be read.
        """
        found = await self._read("secret", namespace, name, optional, problem)
        if found is None:
            return None
        data = {key: _decode(text) for key, text in (found.get("data") or {}).items()}
        return Source("Secret", namespace, name, data, frozenset(data))

    async def _read(
        self, kind: str, namespace: str, name: str, optional: bool, problem: type[PodProblem]
    ) -> Object | None:
        try:
            return await self._api.get(f"/api/v1/namespaces/{namespace}/{kind}s/{name}")
        except ApiError as error:
            if error.status != 404:
                raise problem(f'failed to read {kind} "{namespace}/{name}": {error}') from None
            if optional:
                return None
            raise problem(f'{kind} "{name}" not found') from None
        except ApiAway as error:
            raise problem(f'failed to read {kind} "{namespace}/{name}": {error}') from None


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        return b""  # the API server lets none in that is not base64
