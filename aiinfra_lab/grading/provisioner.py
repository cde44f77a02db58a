"""A jupyter_client kernel provisioner that starts kernels in the sandbox.

For tools that start a kernel of their own: nbclient, nbval and JupyterLab stay unmodified. A
kernel spec names it, and may configure it::

    "metadata": {"kernel_provisioner": {"provisioner_name": "aiinfra-sandbox",
                                        "config": {"answers": ["aiinfra_lab.resilience"]}}}
"""

from __future__ import annotations

import asyncio
import signal
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner
from traitlets import Enum, List, Unicode

from aiinfra_lab.grading.sockets import CHANNELS, Sockets
from aiinfra_lab.grading.workplace import ENTRY
from aiinfra_lab.sandbox import Fork, ForkServer, World
from aiinfra_lab.sandbox.places import PrivateFolder, private_folder

NAME = "aiinfra-sandbox"
_GONE = 1  # the exit status of a kernel of which nothing more is known


class SandboxProvisioner(LocalProvisioner):  # type: ignore[misc]
    """One kernel in a sandbox of its own, reached by sockets in a private folder."""

    answers = List(Unicode(), help="modules that must not be there").tag(config=True)
    preload = List(Unicode(), help="modules to import before the kernel").tag(config=True)
    kind = Enum(["single", "nested", "bare"], "single", help="the walls").tag(config=True)

    _server: ForkServer | None = None
    _fork: Fork | None = None
    _sockets: Sockets | None = None
    _folder: PrivateFolder | None = None

    @property
    def has_process(self) -> bool:
        """Whether there is a kernel, running or ended and not waited for."""
        return self._fork is not None

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Choose the sockets: the kernel has no network that a client could reach."""
        manager = self.parent
        self._folder = self._folder or private_folder("aiinfra-kernel-")
        folder = Path(self._folder.name)
        self._sockets = Sockets(folder)
        manager.cache_ports = False
        manager.transport, manager.ip = "ipc", str(folder / "kernel")
        for number, name in enumerate(CHANNELS, start=1):
            setattr(manager, f"{name}_port", number)
        result: dict[str, Any] = await super().pre_launch(**kwargs)
        return result

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Start the sandbox and in it a kernel; the kernel spec's own command is not used."""
        assert self._sockets is not None
        modules = ["aiinfra_lab.grading.kernels", *self.preload]
        self._server = ForkServer(modules, world=World(tuple(self.answers)), kind=self.kind)
        try:
            await self._server.__aenter__()
            order = {"key": self.parent.session.key.decode()}
            self._fork = await self._server.fork(ENTRY, order, self._sockets.handles)
        except BaseException:
            await self._release()
            raise
        self._sockets.handed_over()
        self.pid, self.pgid = self._fork.pid, None
        return self.connection_info

    async def poll(self) -> int | None:
        """None while the kernel runs, then its exit status."""
        if self._fork is None:
            return 0
        self._fork.watch()
        if self._fork.ending is None:
            return None
        status = self._fork.ending.status
        return _GONE if status is None else status

    async def wait(self) -> int | None:
        """Wait for the kernel's end, and remove what it had."""
        while (status := await self.poll()) is None:
            await asyncio.sleep(0.02)
        await self._release()
        return status

    async def send_signal(self, signum: int) -> None:
        """Interrupt or end; no other signal reaches a kernel behind walls."""
        if self._fork is not None:
            if signum == signal.SIGINT:
                self._fork.interrupt()
            elif signum in (signal.SIGTERM, signal.SIGKILL):
                self._fork.kill()

    async def kill(self, restart: bool = False) -> None:
        """End the kernel and all that it started."""
        await self.send_signal(signal.SIGKILL)

    async def terminate(self, restart: bool = False) -> None:
        """As ``kill``: nothing in there is worth a farewell."""
        await self.send_signal(signal.SIGKILL)

    async def cleanup(self, restart: bool = False) -> None:
        """Leave nothing behind."""
        await self._release()
        if self._folder is not None and not restart:
            self._folder.cleanup()
            self._folder = None

    async def _release(self) -> None:
        fork, server, sockets = self._fork, self._server, self._sockets
        self._fork = self._server = self._sockets = None
        try:
            if fork is not None:
                await fork.release()
        finally:
            if server is not None:
                await server.__aexit__(None, None, None)
            if sockets is not None:
                sockets.close()


def register() -> None:
    """Make the provisioner known in this process, where its entry point is not installed."""
    place = f"{SandboxProvisioner.__module__}:{SandboxProvisioner.__name__}"
    entry = EntryPoint(NAME, place, KernelProvisionerFactory.GROUP_NAME)
    KernelProvisionerFactory.instance().provisioners[NAME] = entry
