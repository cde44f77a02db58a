"""The node agent: it registers its node, gives each pod of it a worker, and answers for them.

It may end at any time. The containers belong to the runtime and go on; the next agent takes them
up from what the runtime has, what lies on the disk and what the API server knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiinfra_lab.errors import AIInfraLabError
from aiinfra_lab.files import write_bytes
from aiinfra_lab.kube.node.api import Api, ApiAway
from aiinfra_lab.kube.node.events import Recorder
from aiinfra_lab.kube.node.hooks import run_hook
from aiinfra_lab.kube.node.link import RuntimeLink
from aiinfra_lab.kube.node.order import Order
from aiinfra_lab.kube.node.pods import Pods
from aiinfra_lab.kube.node.probes import Prober
from aiinfra_lab.kube.node.provision.devices import Devices
from aiinfra_lab.kube.node.provision.images import ImageTable
from aiinfra_lab.kube.node.provision.preparation import NodeFacts, Preparation
from aiinfra_lab.kube.node.registration import Capacity, Registration
from aiinfra_lab.kube.node.serving.server import DECLARED_FEATURES, NodeServer, waiting_sentence
from aiinfra_lab.kube.node.tools import Tools, Waits
from aiinfra_lab.kube.node.worker import PodWorker
from aiinfra_lab.kube.ports import HOST

_REFRESH_S, _SIBLINGS_S = 20.0, 1.0
_CLOSE_S = 0.3
_RETRY_S = 0.2

_log = logging.getLogger(__name__)


class Agent:
    """One node's agent.

    Parameters
    ----------
    order : Order
        Which node.
    waits : Waits, optional
        How long what failed waits.
    """

    def __init__(self, order: Order, waits: Waits | None = None) -> None:
        self._order, self._waits = order, waits or Waits()
        self._listed = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Be the node's agent until ``stop``; then leave the containers as they are.

        Raises
        ------
        AIInfraLabError
            The runtime does not answer, or the API server refuses the node.
        """
        await _until_the_first_ends(stop.wait(), self._serve())

    async def _serve(self) -> None:
        order = self._order
        (order.folder / "port").unlink(missing_ok=True)
        async with contextlib.AsyncExitStack() as closing:
            runtime = await RuntimeLink.connect(order.folder / "runtime")
            closing.push_async_callback(_in_time, runtime.close)
            api = Api(order.url, self._context(ssl.Purpose.SERVER_AUTH))
            closing.push_async_callback(_in_time, api.close)
            authority = order.ca.read_text(encoding="ascii")
            tools, preparation = await self._tools(api, runtime, authority)
            pods = Pods(tools)
            closing.push_async_callback(_in_time, pods.close)
            server = NodeServer(
                Answers(pods, preparation),
                runtime,
                host=HOST,
                context=self._context(ssl.Purpose.CLIENT_AUTH),
            )
            closing.push_async_callback(_in_time, server.close)
            port = await server.start()
            await _until_the_first_ends(
                runtime.follow(pods.observe, lambda states: self._compare(pods, states)),
                tools.recorder.run(),
                self._be_known(api, port),
                self._watch(api, pods, preparation),
                _every(_REFRESH_S, lambda: _refresh(pods, preparation)),
                _every(_SIBLINGS_S, lambda: _introduce(pods, preparation)),
            )

    def _context(self, of_the_other: ssl.Purpose) -> ssl.SSLContext:
        # Not by ``tls``: making certificates needs 9 MB that using them does not.
        context = ssl.create_default_context(of_the_other, cafile=self._order.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self._order.cert, self._order.key)
        return context

    async def _tools(
        self, api: Api, runtime: RuntimeLink, authority: str
    ) -> tuple[Tools, Preparation]:
        order, address = self._order, urlsplit(self._order.url)
        self._devices = await asyncio.to_thread(Devices, order.gpus)
        facts = NodeFacts(
            name=order.name,
            number=order.number,
            folder=order.folder,
            shared=order.shared,
            api_host=address.hostname or "",
            api_port=address.port or 443,
            isolated=runtime.isolated,
            ca_pem=authority,
        )
        preparation = Preparation(facts, api, ImageTable(order.images), self._devices)
        tools = Tools(
            api=api,
            runtime=runtime,
            preparation=preparation,
            recorder=Recorder(api, order.name),
            release=preparation.ended,
            prober=lambda container, run, ip, changed, unhealthy, age: Prober(
                container, run, ip, runtime, changed, unhealthy, age=age
            ),
            hook=lambda handler, container, run, ip, timeout: run_hook(
                handler, run, ip, runtime, container, timeout
            ),
            waits=self._waits,
        )
        return tools, preparation

    def _compare(self, pods: Pods, states: list[Any]) -> None:
        pods.compare(states)
        self._listed.set()

    async def _watch(self, api: Api, pods: Pods, preparation: Preparation) -> None:
        await self._listed.wait()
        mine = f"spec.nodeName={self._order.name}"
        async for kind, found in api.watch("/api/v1/pods", fieldSelector=mine):
            if kind == "SYNCED":
                pods.synchronise(found.get("items") or [], folders=preparation.uids())
            elif kind == "DELETED":
                pods.delete(found)
            else:
                pods.update(found)

    async def _be_known(self, api: Api, port: int) -> None:
        """Register the node, say so by the file ``port``, and keep it known."""
        order, gpus = self._order, self._devices.count
        # On a machine without GPUs the resource is not named, unless the order wants it.
        named = gpus if gpus or order.gpus is not None else None
        while True:
            try:
                version = (await api.get("/version"))["gitVersion"]
                node = Registration(
                    api,
                    order.name,
                    Capacity.of_this_machine(order.folder, pods=order.pods, gpus=named),
                    port,
                    version,
                    labels=order.labels,
                    features=DECLARED_FEATURES,
                )
                await node.register()
                break
            except ApiAway as error:
                _log.info("%s", error)
                await asyncio.sleep(_RETRY_S)
        write_bytes(order.folder / "port", str(port).encode())
        await node.keep()


class Answers:
    """What the node's server asks about its pods."""

    def __init__(self, pods: Pods, preparation: Preparation) -> None:
        self._pods, self._preparation = pods, preparation

    def log(self, namespace: str, pod: str, container: str, *, previous: bool) -> Path | None:
        """The log of the newest run that was started, or of the one before it."""
        worker = self._pods.by_name(namespace, pod)
        known = worker and worker.view().containers.get(container)
        if not worker or not known or known.now is None:
            return None
        # A container that waits to be started again has its newest run as its last state.
        attempt = known.attempt - (previous and known.waiting is None)
        if attempt < 0:
            return None
        path = self._preparation.log(worker.pod, container, attempt)
        return path if path.exists() else None

    def running(self, namespace: str, pod: str, container: str) -> str | None:
        """The runtime's name of the run that is going on."""
        worker = self._pods.by_name(namespace, pod)
        known = worker and worker.view().containers.get(container)
        if not known or known.now is None or known.now.status != "running":
            return None
        return known.now.id

    def waits(self, namespace: str, pod: str, container: str) -> str | None:
        """Why the container has not been started yet."""
        worker = self._pods.by_name(namespace, pod)
        known = worker and worker.view().containers.get(container)
        if not worker or not known or known.now is not None:
            return None
        reason = known.waiting[0] if known.waiting else worker.blank
        sentence = waiting_sentence(pod, container, reason)
        why = (known.waiting and known.waiting[1]) or worker.problem
        return f"{sentence} ({why})" if why else sentence

    def address(self, namespace: str, pod: str) -> str | None:
        """The pod's own address."""
        worker = self._pods.by_name(namespace, pod)
        return worker.ip or None if worker else None


async def _until_the_first_ends(*works: Coroutine[Any, Any, object]) -> None:
    """Do the works side by side until one has ended, well or not; the others are given up."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _in_time(close: Callable[[], Awaitable[None]]) -> None:
    """Close something, unless that takes too long: TERM ends the agent within a second."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_S):
            await close()


async def _every(seconds: float, work: Any) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except (AIInfraLabError, OSError) as error:
            _log.warning("%s", error)


def _living(pods: Pods) -> list[PodWorker]:
    return [worker for worker in pods if worker.ip and not worker.over]


async def _refresh(pods: Pods, preparation: Preparation) -> None:
    for worker in _living(pods):
        await preparation.refresh(worker.pod)


async def _introduce(pods: Pods, preparation: Preparation) -> None:
    if any(worker.pod["spec"].get("subdomain") for worker in _living(pods)):
        await preparation.siblings()
