"""The container runtime as the agent sees it: the same one, also after it was started again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aiinfra_lab.errors import AIInfraLabError
from aiinfra_lab.kube.runtime.client import Runtime
from aiinfra_lab.kube.runtime.spec import ContainerSpec, ContainerState

_CONNECT_S = 10.0
_RETRY_S = 0.1

_log = logging.getLogger(__name__)


class RuntimeLink:
    """``Runtime`` whose connection is made anew when it breaks; made by ``connect``.

    While the runtime is away its calls raise, as its client's do.
    """

    def __init__(self, folder: Path, runtime: Runtime) -> None:
        self._folder, self._runtime = folder, runtime

    @classmethod
    async def connect(cls, folder: Path) -> RuntimeLink:
        """Connect to the runtime of ``folder``.

        Raises
        ------
        AIInfraLabError
            It does not answer.
        """
        return cls(folder, await Runtime.connect(folder, timeout=_CONNECT_S))

    @property
    def isolated(self) -> bool:
        """Whether containers get a mount namespace of their own."""
        return self._runtime.isolated

    async def follow(
        self,
        state: Callable[[ContainerState], None],
        back: Callable[[list[ContainerState]], None],
    ) -> None:
        """For ever: all there is to ``back``, first and after a gap, then changes to ``state``."""
        while True:
            try:
                events = self._runtime.events()
                back(await self._runtime.list())
                async for found in events:
                    state(found)
            except AIInfraLabError as error:
                _log.debug("%s", error)
            _log.warning("the container runtime is gone; connecting again")
            await self._runtime.close()
            await self._reconnect()

    async def _reconnect(self) -> None:
        while True:
            try:
                self._runtime = await Runtime.connect(self._folder, timeout=_CONNECT_S)
                return
            except (AIInfraLabError, OSError) as error:
                _log.debug("%s", error)
                await asyncio.sleep(_RETRY_S)

    async def run(self, spec: ContainerSpec) -> ContainerState:
        """As ``Runtime.run``."""
        return await self._runtime.run(spec)

    async def stop(self, run: str, grace: float, /) -> None:
        """As ``Runtime.stop``."""
        await self._runtime.stop(run, grace)

    async def list(self) -> list[ContainerState]:
        """As ``Runtime.list``."""
        return await self._runtime.list()

    async def remove(self, run: str, /) -> None:
        """As ``Runtime.remove``."""
        await self._runtime.remove(run)

    async def execute(self, run: str, argv: Sequence[str], /, **options: Any) -> Any:
        """As ``Runtime.execute``."""
        return await self._runtime.execute(run, argv, **options)

    async def attach(self, run: str, argv: Sequence[str], /, **options: Any) -> Any:
        """As ``Runtime.attach``."""
        return await self._runtime.attach(run, argv, **options)

    async def close(self) -> None:
        """Close the connection; the containers go on."""
        await self._runtime.close()
