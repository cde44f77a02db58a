"""What the API server asks of a node: ``kubectl logs``, ``exec`` and ``port-forward``.

It is let in by its client certificate alone, and nobody else is. ``exec`` and ``port-forward``
need websockets between API server and node: the API server uses them where the Node declares the
feature ``ExtendWebSocketsToKubelet`` and its gate of that name is on, as it is from Kubernetes
1.36. Else it speaks SPDY, which is answered by 501.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from aiinfra_lab.errors import AIInfraLabError, InputError
from aiinfra_lab.kube.node.serving.exec import Attacher, serve_exec
from aiinfra_lab.kube.node.serving.log_reader import LogOptions, read_log, truth
from aiinfra_lab.kube.node.serving.port_forward import serve_port_forward

API_SERVER = "kube-apiserver-kubelet-client"  # the common name of the API server's certificate
DECLARED_FEATURES = ("ExtendWebSocketsToKubelet",)  # for ``status.declaredFeatures`` of the Node

_CLOSE_S = 0.2  # for requests under way, which may follow a log for days
_IMAGES = {
    "ErrImagePull": "image can't be pulled",
    "ImagePullBackOff": "trying and failing to pull image",
}

_log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Containers(Protocol):
    """What the server asks about the pods of its node."""

    def log(self, namespace: str, pod: str, container: str, *, previous: bool) -> Path | None:
        """The log of the newest run that was started, or of the one before it."""
        ...

    def running(self, namespace: str, pod: str, container: str) -> str | None:
        """The runtime's name of the run that is going on."""
        ...

    def waits(self, namespace: str, pod: str, container: str) -> str | None:
        """Why the container has not been started yet; ``waiting_sentence`` makes it."""
        ...

    def address(self, namespace: str, pod: str) -> str | None:
        """The pod's own address."""
        ...


def waiting_sentence(pod: str, container: str, reason: str) -> str:
    """What the kubelet says of a container that waits for ``reason``, such as ContainerCreating."""
    why = _IMAGES.get(reason, reason)
    return f'container "{container}" in pod "{pod}" is waiting to start: {why}'


class NodeServer:
    """The HTTPS server of one node.

    Parameters
    ----------
    containers : Containers
        The node's pods.
    runtime : Attacher
        Runs the programs of ``kubectl exec``.
    host : str
        The address to listen on.
    context : ssl.SSLContext
        The node's certificate; must demand one of its clients, signed by the cluster's authority.

    Raises
    ------
    InputError
        The context lets anybody in.
    """

    def __init__(
        self, containers: Containers, runtime: Attacher, *, host: str, context: ssl.SSLContext
    ) -> None:
        if context.verify_mode is not ssl.CERT_REQUIRED:
            raise InputError(
                "a node's server must know its clients",
                found=f"verify_mode {context.verify_mode.name}",
                needed="CERT_REQUIRED with the cluster's authority",
                fix="Make the context by aiinfra_lab.tls.server_context(..., client_ca=...).",
            )
        self._containers, self._runtime = containers, runtime
        self._host, self._context = host, context
        self._runner: web.AppRunner | None = None

    async def start(self) -> int:
        """Begin to serve, and give the port."""
        app = web.Application(middlewares=[_known_client, _sentences])
        app.add_routes(
            [
                web.get("/healthz", _healthy),
                web.get("/containerLogs/{namespace}/{pod}/{container}", self._logs),
                *_both("/exec/{namespace}/{pod}/{container}", self._exec),
                *_both("/portForward/{namespace}/{pod}", self._port_forward),
                *_both("/attach/{namespace}/{pod}/{container}", _no_attach),
            ]
        )
        # A client that leaves ends what was done for it.
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=_CLOSE_S
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, 0, ssl_context=self._context).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        return int(runner.addresses[0][1])

    async def close(self) -> None:
        """Stop serving; requests under way are cut off."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        known = runner.server.connections if runner.server is not None else []
        transports = [connection.transport for connection in known]
        await runner.cleanup()
        for transport in transports:
            if transport is not None:
                transport.abort()  # else TLS waits half a minute for the other side's goodbye
        await asyncio.sleep(0)  # in which they close

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        options = LogOptions.from_query(request.query)
        previous = truth(request.query, "previous")
        where = _where(request)
        path = self._containers.log(*where, previous=previous)
        # Asked in the same breath: the log and the run belong together.
        run = None if previous else self._containers.running(*where)
        if path is None:
            raise self._no_log(where, previous=previous)

        def ended() -> bool:
            return run is None or self._containers.running(*where) != run

        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        try:
            async with contextlib.aclosing(read_log(path, options, ended=ended)) as parts:
                async for part in parts:
                    await response.write(part)
            await response.write_eof()
        except ConnectionError:  # the reader has left
            pass
        except OSError as error:
            # The status is sent; only a broken transfer can still say that this is not all.
            _log.warning("log %s: %s", path, error)
            if request.transport is not None:
                request.transport.abort()
        return response

    def _no_log(self, where: tuple[str, str, str], *, previous: bool) -> web.HTTPException:
        _, pod, container = where
        waits = self._containers.waits(*where)
        if previous and (waits or self._containers.log(*where, previous=False)):
            text = f'previous terminated container "{container}" in pod "{pod}" not found'
            return web.HTTPBadRequest(text=text)
        if waits:
            return web.HTTPBadRequest(text=waits)
        return _unknown(where)

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        where = _where(request)
        run = self._containers.running(*where)
        if run is None:
            if waits := self._containers.waits(*where):
                raise web.HTTPBadRequest(text=waits)
            if self._containers.log(*where, previous=False) is None:
                raise _unknown(where)
            _, pod, container = where
            raise web.HTTPBadRequest(text=f'container "{container}" in pod "{pod}" does not run')
        return await serve_exec(request, self._runtime, run)

    async def _port_forward(self, request: web.Request) -> web.StreamResponse:
        namespace, pod = request.match_info["namespace"], request.match_info["pod"]
        address = self._containers.address(namespace, pod)
        if address is None:
            raise web.HTTPNotFound(text=f'pod "{pod}" does not run on this node')
        return await serve_port_forward(request, address)


@web.middleware
async def _known_client(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let the API server in, and whoever has a certificate of its authority ask for health."""
    transport = request.transport
    shown: dict[str, Any] = (transport and transport.get_extra_info("peercert")) or {}
    names = [v for part in shown.get("subject", ()) for k, v in part if k == "commonName"]
    if names != [API_SERVER] and request.path != "/healthz":
        name = ", ".join(names) or "nobody"
        raise web.HTTPForbidden(text=f"{name} may not use this node; only the API server may")
    return await handler(request)


@web.middleware
async def _sentences(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A mistake in the request is answered by its sentence."""
    try:
        return await handler(request)
    except InputError as error:
        raise web.HTTPBadRequest(text=str(error)) from None
    except AIInfraLabError as error:
        raise web.HTTPInternalServerError(text=str(error)) from None


async def _healthy(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def _no_attach(_: web.Request) -> web.Response:
    text = "this node does not attach to a program that runs; use kubectl logs -f or kubectl exec"
    raise web.HTTPNotImplemented(text=text)


def _both(path: str, handler: Handler) -> tuple[web.RouteDef, web.RouteDef]:
    """Both methods by which a connection may be upgraded."""
    return web.get(path, handler), web.post(path, handler)


def _where(request: web.Request) -> tuple[str, str, str]:
    found = request.match_info
    return found["namespace"], found["pod"], found["container"]


def _unknown(where: tuple[str, str, str]) -> web.HTTPException:
    _, pod, container = where
    return web.HTTPNotFound(text=f'container "{container}" of pod "{pod}" is not on this node')
