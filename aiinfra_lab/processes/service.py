"""What can be started and stopped, as a context manager for both kinds of code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Service(ABC):
    """Base of servers made of a ``Child``: entering starts, leaving stops, whatever happened."""

    @abstractmethod
    def start(self) -> Self:
        """Start; returns when it is ready."""

    @abstractmethod
    async def start_async(self) -> Self:
        """As ``start``."""

    @abstractmethod
    def stop(self) -> object:
        """End it; may be called again."""

    @abstractmethod
    async def stop_async(self) -> object:
        """As ``stop``."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await self.start_async()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop_async()
