"""Startup, liveness and readiness probes of one running container, with the kubelet's rules.

A container is started when its startup probe has succeeded, or at once without one; until then
the other probes wait. It is ready when it is started and its readiness probe has succeeded as
often in a row as ``successThreshold`` says. A startup or liveness probe that failed
``failureThreshold`` times in a row gives the container up. A probe that could not be made at all,
because the runtime is away or a port has no such name, counts neither way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Literal

from aiinfra_lab.clock import Clock, SystemClock
from aiinfra_lab.kube.node.actions import (
    ActionError,
    ActionFailed,
    Executor,
    Object,
    http_get,
    run_command,
    tcp_connect,
)
from aiinfra_lab.kube.node.provision.environment import expand

Kind = Literal["startup", "liveness", "readiness"]
KINDS: Final[tuple[Kind, ...]] = ("startup", "liveness", "readiness")

_log = logging.getLogger(__name__)


class Prober:
    """The probes of one run of one container.

    Parameters
    ----------
    container : mapping
        As the API has it, with its probes and ports.
    run, ip : str
        The runtime's name of the container, and its pod's address.
    runtime : Executor
        Runs the command of ``exec`` probes.
    changed : callable
        Called when ``started``, ``ready`` or ``must_restart`` has changed.
    unhealthy : callable
        Called for every probe that failed with its kind (``Liveness``) and what was wrong.
    age : float
        Seconds that the container has been running; ``initialDelaySeconds`` count from its start.
    clock : Clock, optional
        When probes are due.

    Attributes
    ----------
    started, ready : bool
        As the container's status shows them. To be set before ``begin`` where they are known from
        before the agent was started anew.
    must_restart : str
        Why it has to be ended, once a startup or liveness probe gave it up; empty until then.
    grace : float, optional
        Seconds that the probe that gave it up allows for its end, if it says so.
    """

    def __init__(
        self,
        container: Object,
        run: str,
        ip: str,
        runtime: Executor,
        changed: Callable[[], None],
        unhealthy: Callable[[str, str], None],
        *,
        age: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        self.must_restart = ""
        self.grace: float | None = None
        self._container, self._run, self._ip, self._runtime = container, run, ip, runtime
        self._changed, self._unhealthy = changed, unhealthy
        self._clock = clock or SystemClock()
        self._born = self._clock.monotonic() - age
        self._probes: dict[Kind, Object] = {
            kind: probe for kind in KINDS if (probe := container.get(f"{kind}Probe"))
        }
        self.started = "startup" not in self._probes
        self.ready = self.started and "readiness" not in self._probes
        self._gate = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """Begin to probe."""
        if self.started:
            self._gate.set()
        for kind, probe in self._probes.items():
            if kind != "startup" or not self.started:
                self._tasks.append(asyncio.create_task(self._watch(kind, probe)))

    async def close(self) -> None:
        """Stop probing; a probe under way is given up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _watch(self, kind: Kind, probe: Object) -> None:
        if kind != "startup":
            await self._gate.wait()
        delay = self._born + float(probe.get("initialDelaySeconds") or 0) - self._clock.monotonic()
        await self._clock.sleep(max(0.0, delay))
        period = float(probe.get("periodSeconds") or 10)
        needed = {
            True: int(probe.get("successThreshold") or 1),
            False: int(probe.get("failureThreshold") or 3),
        }
        last, row = None, 0
        while not self.must_restart:
            due = self._clock.monotonic() + period
            result = await self._probe(kind, probe)
            if result is not None:
                row = row + 1 if result is last else 1
                last = result
                if row >= needed[result] and self._decided(kind, probe, result):
                    return
            await self._clock.sleep(max(0.0, due - self._clock.monotonic()))

    def _decided(self, kind: Kind, probe: Object, result: bool) -> bool:
        """Take note of a result that has come often enough; True ends this probe."""
        before = self.started, self.ready
        if kind == "readiness":
            self.ready = result
        elif not result:
            self.must_restart = f"Container {self._container['name']} failed {kind} probe"
            grace = probe.get("terminationGracePeriodSeconds")
            self.grace = None if grace is None else float(grace)
        elif kind == "startup":
            self.started, self.ready = True, "readiness" not in self._probes
            self._gate.set()
        if self.must_restart or before != (self.started, self.ready):
            self._changed()
        return kind == "startup" or bool(self.must_restart)

    async def _probe(self, kind: Kind, probe: Object) -> bool | None:
        """Probe once; None where the probe could not be made."""
        try:
            await self._ask(probe)
        except ActionFailed as error:
            self._unhealthy(kind.capitalize(), str(error))
            return False
        except ActionError as error:
            self._unhealthy(kind.capitalize(), f"the probe could not be made: {error}")
            return None
        except Exception as error:
            # A surprise must not end the probes of a container that goes on running.
            _log.exception("%s probe of %s", kind, self._run)
            self._unhealthy(kind.capitalize(), f"the probe could not be made: {error}")
            return None
        return True

    async def _ask(self, probe: Object) -> None:
        timeout = float(probe.get("timeoutSeconds") or 1)
        if "exec" in probe:
            # As in the kubelet, only variables that the container's own list gives a value.
            given = {e["name"]: e.get("value") or "" for e in self._container.get("env") or ()}
            argv = [expand(word, given) for word in probe["exec"].get("command") or ()]
            if not argv:
                raise ActionError("the probe has no command")
            ran = await run_command(self._runtime, self._run, argv, timeout=timeout)
            if ran.exit_code:
                said = ran.output.decode(errors="replace").strip()
                raise ActionFailed(said or f"the command exited with {ran.exit_code}")
        elif "httpGet" in probe:
            action = probe["httpGet"]
            status = await http_get(
                action, self._container, self._ip, timeout=timeout, agent="probe"
            )
            if not 200 <= status < 400:
                raise ActionFailed(f"HTTP probe failed with statuscode: {status}")
        elif "tcpSocket" in probe:
            await tcp_connect(probe["tcpSocket"], self._container, self._ip, timeout=timeout)
        else:
            kinds = "gRPC probes" if "grpc" in probe else "probes without an action"
            raise ActionError(f"this node makes no {kinds}; use exec, httpGet or tcpSocket")
