"""What the workers of one node share, and what they need of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from aiinfra_lab.kube.node.api import Api
from aiinfra_lab.kube.node.backoff import CRASH, IMAGE, PREPARATION, Backoff
from aiinfra_lab.kube.node.events import Recorder
from aiinfra_lab.kube.node.states import Object
from aiinfra_lab.kube.runtime.spec import ContainerSpec, ContainerState


class Engine(Protocol):
    """What is needed of the runtime."""

    async def run(self, spec: ContainerSpec, /) -> ContainerState: ...
    async def stop(self, run: str, grace: float, /) -> None: ...
    async def remove(self, run: str, /) -> None: ...


class Preparing(Protocol):
    """What is needed of ``Preparation``."""

    async def pod(self, pod: Object) -> str: ...
    async def container(
        self, pod: Object, container: Object, attempt: int, *, init: bool = False
    ) -> ContainerSpec: ...
    async def forget(self, pod_uid: str) -> None: ...
    def log(self, pod: Object, container: str, attempt: int) -> Path: ...


class Probing(Protocol):
    """What is needed of ``Prober``."""

    started: bool
    ready: bool
    must_restart: str
    grace: float | None

    def begin(self) -> None: ...
    async def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Waits:
    """How long what failed waits, and what is shown for how long."""

    crash: Backoff = CRASH
    image: Backoff = IMAGE
    preparation: Backoff = PREPARATION
    error_shown: float = 1.0  # ErrImagePull, before it becomes ImagePullBackOff
    slow_start: float = 0.25  # after which a pod that does not run yet shows ContainerCreating


ProberFactory = Callable[
    [Object, str, str, Callable[[], None], Callable[[str, str], None], float], Probing
]
Guard = Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]]
Hook = Callable[[Object, Object, str, str, float], Awaitable[str]]


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What the workers of one node share.

    ``release(uid)`` takes back what a pod that has ended was lent, such as its GPUs.
    ``prober(container, run, ip, changed, unhealthy, age)`` makes a prober; ``hook(handler,
    container, run, ip, timeout)`` runs a lifecycle hook and gives the complaint, or "".
    """

    api: Api
    runtime: Engine
    preparation: Preparing
    recorder: Recorder
    release: Callable[[str], None] = lambda uid: None
    prober: ProberFactory | None = None
    hook: Hook | None = None
    waits: Waits = field(default_factory=Waits)
    host_ip: str = "127.0.0.1"
    # Few at a time: a status that waits its turn is overtaken by its successor and never written.
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(8))
