"""The fork server from outside: start it, have it fork."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from aiinfra_lab.errors import ProcessError
from aiinfra_lab.processes import Child
from aiinfra_lab.sandbox.bubblewrap import CONTROL, Bubblewrap
from aiinfra_lab.sandbox.cgroups import Cgroup
from aiinfra_lab.sandbox.fork import POLL_S, Fork
from aiinfra_lab.sandbox.limits import Limits
from aiinfra_lab.sandbox.places import PrivateFolder, private_folder
from aiinfra_lab.sandbox.world import World

Kind = Literal["nested", "single", "bare"]
"""``nested``: bubblewrap once, each fork behind walls of its own. ``single``: bubblewrap, whose
forks can see each other: one server for each inmate. ``bare``: no walls but limits."""

_LINUX = sys.platform == "linux"
_START_S = 120.0


class ForkServer:
    """A process that has imported what its forks need.

    Parameters
    ----------
    modules : sequence of str
        Imported before the first fork.
    world : World
        What exists inside.
    limits : Limits
        Of each fork, unless it is given others.
    kind : {"nested", "single", "bare"}
        See ``Kind``.
    """

    def __init__(
        self,
        modules: Sequence[str] = (),
        *,
        world: World | None = None,
        limits: Limits | None = None,
        kind: Kind = "nested",
    ) -> None:
        self.kind: Kind = kind
        self.world, self.limits = world or World(), limits or Limits()
        self._modules = list(modules)
        self._folder: PrivateFolder | None = None
        self._child: Child | None = None
        self._link: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """The process number of the outermost process; None before the start."""
        return self._child.pid if self._child else None

    async def __aenter__(self) -> Self:
        """Start; returns when the modules are imported.

        Raises
        ------
        MissingNeed
            There are no namespaces here, and ``kind`` needs them.
        ProcessError
            It did not come up; its last lines say why.
        """
        self._folder = private_folder("aiinfra-sandbox-")
        try:
            await self._start(Path(self._folder.name))
        except BaseException:
            await self._stop()
            raise
        return self

    async def _start(self, folder: Path) -> None:
        control = folder / "control"
        control.mkdir()
        place = control / "server"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(place))
            # Folder and file must let nobody's user in; the folder above lets no one else.
            place.chmod(0o666)
            listener.listen(1)
            listener.setblocking(False)
            inside = place if self.kind == "bare" else Path(CONTROL) / "server"
            argv = [sys.executable, "-P", "-m", "aiinfra_lab.sandbox.server", str(inside)]
            argv += ["nested" if self.kind == "nested" else "plain", *self._modules]
            environment = dict(os.environ)
            if self.kind == "bare":
                (folder / "home").mkdir()
                environment = self.world.environment(str(folder / "home"))
            else:
                walls = Bubblewrap(self.world, folder, self.limits, nested=self.kind == "nested")
                argv = walls.command(argv)
            self._child = Child(
                argv, name="sandbox", log=folder / "log", cwd=folder / "control"
                if self.kind != "bare" else folder / "home", env=environment, grace=0.0,
            )  # fmt: skip
            await self._child.start_async()
            self._link = await self._accept(listener, self._child)
        place.unlink()
        answer = await self._first_words(self._link, self._child)
        if answer != b"ready":
            raise ProcessError(f"the sandbox could not be prepared: {answer.decode()}")

    async def _accept(self, listener: socket.socket, child: Child) -> socket.socket:
        def accepted() -> socket.socket | None:
            with contextlib.suppress(BlockingIOError):
                return listener.accept()[0]
            return None

        link = await child.ready_async(accepted, _START_S, what="its connection")
        link.setblocking(False)
        return link

    async def _first_words(self, link: socket.socket, child: Child) -> bytes:
        def heard() -> bytes | None:
            with contextlib.suppress(BlockingIOError):
                return link.recv(1 << 10) or None
            return None

        return await child.ready_async(heard, _START_S, what="the imports")

    async def fork(
        self,
        entry: str,
        order: Mapping[str, Any] | None = None,
        handles: Sequence[int] = (),
        *,
        limits: Limits | None = None,
        cgroup: bool = True,
    ) -> Fork:
        """Run ``entry`` in a fork, behind its walls.

        Parameters
        ----------
        entry : str
            ``module:function``, called inside with the handles and the order.
        order : mapping
            JSON for the entry.
        handles : sequence of int
            Open files for it; they stay the caller's here.

        Raises
        ------
        ProcessError
            The server is gone, or the walls could not be closed; the entry did not run then.
        """
        if self._link is None:
            raise ProcessError("the sandbox is not running")
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            if _LINUX:
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            fork = Fork(ours, limits or self.limits)
            try:
                self._link.setblocking(True)
                socket.send_fds(self._link, [b"f"], [theirs.fileno(), *handles])
            except OSError as error:
                fork.close()
                raise ProcessError(
                    f"the sandbox has ended: {error.strerror}", tail=self._tail()
                ) from None
            finally:
                self._link.setblocking(False)
        try:
            await self._until(lambda: bool(fork.pid), fork)
            if cgroup and _LINUX:
                fork.cgroup = Cgroup.make(fork.limits)
                if fork.cgroup and not fork.cgroup.add(fork.pid):
                    fork.cgroup.remove()
                    fork.cgroup = None
            fork.say({**(order or {}), "entry": entry, "limits": vars(fork.limits)})
            await self._until(lambda: fork.trouble is not None, fork)
        except BaseException:
            await asyncio.shield(fork.release())
            raise
        if fork.trouble:
            await fork.release()
            raise ProcessError(f"the walls of a sandbox could not be closed: {fork.trouble}")
        return fork

    async def _until(self, done: Callable[[], bool], fork: Fork) -> None:
        deadline = time.monotonic() + _START_S
        while not done():
            fork.listen()
            if done():
                return
            if fork.ending is not None or time.monotonic() > deadline:
                raise ProcessError("a sandbox did not come up", tail=self._tail())
            await asyncio.sleep(POLL_S)

    def _tail(self) -> str:
        return self._child.tail() if self._child else ""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop()

    async def _stop(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._child is not None:
            await self._child.stop_async(0.0)
        if self._folder is not None:
            self._folder.cleanup()
