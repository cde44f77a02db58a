"""The pods of one node, and a worker for each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator
from typing import Any

from aiinfra_lab.kube.node.states import Object
from aiinfra_lab.kube.node.tools import Tools
from aiinfra_lab.kube.node.worker import PodWorker
from aiinfra_lab.kube.runtime.spec import ContainerState

_log = logging.getLogger(__name__)


class Pods:
    """The pods of one node, and a worker for each.

    Parameters
    ----------
    tools : Tools
        What the workers share.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._workers: dict[str, PodWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._names: dict[tuple[str, str], str] = {}
        # Of pods that no worker has yet: after the agent's start, until the pods are known.
        self._unclaimed: dict[str, dict[str, ContainerState]] = {}

    def __iter__(self) -> Iterator[PodWorker]:
        return iter(list(self._workers.values()))

    def by_name(self, namespace: str, name: str) -> PodWorker | None:
        """The worker of a pod, by the pod's name."""
        return self._workers.get(self._names.get((namespace, name), ""))

    # What the runtime says.

    def observe(self, state: ContainerState) -> None:
        """A container started or ended."""
        uid = state.labels.get("uid", "")
        if (worker := self._workers.get(uid)) is not None:
            worker.observe(state)
        elif uid in self._unclaimed:
            self._unclaimed[uid][state.id] = state

    def compare(self, states: list[ContainerState]) -> None:
        """All that the runtime has, at the start and after it was away."""
        present = {state.id: state for state in states}
        self._unclaimed = {}
        for state in states:
            if state.labels.get("uid", "") not in self._workers:
                self._unclaimed.setdefault(state.labels.get("uid", ""), {})[state.id] = state
        for worker in self._workers.values():
            worker.lose(present)

    # What the API server says.

    def synchronise(self, pods: list[Object], *, folders: Collection[str] = ()) -> None:
        """All pods of the node; ``folders``: uids of which something lies on the disk."""
        present = {pod["metadata"]["uid"] for pod in pods}
        for pod in pods:
            self.update(pod)
        for uid, worker in list(self._workers.items()):
            if uid not in present:
                worker.gone()
        for uid in {*self._unclaimed, *folders} - present - set(self._workers):
            self._end_orphan(uid)

    def update(self, pod: Object) -> None:
        """One pod is new, or another."""
        pod["metadata"].pop("managedFields", None)
        uid = pod["metadata"]["uid"]
        if (worker := self._workers.get(uid)) is not None:
            worker.update(pod)
        else:
            self._begin(pod)

    def delete(self, pod: Object) -> None:
        """One pod is gone."""
        if (worker := self._workers.get(pod["metadata"]["uid"])) is not None:
            worker.gone()

    def _begin(self, pod: Object) -> PodWorker:
        meta = pod["metadata"]
        uid = meta["uid"]
        states = self._unclaimed.pop(uid, {})
        worker = PodWorker(self._tools, pod, states.values())
        self._workers[uid], self._names[meta["namespace"], meta["name"]] = worker, uid
        task = self._tasks[uid] = asyncio.ensure_future(worker.run())
        task.add_done_callback(lambda task: self._ended(uid, task))
        return worker

    def _ended(self, uid: str, task: asyncio.Task[None]) -> None:
        worker = self._workers.pop(uid)
        del self._tasks[uid]
        meta = worker.pod["metadata"]
        if self._names.get((meta["namespace"], meta["name"])) == uid:
            del self._names[meta["namespace"], meta["name"]]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("pod %s: %r", uid, error)

    def _end_orphan(self, uid: str) -> None:
        """A pod that was deleted while nobody looked: what is left of it goes."""
        states = self._unclaimed.get(uid, {}).values()
        labels: Any = next((state.labels for state in states), {})
        names = sorted({state.labels.get("container", "") for state in states})
        meta = {"uid": uid, "name": labels.get("pod", ""), "namespace": labels.get("namespace", "")}
        spec = {"containers": [{"name": name} for name in names]}
        self._begin({"metadata": meta, "spec": spec, "status": {}}).gone()

    async def close(self) -> None:
        """End the workers; the containers go on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
