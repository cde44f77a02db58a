"""Events about pods, for ``kubectl describe``: one that comes again is counted, not written anew.

They are told beside the work, never in its way: at most ``rate`` a second go out, and when the
API server is away the oldest are lost, as a kubelet's are.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import OrderedDict, deque
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from aiinfra_lab.kube.node.api import ApiAway, ApiError
from aiinfra_lab.kube.node.states import timestamp

Object = dict[str, Any]
Kind = Literal["Normal", "Warning"]

_WAITING = 2_000  # events that may wait to be told
_REMEMBERED = 1_000  # whose repetitions are counted
_RETRY_S = 1.0
_BEHIND_S = 0.1  # so that the pod's status, which somebody waits for, goes out first

_log = logging.getLogger(__name__)


class EventApi(Protocol):
    """What is needed of ``Api``."""

    async def create(self, path: str, body: Object) -> Object: ...
    async def patch(self, path: str, body: Object, *, strategy: Any = ...) -> Object: ...


class Recorder:
    """The events of one node.

    Parameters
    ----------
    api : Api
        Where they go.
    node : str
        The node's name.
    rate, burst : float
        Events a second in the long run, and at once after a pause (kubelet: 50 and 100).
    """

    def __init__(self, api: EventApi, node: str, *, rate: float = 50, burst: float = 100) -> None:
        self._api, self._node, self._rate, self._burst = api, node, rate, burst
        self._waiting: deque[tuple[Object, tuple[str, ...]]] = deque(maxlen=_WAITING)
        self._told: OrderedDict[tuple[str, ...], Object] = OrderedDict()
        self._some = asyncio.Event()
        self._numbers = itertools.count(time.time_ns())

    def record(
        self, pod: Object, kind: Kind, reason: str, message: str, container: str = ""
    ) -> None:
        """Tell what happened to ``pod``, or to its container of that name."""
        meta, now = pod["metadata"], timestamp(datetime.now(UTC))
        involved = {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": meta["namespace"],
            "name": meta["name"],
            "uid": meta["uid"],
            "resourceVersion": meta.get("resourceVersion", ""),
        }
        if container:
            init = any(c["name"] == container for c in pod["spec"].get("initContainers") or ())
            group = "initContainers" if init else "containers"
            involved["fieldPath"] = f"spec.{group}{{{container}}}"
        event: Object = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{meta['name'][:230]}.{next(self._numbers):x}",
                "namespace": meta["namespace"],
            },
            "involvedObject": involved,
            "type": kind,
            "reason": reason,
            "message": message[:1024],  # the API server's limit
            "source": {"component": "kubelet", "host": self._node},
            "reportingComponent": "kubelet",
            "reportingInstance": self._node,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        self._waiting.append((event, (meta["uid"], container, kind, reason, event["message"])))
        self._some.set()

    async def run(self) -> None:
        """Tell them, one after the other, until cancelled."""
        loop = asyncio.get_running_loop()
        allowed, looked = self._burst, loop.time()
        while True:
            if not self._some.is_set():
                await self._some.wait()
                await asyncio.sleep(_BEHIND_S)
            allowed = min(self._burst, allowed + (loop.time() - looked) * self._rate)
            looked = loop.time()
            if allowed < 1:
                await asyncio.sleep((1 - allowed) / self._rate)
                continue
            allowed -= 1
            event, key = self._waiting.popleft()
            if not self._waiting:
                self._some.clear()
            try:
                await self._tell(event, key)
            except ApiAway:
                self._waiting.appendleft((event, key))
                self._some.set()
                await asyncio.sleep(_RETRY_S)
            except ApiError as error:  # a namespace that ends takes no new events
                _log.debug("event %s: %s", event["reason"], error)

    async def _tell(self, event: Object, key: tuple[str, ...]) -> None:
        known = self._told.get(key)
        if known is not None:
            known["count"] += 1
            change = {"count": known["count"], "lastTimestamp": event["lastTimestamp"]}
            meta = known["metadata"]
            path = f"/api/v1/namespaces/{meta['namespace']}/events/{meta['name']}"
            with contextlib.suppress(ApiError):  # events live for an hour
                await self._api.patch(path, change)
                return
            del self._told[key]
        await self._api.create(f"/api/v1/namespaces/{event['metadata']['namespace']}/events", event)
        self._told[key] = {"metadata": event["metadata"], "count": 1}
        while len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
