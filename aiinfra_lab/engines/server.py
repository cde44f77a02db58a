"""What embedded servers have in common: a name, a folder, a port, and one child at a time."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

from aiinfra_lab.errors import InputError
from aiinfra_lab.processes import Child, Service


class EmbeddedServer(Service):
    """Base of the embedded servers; a subclass says how its child is started.

    Parameters
    ----------
    folder : str or Path, optional
        Its working folder, for the log ``<name>.log``; made if it is not there. By default a
        temporary one that ``stop`` removes.
    port : int
        The TCP port; 0 takes a free one at the first start.
    name : str
        What errors and the log file call it.
    """

    kind: str
    """What its temporary folder is called after."""

    def __init__(self, folder: str | os.PathLike[str] | None, *, port: int, name: str) -> None:
        if not 0 <= port <= 65535:
            raise InputError(f"the port is {port}", needed="0 (any free one) to 65535")
        if not name or name.startswith(".") or "/" in name:
            raise InputError(f"a server has a plain name, found {name!r}")
        self.name = name
        self._given = None if folder is None else Path(folder).absolute()
        self._port = port
        self._removal: weakref.finalize[..., Any] | None = None
        self._child: Child | None = None

    @property
    def child(self) -> Child:
        """The process of the last start."""
        if self._child is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._child

    def stop(self) -> None:
        """End the server and remove its temporary folder; may be called again."""
        try:
            if self._child is not None:
                self._child.stop()
        finally:
            self._remove_folder()

    async def stop_async(self) -> None:
        """As ``stop``."""
        try:
            if self._child is not None:
                await self._child.stop_async()
        finally:
            self._remove_folder()

    def _made_folder(self) -> Path:
        """The folder for the next child, which exists."""
        folder = self._given or self._temporary_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the folder {folder} cannot be made", found=error.strerror) from None
        return folder

    def _temporary_folder(self) -> Path:
        self._remove_folder()
        folder = Path(tempfile.mkdtemp(prefix=f"aiinfra-{self.kind}-"))
        self._removal = weakref.finalize(self, _remove, folder, os.getpid())
        return folder

    def _remove_folder(self) -> None:
        if self._removal is not None:
            self._removal()


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked copy of the owner removes nothing when it exits
        shutil.rmtree(folder, ignore_errors=True)
