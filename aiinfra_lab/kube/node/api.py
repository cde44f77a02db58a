"""The API server as the node agent needs it: single objects, and a watch that never ends.

Objects are the API's own JSON. The agent does not use the ``kubernetes`` package: its import alone
costs 0.6 s and 40 MB.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal

import aiohttp

from aiinfra_lab.errors import AIInfraLabError

Object = dict[str, Any]
Strategy = Literal["merge", "strategic"]

_CONNECTIONS = 20  # open at once; with a hundred pods each handshake would cost more than waiting
_REQUEST_S = 15.0
_FIRST_RETRY_S, _LAST_RETRY_S = 0.05, 2.0
# The server ends a watch after this time; a little later we take it for dead.
_WATCH_S, _SILENCE_S = 300, 330.0
_POLITE_TRIES = 4  # of a request that the server puts off with 429

_log = logging.getLogger(__name__)


class ApiError(AIInfraLabError):
    """The API server said no: ``status`` is HTTP's number, ``reason`` Kubernetes' word."""

    def __init__(self, message: str, *, status: int = 500, reason: str = "") -> None:
        super().__init__(message)
        self.status, self.reason = status, reason

    def __str__(self) -> str:
        return f"{self.message} ({self.status} {self.reason})".replace(" )", ")")


class ApiAway(AIInfraLabError):
    """Nobody answers where the API server was."""


class Api:
    """One API server.

    Parameters
    ----------
    url : str
        Such as ``https://127.0.0.1:6443``.
    context : ssl.SSLContext
        Whom to trust, and the certificate to show.

    Notes
    -----
    To be made inside a running event loop. Every call raises ``ApiError`` for an answer that is no
    success and ``ApiAway`` when there is no answer.
    """

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        self.url = url.rstrip("/")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=_CONNECTIONS),
            timeout=aiohttp.ClientTimeout(total=_REQUEST_S),
            # The environment's proxies are for the outside.
            trust_env=False,
        )

    async def get(self, path: str, **params: str) -> Object:
        """Read one object or list."""
        return await self._ask("GET", path, params=params)

    async def create(self, path: str, body: Object) -> Object:
        """Create ``body`` in the collection ``path``."""
        return await self._ask("POST", path, body=body)

    async def patch(self, path: str, body: Object, *, strategy: Strategy = "strategic") -> Object:
        """Change an object; with ``strategic`` lists merge by their keys, such as conditions."""
        kind = "strategic-merge-patch" if strategy == "strategic" else "merge-patch"
        return await self._ask("PATCH", path, body=body, kind=f"application/{kind}+json")

    async def delete(self, path: str, body: Object | None = None) -> Object:
        """Delete an object; ``body`` may hold DeleteOptions."""
        return await self._ask("DELETE", path, body=body)

    async def watch(self, path: str, **params: str) -> AsyncIterator[tuple[str, Object]]:
        """Follow a collection for ever, over cuts, restarts and versions that are gone.

        Yields
        ------
        tuple of str and dict
            First, and again after every new list, ``("SYNCED", list)`` with all ``items``; then
            ``ADDED``, ``MODIFIED`` or ``DELETED`` with the object.
        """
        version, wait = "", _FIRST_RETRY_S
        while True:
            try:
                if not version:
                    listed = await self.get(path, **params)
                    version, wait = listed["metadata"]["resourceVersion"], _FIRST_RETRY_S
                    yield "SYNCED", listed
                async for kind, found in self._stream(path, version, params):
                    wait = _FIRST_RETRY_S
                    if kind == "ERROR":
                        raise _error(int(found.get("code", 500)), found)
                    version = found["metadata"]["resourceVersion"]
                    if kind != "BOOKMARK":
                        yield kind, found
            except ApiAway as error:
                _log.debug("watch of %s: %s", path, error)
            except ApiError as error:
                # 410: what happened since this version is forgotten. After any other answer, too,
                # only a new list is sure to be right.
                version = ""
                if error.status != 410:
                    _log.warning("watch of %s: %s", path, error)
            # Many agents must not come back in step.
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, _LAST_RETRY_S)

    async def close(self) -> None:
        """Close the connections; calls under way end with ``ApiAway``."""
        await self._session.close()

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Object | None = None,
        kind: str = "application/json",
    ) -> Object:
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        headers = {"Accept": "application/json"} | ({"Content-Type": kind} if data else {})
        for attempt in range(_POLITE_TRIES):
            if self._session.closed:
                raise _away(self.url, ConnectionError("the client was closed"))
            try:
                async with self._session.request(
                    method, self.url + path, params=params, data=data, headers=headers
                ) as response:
                    status, text = response.status, await response.read()
                    retry_after = response.headers.get("Retry-After", "")
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise _away(self.url, error) from None
            if status != 429 or not retry_after.isdigit() or attempt == _POLITE_TRIES - 1:
                break
            await asyncio.sleep(min(int(retry_after), _REQUEST_S) * random.uniform(0.5, 1.0))
        try:
            answer = json.loads(text) if text else {}
        except ValueError:
            answer = {"message": text[:200].decode(errors="replace")}
        if status >= 400 or not isinstance(answer, dict):
            raise _error(status, answer if isinstance(answer, dict) else {})
        return answer

    async def _stream(
        self, path: str, version: str, params: Mapping[str, str]
    ) -> AsyncIterator[tuple[str, Object]]:
        asked = dict(params) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(_WATCH_S),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_REQUEST_S, sock_read=_SILENCE_S)
        try:
            async with self._session.get(
                self.url + path, params=asked, timeout=timeout
            ) as response:
                if response.status >= 400:
                    raise _error(response.status, await response.json(content_type=None))
                # aiohttp's own readline refuses a line of 128 KiB, and a pod may be longer.
                rest = bytearray()
                async for chunk in response.content.iter_any():
                    rest += chunk
                    *lines, rest = rest.split(b"\n") if b"\n" in chunk else (rest,)
                    for line in lines:
                        if line:
                            event = json.loads(line)
                            yield event["type"], event["object"]
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise _away(self.url, error) from None


def _away(url: str, error: BaseException) -> ApiAway:
    return ApiAway(
        f"the API server at {url} does not answer", found=str(error) or type(error).__name__
    )


def _error(status: int, answer: Object) -> ApiError:
    message = answer.get("message") or "the API server refused the request"
    return ApiError(str(message), status=status, reason=str(answer.get("reason", "")))
