"""The sockets on which a kernel is asked: made outside, handed to it as open handles."""

from __future__ import annotations

import socket
from pathlib import Path

# The order in which a kernel is handed its sockets (aiinfra_lab.grading.kernels.PORTS).
CHANNELS = ("shell", "iopub", "stdin", "control", "hb")


class Sockets:
    """Five listening sockets in a private folder, to be handed to a kernel."""

    def __init__(self, folder: Path, prefix: str = "kernel") -> None:
        self.paths = {name: folder / f"{prefix}-{n}" for n, name in enumerate(CHANNELS, start=1)}
        self._listeners: list[socket.socket] = []
        try:
            for path in self.paths.values():
                listener = socket.socket(socket.AF_UNIX)
                self._listeners.append(listener)
                listener.bind(str(path))
                listener.listen(16)
        except BaseException:
            self.close()
            raise

    @property
    def handles(self) -> list[int]:
        """The open handles, in the order of ``CHANNELS``."""
        return [listener.fileno() for listener in self._listeners]

    def handed_over(self) -> None:
        """Close this process's handles: connections end with the kernel from now on."""
        for listener in self._listeners:
            listener.close()

    def close(self) -> None:
        """Close and unlink."""
        self.handed_over()
        for path in self.paths.values():
            path.unlink(missing_ok=True)
