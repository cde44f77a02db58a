"""One pod in the node's hands: an asyncio task that looks at what is, and does the next thing.

It is level-based: each round compares the pod as the API server has it with the states that the
runtime reported, and never counts on having seen what lies between two rounds. So a round after a
restart of the agent, of the runtime or of the API server is a round like any other.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from aiinfra_lab.errors import AIInfraLabError
from aiinfra_lab.kube.node.container import Container
from aiinfra_lab.kube.node.problems import PodProblem
from aiinfra_lab.kube.node.publisher import Publisher
from aiinfra_lab.kube.node.states import ContainerView, Object, recover, seconds
from aiinfra_lab.kube.node.status import (
    PodView,
    finished,
    init_specs,
    is_terminal,
    main_specs,
    own_grace,
    pod_status,
    restarts,
    status_patch,
    uninitialised,
)
from aiinfra_lab.kube.node.tools import Tools
from aiinfra_lab.kube.runtime.spec import ContainerState

T = TypeVar("T")

_RETRY_S = 0.5  # the API server or the runtime is away
_AFTER_BUG_S = 5.0
_TOLD_FROM = 3  # failures of the preparation
_DEADLINE = ("DeadlineExceeded", "The pod was active longer than its activeDeadlineSeconds.")

_log = logging.getLogger(__name__)


class _EndsFirst(Exception):
    """The pod is to end, so what was being prepared is not needed."""


class PodWorker:
    """One pod.

    Parameters
    ----------
    tools : Tools
        What the workers of a node share.
    pod : dict
        The pod as the API server has it.
    states : iterable of ContainerState
        What the runtime has of it already.
    """

    def __init__(self, tools: Tools, pod: Object, states: Iterable[ContainerState] = ()) -> None:
        self.pod, self.uid = pod, str(pod["metadata"]["uid"])
        self.ip, self.over, self.problem = "", False, ""
        self._tools, self._gone, self._prepared, self._tidy = tools, False, False, False
        self._failure: tuple[str, str] | None = None
        self._wake, self._ends = asyncio.Event(), asyncio.Event()
        self._publisher = Publisher(tools.api, self, tools.slots)
        self._problems, self._due = 0, 0.0
        self._grace, self._until = math.inf, math.inf
        loop, now = asyncio.get_running_loop(), datetime.now(UTC).timestamp()
        # From here on the loop's clock counts: the machine's may jump.
        began = seconds((pod.get("status") or {}).get("startTime")) or now
        self._began = loop.time() - max(now - began, 0.0)
        self.inits = [self._container(spec, init=True) for spec in init_specs(pod)]
        self.mains = [self._container(spec) for spec in main_specs(pod)]
        self._adopt(list(states))
        self._note_end()

    def _container(self, spec: Object, *, init: bool = False) -> Container:
        return Container(self._tools, spec, lambda: self.pod, self._wake.set, init=init)

    def _adopt(self, states: list[ContainerState]) -> None:
        known = recover(self.pod)
        if states or known:
            self.ip = (self.pod.get("status") or {}).get("podIP", "")
            self.ip = next((s.labels["ip"] for s in states if s.labels.get("ip")), self.ip)
        for container in self.all:
            mine = [s for s in states if s.labels.get("container") == container.name]
            container.adopt(known.get(container.name, ContainerView()), mine, self.ip)

    # What comes from outside.

    @property
    def all(self) -> list[Container]:
        """Its containers, the init containers first."""
        return [*self.inits, *self.mains]

    def update(self, pod: Object) -> None:
        """Take the pod as the API server has it now; an older one changes nothing."""
        if _version(pod) < _version(self.pod):
            return
        pod["metadata"].pop("managedFields", None)  # the larger half of many a pod
        self.pod = pod
        self._note_end()
        self._wake.set()

    def gone(self) -> None:
        """The API server knows the pod no more: what runs is killed, what lies there goes."""
        self._gone = True
        self._note_end()
        self._wake.set()

    def observe(self, state: ContainerState) -> None:
        """Take a state from the runtime."""
        for container in self.all:
            container.observe(state)

    def lose(self, present: Mapping[str, ContainerState]) -> None:
        """Compare with what the runtime has, by id, after it was away."""
        for container in self.all:
            container.lose(present)

    def _note_end(self) -> None:
        if self._gone or is_terminal(self.pod) or "deletionTimestamp" in self.pod["metadata"]:
            self._ends.set()

    # What the publisher asks.

    def view(self) -> PodView:
        """What is known now."""
        return PodView(
            containers={container.name: container.view for container in self.all},
            over=self.over,
            ip=self.ip,
            host_ip=self._tools.host_ip,
            failure=self._failure,
        )

    def patch(self) -> Object | None:
        """What is to be written to the pod's status; None: nothing."""
        if self._gone:
            return None
        return status_patch(self.pod, pod_status(self.pod, self.view(), datetime.now(UTC)))

    @property
    def blank(self) -> str:
        """Why containers wait that nothing is known of."""
        return "PodInitializing" if uninitialised(self.pod, self.view()) else "ContainerCreating"

    def deletable(self) -> bool:
        """Whether the pod was deleted and nothing of it runs."""
        return self.over and not self._gone and "deletionTimestamp" in self.pod["metadata"]

    # The work.

    async def run(self) -> None:
        """Work until the pod is gone and nothing is left of it on this node."""
        loop = asyncio.get_running_loop()
        slow = loop.call_later(self._tools.waits.slow_start, self._publisher.publish)
        try:
            while True:
                self._wake.clear()
                try:
                    until = await self._step()
                except _EndsFirst:
                    continue
                except AIInfraLabError as error:
                    _log.debug("pod %s: %s", self.uid, error)
                    self.problem, until = str(error), loop.time() + _RETRY_S
                except Exception:
                    _log.exception("pod %s", self.uid)
                    until = loop.time() + _AFTER_BUG_S
                if until < 0:
                    return
                self._publisher.publish()
                await self._wait(until - loop.time())
        finally:
            slow.cancel()
            await self.close()

    async def close(self) -> None:
        """Let go of everything but the containers."""
        await self._publisher.close()
        for container in self.all:
            await container.close()

    async def _wait(self, for_s: float) -> None:
        if self._wake.is_set() or for_s <= 0:
            await asyncio.sleep(0)
            return
        timer = None
        if for_s < math.inf:
            timer = asyncio.get_running_loop().call_later(for_s, self._wake.set)
        await self._wake.wait()
        if timer is not None:
            timer.cancel()

    async def _step(self) -> float:
        """Do the next thing; give the loop's time of the next round, or -1 for never."""
        if self._gone:
            return await self._bury()
        until = min((container.look() for container in self.all), default=math.inf)
        ends = self._must_end()
        for container in self.all:
            if (ended := container.view.ended) is not None:
                again = restarts(self.pod, container.spec, ended.exit_code)
                container.settle(again=again and ends is None)
        if ends is not None:
            return min(until, await self._wind_down(*ends))
        return min(until, self._deadline(), await self._advance())

    def _must_end(self) -> tuple[float, str] | None:
        """How long it may take to end, and why it has to; None: it goes on."""
        meta, own = self.pod["metadata"], own_grace(self.pod)
        if "deletionTimestamp" in meta:
            grace = meta.get("deletionGracePeriodSeconds")
            return (own if grace is None else float(grace)), "the pod is deleted"
        if is_terminal(self.pod):
            return own, "the pod has ended"
        if self.over or finished(self.pod, self.view()):
            return own, "the pod is done"
        if self._failure or asyncio.get_running_loop().time() >= self._deadline():
            self._failure = _DEADLINE
            return own, "the pod's deadline is over"
        return None

    def _deadline(self) -> float:
        limit = self.pod["spec"].get("activeDeadlineSeconds")
        return math.inf if limit is None else self._began + limit

    async def _wind_down(self, grace: float, why: str) -> float:
        now = asyncio.get_running_loop().time()
        shorter = grace < self._grace
        if shorter:
            self._grace, self._until = grace, min(self._until, now + grace)
        alive = [c for c in self.all if c.alive and not c.sidecar]
        # Sidecars serve the others to the end, and each the ones that were started after it.
        alive = alive or [c for c in reversed(self.inits) if c.alive][:1]
        for container in alive:
            if shorter or not container.ending:
                container.end(max(self._until - now, 0.0), why)
        if alive:
            return math.inf
        if not self.over:
            self.over = True
            self._tools.release(self.uid)
        if is_terminal(self.pod) and not self._tidy:
            self._tidy = True
            for container in self.all:  # the API server has all that is to be known of them
                await container.remove()
        return math.inf

    async def _bury(self) -> float:
        alive = [container for container in self.all if container.alive]
        for container in alive:
            container.end(0.0, "the pod is gone")
        if alive:
            return math.inf
        for container in self.all:
            await container.remove()
        await self._tools.preparation.forget(self.uid)
        return -1.0

    async def _advance(self) -> float:
        now = asyncio.get_running_loop().time()
        if not self._prepared:
            if now >= self._due:
                await self._prepare()
            if not self._prepared:
                return self._due
        before = all(container.view.now is None for container in self.mains)
        for container in self.inits:
            if container.view.succeeded and not container.sidecar:
                continue
            if not before and not container.sidecar:
                continue
            await self._start(container)
            done = container.view.started and container.view.running and container.sidecar
            if before and not done:
                return container.due if container.due > now else math.inf
        for container in self.mains:
            ended = container.view.ended
            if ended is None or restarts(self.pod, container.spec, ended.exit_code):
                await self._start(container)
        waits = [c.due for c in self.all if not c.alive and c.due > now]
        return min(waits, default=math.inf)

    async def _prepare(self) -> None:
        try:
            self.ip = await self._unless_ending(self._tools.preparation.pod(self.pod))
        except PodProblem as problem:
            self._problems += 1
            wait = self._tools.waits.preparation.wait(self._problems)
            self._due = asyncio.get_running_loop().time() + wait
            self.problem = str(problem)
            # The API server's node authorizer learns of a new pod a moment after its node does.
            if self._problems >= _TOLD_FROM:
                self._tools.recorder.record(self.pod, "Warning", "FailedMount", self.problem)
            return
        self._prepared, self.problem = True, ""

    async def _start(self, container: Container) -> None:
        if not container.alive and container.due <= asyncio.get_running_loop().time():
            await container.start(self.ip, self._unless_ending)

    async def _unless_ending(self, work: Coroutine[Any, Any, T]) -> T:
        """Do ``work``; give it up where the pod is to end first."""
        task, ends = asyncio.ensure_future(work), asyncio.ensure_future(self._ends.wait())
        try:
            await asyncio.wait({task, ends}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise _EndsFirst
            return task.result()
        finally:
            task.cancel()
            ends.cancel()


def _version(pod: Object) -> int:
    found = str(pod["metadata"].get("resourceVersion", ""))
    return int(found) if found.isdigit() else 0
