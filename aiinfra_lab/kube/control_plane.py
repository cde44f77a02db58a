"""The four children of one cluster with their ports: started in order, watched, ended in order."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from aiinfra_lab.errors import InputError, ProcessError
from aiinfra_lab.kube.components import (
    APISERVER,
    COMPONENTS,
    ETCD,
    GRACE_S,
    Plan,
)
from aiinfra_lab.kube.place import Part, Place
from aiinfra_lab.kube.ports import HOST, ReservedPort
from aiinfra_lab.processes import Child
from aiinfra_lab.processes.probes import Probe

T = TypeVar("T")

_TRIES = 5  # where ports cannot be reserved, others may take a free one before us
_TAKEN = "address already in use"


class Interrupted(ProcessError):
    """A start was called off before its end; nothing of it is left."""


class ControlPlane:
    """The children of one cluster; ``LocalCluster`` says when each begins and ends.

    Parameters
    ----------
    place : Place
        For the logs, the pid files, the certificates and etcd's data.
    programs : mapping
        Path by component.
    port : int
        Of the API server; 0: any.
    durable, flags
        As ``Plan`` has them.
    timeout : float
        Seconds that one component may take to become healthy.
    called_off : threading.Event
        Once it is set, whoever waits here raises ``Interrupted``.
    """

    def __init__(
        self,
        place: Place,
        programs: Mapping[str, Path],
        *,
        port: int,
        durable: bool,
        flags: Mapping[str, Sequence[str]],
        timeout: float,
        called_off: threading.Event,
    ) -> None:
        self.children: dict[str, Child] = {}
        self._place, self._programs, self._wanted_port = place, programs, port
        self._durable, self._flags, self._timeout = durable, flags, timeout
        self._called_off = called_off
        self._ports: dict[str, ReservedPort] = {}

    @property
    def plan(self) -> Plan:
        """What the command lines are made of; from ``reserve`` on."""
        ports = {name: port.number for name, port in self._ports.items()}
        return Plan(self._place.pki, self._place.etcd, ports, self._durable, self._flags)

    def reserve(self, before: Mapping[str, int]) -> None:
        """Take the ports: the wanted one, else those of last time that are free, else any.

        Raises
        ------
        InputError
            The wanted port is taken.
        """
        for component in COMPONENTS:
            if component == APISERVER and self._wanted_port:
                what = f"cluster {self._place.name}"
                port = ReservedPort(self._wanted_port, what=what)
            else:
                port = _port_again(before.get(component, 0))
            self._ports[component] = port

    def launch(self, component: str) -> None:
        """Start one program; it need not be healthy yet."""
        argv = [str(self._programs[component]), *self.plan.words(component)]
        self.start_child(component, argv, grace=GRACE_S[component], env=_environment())

    def start_child(
        self, name: str, argv: Sequence[str], *, grace: float, env: Mapping[str, str]
    ) -> None:
        """Start any program as a part of this cluster, with its log and its pid file."""
        self.check(name)
        child = Child(
            argv,
            name=name,
            log=self._place.logs / f"{name}.log",
            cwd=self._place.root,
            env=env,
            grace=grace,
            pid_file=self._place.pids / f"{name}.pid",
        )
        self.children[name] = child.start()

    def await_healthy(self, component: str, moved: Callable[[], None]) -> Part:
        """Wait until a launched program is healthy; give what is known about it.

        ``moved`` is called when it had to take another port, which happens where ports cannot be
        reserved.
        """
        for attempt in range(1, _TRIES + 1):
            child, probe = self.children[component], self.plan.healthy(component)
            try:
                self.wait_for(component, probe, f"{component} to be healthy")
                break
            except ProcessError:
                fixed = component == APISERVER and self._wanted_port
                if attempt == _TRIES or fixed or _TAKEN not in child.tail(40):
                    raise
                self._ports[component].close()
                self._ports[component] = ReservedPort()
                moved()
                self.launch(component)
        return self.part(component, child, self._ports[component].number)

    def part(self, name: str, child: Child, port: int) -> Part:
        """What is known about a child that has become ready now."""
        return Part(name, child.pid or 0, port, round(time.time() - child.started_at, 3))

    def wait_for(self, component: str, probe: Probe[T], what: str) -> T:
        """Wait until ``probe`` answers; another component's end ends the wait."""
        child = self.children[component]
        look = probe.watch(child)

        def watched() -> T | None:
            self.check(component)
            for name, other in self.children.items():
                if other is not child and other.returncode is not None:
                    raise ProcessError(
                        f"{name} ended while {component} was starting",
                        returncode=other.returncode,
                        tail=other.tail(20),
                    )
            return look()

        return child.ready(watched, self._timeout, what=what)

    def check(self, where: str) -> None:
        """Raise ``Interrupted`` once the start was called off."""
        if self._called_off.is_set():
            name = self._place.name
            raise Interrupted(f"the start of cluster {name} was called off at {where}")

    def version(self) -> str:
        """The API server's version."""
        return str(self.request("GET", "/version")[1]["gitVersion"])

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """One request as the administrator: status and answer.

        The ``kubernetes`` package would cost a start 0.6 s to import.
        """
        # Not through a proxy, which would look for the server on its own machine.
        port = self._ports[APISERVER].number
        context = self.plan.admin()
        connection = http.client.HTTPSConnection(HOST, port, timeout=10, context=context)
        with contextlib.closing(connection):
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.load(answer)

    def ended(self) -> list[str]:
        """The components that have ended by themselves."""
        return [name for name, child in self.children.items() if child.returncode is not None]

    def end(self) -> None:
        """End all, clients before servers: an API server waits for clients that hang on to it."""
        servers = [name for name in (APISERVER, ETCD) if name in self.children]
        clients = [name for name in self.children if name not in servers]
        with contextlib.ExitStack() as stack:  # each is ended, whatever befalls the others
            for port in self._ports.values():
                stack.callback(port.close)
            for name in reversed([*clients, *servers]):
                stack.callback(self.children[name].stop)
            for name in clients:  # side by side
                self.children[name].send_signal(15)


def _port_again(number: int) -> ReservedPort:
    """The port of last time, for kubeconfigs that somebody has copied; else a free one."""
    if number:
        with contextlib.suppress(InputError):
            return ReservedPort(number)
    return ReservedPort()


def _environment() -> dict[str, str]:
    """What the programs get of ours: etcd takes ETCD_* for flags, and others read KUBECONFIG."""
    kept = ("PATH", "HOME", "TMPDIR", "LANG", "TZ", "GOMAXPROCS", "GOGC", "GOMEMLIMIT")
    # 30 MB less than Go's own 100, at no cost that could be measured.
    return {"GOGC": "70"} | {name: os.environ[name] for name in kept if name in os.environ}
