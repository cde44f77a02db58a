"""What probes and lifecycle hooks do to a container: run a command in it, or call its port."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from aiinfra_lab.errors import AIInfraLabError

Object = Mapping[str, Any]

OUTPUT_LIMIT = 10 << 10  # bytes of a command's output or of an answer that anybody reads
_REDIRECTS = 10
_RUNTIME_S = 5.0  # for the runtime to end a command whose time is over
_REDIRECTED = (301, 302, 303, 307, 308)


class ActionFailed(AIInfraLabError):
    """The container did not do what was asked: no answer, no connection, no time left."""


class ActionError(AIInfraLabError):
    """It could not be asked at all; that says nothing about the container."""


class Ran(Protocol):
    """How a command ended."""

    @property
    def exit_code(self) -> int: ...
    @property
    def output(self) -> bytes: ...
    @property
    def timed_out(self) -> bool: ...


class Executor(Protocol):
    """Who runs a command in a container; the runtime's client is one."""

    async def execute(
        self,
        run: str,
        argv: Sequence[str],
        /,
        *,
        stdin: bytes = b"",
        timeout: float | None = None,
        limit: int = 1 << 20,
    ) -> Ran: ...


def resolve_port(port: int | str, container: Object) -> int:
    """The number of a port that is given by number or by its name in the container.

    Raises
    ------
    ActionError
        The container has no port of this name.
    """
    text = str(port)
    if text.isdigit() and text.isascii():
        number = int(text)
    else:
        ports = container.get("ports") or ()
        number = next((int(p["containerPort"]) for p in ports if p.get("name") == text), 0)
        if not number:
            name = container.get("name", "")
            raise ActionError(f"container {name!r} has no port named {text!r}")
    if not 0 < number < 65536:
        raise ActionError("a port is a number from 1 to 65535", found=text)
    return number


async def http_get(
    action: Object, container: Object, ip: str, *, timeout: float | None, agent: str
) -> int:
    """Call what an ``httpGet`` names, and give the status.

    As the kubelet does: a certificate is not checked, redirects are followed on the same host
    only, and the pod's own address is the host where none is given.

    Parameters
    ----------
    action : mapping
        ``port``, and perhaps ``path``, ``scheme``, ``host``, ``httpHeaders``.
    timeout : float, optional
        Seconds for all of it.

    Raises
    ------
    ActionFailed
        No connection, no HTTP, or no answer in time.
    ActionError
        There is no such port.
    """
    import aiohttp
    from multidict import CIMultiDict
    from yarl import URL

    scheme = str(action.get("scheme") or "HTTP").lower()
    host = str(action.get("host") or ip)
    authority = f"[{host}]" if ":" in host else host
    path = str(action.get("path") or "/")
    port = resolve_port(action.get("port", 0), container)
    headers = CIMultiDict(
        (str(h["name"]), str(h.get("value", ""))) for h in action.get("httpHeaders") or ()
    )
    headers.setdefault("User-Agent", f"kube-{agent}")
    headers.setdefault("Accept", "*/*")
    tls: ssl.SSLContext | bool = True
    try:
        url = URL(f"{scheme}://{authority}:{port}/{path.removeprefix('/')}", encoded=True)
        if scheme == "https":
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        async with (
            asyncio.timeout(timeout),
            # A connection that is kept would hide a server that takes no new one.
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=tls, force_close=True),
                auto_decompress=False,
            ) as session,
        ):
            for _ in range(_REDIRECTS):
                async with session.get(url, headers=headers, allow_redirects=False) as response:
                    await response.content.read(OUTPUT_LIMIT)
                    if response.status not in _REDIRECTED or "Location" not in response.headers:
                        return response.status
                    target = url.join(URL(response.headers["Location"]))
                if target.host != url.host:
                    return response.status
                url = target
            raise ActionFailed(f"stopped after {_REDIRECTS} redirects")
    except TimeoutError:
        raise ActionFailed(
            f'Get "{scheme}://{authority}:{port}{path}": no answer in {timeout:g} s'
        ) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise ActionFailed(f'Get "{scheme}://{authority}:{port}{path}": {why(error)}') from None


async def tcp_connect(action: Object, container: Object, ip: str, *, timeout: float) -> None:
    """Open a connection to what a ``tcpSocket`` names, and close it.

    Raises
    ------
    ActionFailed
        Nobody listens there, or the connection took too long.
    ActionError
        There is no such port.
    """
    host, port = str(action.get("host") or ip), resolve_port(action.get("port", 0), container)
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        raise ActionFailed(f"dial tcp {host}:{port}: no connection in {timeout:g} s") from None
    except OSError as error:
        raise ActionFailed(f"dial tcp {host}:{port}: {why(error)}") from None
    writer.transport.abort()


async def run_command(
    executor: Executor, run: str, argv: Sequence[str], *, timeout: float | None
) -> Ran:
    """Run a command in a container; ``run`` is the runtime's name of it.

    Raises
    ------
    ActionFailed
        It took longer than ``timeout`` seconds.
    ActionError
        The runtime could not run it.
    """
    try:
        async with asyncio.timeout(None if timeout is None else timeout + _RUNTIME_S):
            ran = await executor.execute(run, list(argv), timeout=timeout, limit=OUTPUT_LIMIT)
    except TimeoutError:  # the runtime itself is slow
        late = True
    except AIInfraLabError as error:
        raise ActionError(str(error)) from None
    else:
        late = ran.timed_out
    if late:
        raise ActionFailed(f"command {' '.join(argv)!r} timed out after {timeout:g} s")
    return ran


def why(error: Exception) -> str:
    """The system's own words where it has some, such as Connection refused."""
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number)
    return str(error) or type(error).__name__
