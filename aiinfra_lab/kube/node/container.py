"""One container of a pod in the node's hands: started, watched, started again, ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from aiinfra_lab.errors import AIInfraLabError, InputError
from aiinfra_lab.kube.node.events import Kind
from aiinfra_lab.kube.node.problems import ImageProblem, PodProblem
from aiinfra_lab.kube.node.states import ContainerView, Object, is_sidecar, vanished
from aiinfra_lab.kube.node.status import own_grace
from aiinfra_lab.kube.node.tools import Guard, Probing, Tools, Waits
from aiinfra_lab.kube.runtime.spec import ContainerState

_RETRY_S = 0.5
_AFTER_HOOK_S = 2.0  # a container gets this long to end even if its preStop hook took all the grace

_log = logging.getLogger(__name__)


class Container:
    """One container; ``pod`` gives the pod as it is now, ``changed`` wakes its worker."""

    def __init__(
        self,
        tools: Tools,
        spec: Object,
        pod: Callable[[], Object],
        changed: Callable[[], None],
        *,
        init: bool = False,
    ) -> None:
        self.spec, self.init, self.sidecar = spec, init, init and is_sidecar(spec)
        self.view = ContainerView()
        self.due = 0.0  # on the loop's clock: not started before
        self._tools, self._pod, self._changed = tools, pod, changed
        self._failures = self._problems = 0
        self._settled: str = ""  # the run whose end was reckoned with
        self._backs_off_at = 0.0
        self._older: list[str] = []
        self._early: dict[str, ContainerState] = {}
        self._grace: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._stop: asyncio.Task[None] | None = None
        self._prober: Probing | None = None

    @property
    def name(self) -> str:
        """Its name in the pod."""
        return str(self.spec["name"])

    @property
    def alive(self) -> bool:
        """Whether it has a process."""
        return self.view.now is not None and self.view.now.status == "running"

    @property
    def ending(self) -> bool:
        """Whether it was told to end and has not yet."""
        return self.alive and self._grace is not None

    # What comes from the runtime and from the time before the agent's start.

    def adopt(self, known: ContainerView, states: Sequence[ContainerState], ip: str) -> None:
        """Take up what the API server and the runtime know of it."""
        runs = sorted(states, key=_attempt)
        now, before, attempt = known.now, known.before, known.attempt
        ahead = now is not None and attempt > max(map(_attempt, runs), default=-1)
        if runs and not ahead:
            newest = runs[-1]
            if now is not None and now.id != newest.id:
                before = next((run for run in runs if run.id == now.id), now)
            now, attempt = newest, max(attempt, _attempt(newest))
        elif now is not None and now.status == "running":
            now = vanished(now, datetime.now(UTC))
        if before is not None and before.status == "running":
            before = vanished(before, datetime.now(UTC))
        self._older = [run.id for run in runs if run is not now and run is not before]
        self.view = replace(known, now=now, before=before, attempt=attempt)
        if self.alive:
            self._watch(ip, started=known.started, ready=known.ready)

    def observe(self, state: ContainerState) -> None:
        """Take a state from the runtime; an older one than what is known changes nothing."""
        now = self.view.now
        if now is not None and now.id == state.id and now.status == "running":
            self.view = replace(self.view, now=state)
            self._changed()
        elif state.status == "exited" and state.labels.get("container") == self.name:
            self._early[state.id] = state

    def lose(self, present: Mapping[str, ContainerState]) -> None:
        """Compare with what a runtime that was started again has."""
        now = self.view.now
        if now is not None and now.status == "running":
            self.observe(present.get(now.id) or vanished(now, datetime.now(UTC)))

    # Start.

    async def start(self, ip: str, guard: Guard) -> None:
        """Start its next run; where that cannot be, ``waiting`` says why and ``due`` until when.

        ``guard`` awaits what may be given up; what was begun in the runtime may not.
        """
        pod, old, tools = self._pod(), self.view.now, self._tools
        attempt = self.view.attempt + (old is not None)
        try:
            spec = await guard(tools.preparation.container(pod, self.spec, attempt, init=self.init))
        except PodProblem as problem:
            image = isinstance(problem, ImageProblem)
            self._waits_for(problem.reason, str(problem), tools.waits, image=image)
            return
        image = self.spec.get("image", "")
        self._tell("Normal", "Pulled", f'Container image "{image}" is on this machine')
        try:
            state = await tools.runtime.run(spec)
        except InputError as error:
            self._waits_for("CreateContainerError", str(error), tools.waits)
            return
        # It may have ended already, and that been told, before this answer was looked at.
        state = self._early.get(state.id, state)
        self._early.clear()
        self._problems, self._grace, self._stop = 0, None, None
        if self.view.before is not None:
            await self._forget(self.view.before.id)
        self._remove_logs(attempt - 2)
        self.view = ContainerView(attempt=attempt, now=state, before=old)
        if state.status == "exited" and state.reason == "StartError":
            self._tell("Warning", "Failed", f"Error: {state.message}")
            return
        self._tell("Normal", "Created", f"Created container {self.name}")
        handler = (self.spec.get("lifecycle") or {}).get("postStart")
        if handler and tools.hook is not None and self.alive:
            # Until its hook has ended a container does not count as running.
            self.view = replace(self.view, waiting=("ContainerCreating", ""))
            self._spawn(self._post_start(handler, state.id, ip))
            return
        self._begins(ip)

    def _begins(self, ip: str) -> None:
        self._tell("Normal", "Started", f"Started container {self.name}")
        if self.alive:
            self._watch(ip)

    def _watch(self, ip: str, *, started: bool = False, ready: bool = False) -> None:
        now = self.view.now
        assert now is not None
        probes = ("livenessProbe", "readinessProbe", "startupProbe")
        make = self._tools.prober
        if make is None or not any(self.spec.get(probe) for probe in probes):
            self.view = replace(self.view, started=True, ready=True)
            return
        age = max(datetime.now(UTC).timestamp() - now.started_at, 0.0)
        self._prober = make(self.spec, now.id, ip, self._changed, self._unhealthy, age)
        if started:  # adopted: it does not lose its standing by the agent's restart
            self._prober.started, self._prober.ready = started, ready
        self._prober.begin()
        self.look()

    def _unhealthy(self, kind: str, message: str) -> None:
        self._tell("Warning", "Unhealthy", f"{kind} probe failed: {message}")

    async def _post_start(self, handler: Object, run: str, ip: str) -> None:
        assert self._tools.hook is not None
        complaint = await self._tools.hook(handler, self.spec, run, ip, float("inf"))
        if self.view.now is None or self.view.now.id != run or not self.alive:
            return
        self.view = replace(self.view, waiting=None)
        if complaint:
            self._tell("Warning", "FailedPostStartHook", complaint)
            self.end(own_grace(self._pod()), "its postStart hook failed")
        else:
            self._begins(ip)
        self._changed()

    def _waits_for(self, reason: str, message: str, waits: Waits, *, image: bool = False) -> None:
        self._problems += 1
        now = asyncio.get_running_loop().time()
        self.due = now + (waits.image if image else waits.preparation).wait(self._problems)
        self._backs_off_at = now + waits.error_shown if image else 0.0
        self.view = replace(self.view, waiting=(reason, message))
        self._tell("Warning", "Failed", f"Error: {message}")

    # While it runs.

    def look(self) -> float:
        """Bring the view up to date; give the moment (loop's clock) of the next look, or inf."""
        now = asyncio.get_running_loop().time()
        if self._prober is not None and self.alive and not self.ending:
            self.view = replace(self.view, started=self._prober.started, ready=self._prober.ready)
            if self._prober.must_restart:
                grace = self._prober.grace
                self.end(
                    own_grace(self._pod()) if grace is None else grace, self._prober.must_restart
                )
        if self._backs_off_at and self.view.waiting is not None:
            if now < self._backs_off_at:
                return self._backs_off_at
            self._backs_off_at, message = 0.0, self.view.waiting[1]
            text = f'Back-off pulling image "{self.spec.get("image", "")}"'
            self.view = replace(self.view, waiting=("ImagePullBackOff", f"{text}: {message}"))
            self._tell("Normal", "BackOff", text)
        return self.due if self.view.waiting is not None and self.due > now else float("inf")

    def settle(self, *, again: bool) -> None:
        """Reckon, once, with the end of a run; ``again``: it is to be started again."""
        ended = self.view.ended
        if ended is None or self._settled == ended.id:
            return
        self._settled = ended.id
        self._quiet()
        # A postStart hook may have been under way.
        self.view = replace(self.view, started=False, ready=False, waiting=None)
        if not again:
            return
        crash = self._tools.waits.crash
        self._failures = crash.failed(self._failures, ended.finished_at - ended.started_at)
        wait = crash.wait(self._failures)
        self.due = asyncio.get_running_loop().time() + wait
        if wait > 0:
            meta = self._pod()["metadata"]
            where = f"container {self.name} in pod {meta['name']}_{meta['namespace']}"
            text = f"back-off {wait:g}s before starting again {where}"
            self.view = replace(self.view, waiting=("CrashLoopBackOff", text))
            self._tell("Warning", "BackOff", f"Back-off before starting again {where}")

    # The end.

    def end(self, grace: float, why: str) -> None:
        """Have it end within ``grace`` seconds; later, only a shorter grace counts."""
        if not self.alive or (self._grace is not None and grace >= self._grace):
            return
        first, self._grace = self._grace is None, grace
        if first:
            self._tell("Normal", "Killing", f"Ending container {self.name}: {why}")
        if self._stop is not None:
            self._stop.cancel()
        handler = (self.spec.get("lifecycle") or {}).get("preStop") if first and grace > 0 else None
        self._stop = self._spawn(self._end(grace, handler))

    async def _end(self, grace: float, handler: Object | None) -> None:
        now, loop = self.view.now, asyncio.get_running_loop()
        assert now is not None
        began = loop.time()
        if handler and self._tools.hook is not None:
            ip = now.labels.get("ip", "")
            complaint = await self._tools.hook(handler, self.spec, now.id, ip, grace)
            if complaint:
                self._tell("Warning", "FailedPreStopHook", complaint)
            grace = max(grace - (loop.time() - began), min(_AFTER_HOOK_S, grace))
        while True:
            try:
                await self._tools.runtime.stop(now.id, grace)
                return
            except AIInfraLabError as error:  # it is away; when it is back, ``lose`` follows
                _log.debug("container %s: %s", self.name, error)
                await asyncio.sleep(_RETRY_S)

    def _remove_logs(self, attempt: int) -> None:
        """Of a run that ``kubectl logs --previous`` does not reach any more."""
        if attempt >= 0:
            log = self._tools.preparation.log(self._pod(), self.name, attempt)
            for path in log.parent.glob(f"{log.name}*"):
                path.unlink(missing_ok=True)

    async def remove(self) -> None:
        """Have the runtime forget its runs; their logs stay."""
        for run in (self.view.now, self.view.before):
            if run is not None and run.status == "exited":
                await self._forget(run.id)
        while self._older:
            await self._forget(self._older.pop())

    async def _forget(self, run: str) -> None:
        try:
            await self._tools.runtime.remove(run)
        except InputError:  # it runs, though a newer one does, too: it should never have
            await self._tools.runtime.stop(run, 0.0)

    async def close(self) -> None:
        """End its probes and hooks; not the container."""
        self._quiet()
        for task in self._tasks - self._closing:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _quiet(self) -> None:
        if self._prober is not None:
            closing = self._spawn(self._prober.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            self._prober = None
        if self._stop is not None:
            self._stop.cancel()

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("container %s: %s", self.name, error)
            self._changed()

    def _tell(self, kind: Kind, reason: str, message: str) -> None:
        self._tools.recorder.record(self._pod(), kind, reason, message, self.name)


def _attempt(state: ContainerState) -> int:
    found = state.labels.get("attempt", "0")
    return int(found) if found.isdigit() else 0
