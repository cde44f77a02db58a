"""An IPython kernel on sockets that it was handed. Runs *inside* the sandbox.

Its five listening sockets are made outside and come as open handles (ZMQ_USE_FD), so the kernel
and its client share no folder: a submission has no place on the host's disk to write to, and
nothing outside /tmp to find.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import zmq
from ipykernel.heartbeat import Heartbeat
from ipykernel.kernelapp import IPKernelApp

PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
# What a kernel imports when it starts, and a check when it runs: imported here, so once by the
# server and not in each of its forks. A name that is not there costs nothing but time.
PRELOAD = (
    "IPython.core.completerlib", "IPython.core.logger", "IPython.core.oinspect",
    "IPython.extensions.storemagic", "IPython.utils.wildcard", "ipykernel.debugger",
    "matplotlib_inline.config", "pydoc", "pdb", "sysconfig", "stringprep", "encodings.idna",
    "encodings.ascii", "tornado.platform.asyncio", "tornado.queues", "zoneinfo", "statistics",
    "pydantic_settings", "aiinfra_lab.course.blocking", "aiinfra_lab.course.conditions",
    "aiinfra_lab.course.exercises", "aiinfra_lab.settings",
)  # fmt: skip
# Where a figure is drawn, as ipykernel itself would choose it.
BACKEND = "module://matplotlib_inline.backend_inline"

for _name in PRELOAD:
    with contextlib.suppress(ImportError):
        importlib.import_module(_name)


class _HandedHeartbeat(Heartbeat):  # type: ignore[misc]
    handle = -1

    def _try_bind_socket(self) -> None:
        _bind(self.socket, self.handle)


class _HandedApp(IPKernelApp):  # type: ignore[misc]
    """The application, without a connection file, on sockets by number."""

    handles: Mapping[int, int] = {}

    def init_connection_file(self) -> None:
        pass

    def write_connection_file(self, **_: Any) -> None:
        pass

    def cleanup_connection_file(self) -> None:
        pass

    def _try_bind_socket(self, s: Any, port: int) -> int:
        _bind(s, self.handles[port])
        return port

    def init_heartbeat(self) -> None:
        number = self.hb_port
        self.heartbeat = _HandedHeartbeat(zmq.Context(), ("ipc", "kernel", number))
        self.heartbeat.handle = self.handles[number]
        self.heartbeat.start()

    def init_control(self, context: Any) -> None:
        super().init_control(context)
        # The debugger would call the shell by its name, which exists outside only; without this
        # it would try again ten times a second.
        self.debug_shell_socket.disconnect(self.shell_socket.getsockopt(zmq.LAST_ENDPOINT))


def _bind(socket: Any, handle: int) -> None:
    socket.setsockopt(zmq.USE_FD, handle)
    socket.bind("ipc://kernel")  # a name only: the socket is bound already


def run(handles: Sequence[int], order: Mapping[str, Any]) -> None:
    """Be a kernel until somebody ends it.

    Parameters
    ----------
    handles : sequence of int
        Listening sockets in the order of ``PORTS``.
    order : mapping
        ``key``: what signs the messages.
    """
    numbers = {name: number for number, name in enumerate(PORTS, start=1)}
    app = _HandedApp.instance()
    app.handles = dict(zip(numbers.values(), handles, strict=True))
    app.load_connection_info(
        {"transport": "ipc", "ip": "kernel", "key": order["key"], **numbers,
         "signature_scheme": "hmac-sha256"}
    )  # fmt: skip
    os.environ["MPLBACKEND"] = BACKEND
    # As python -m ipykernel_launcher leaves them.
    sys.argv = ["ipykernel_launcher"]
    app.log_level = logging.CRITICAL
    app.config.HistoryManager.enabled = False
    app.initialize([])
    app.start()
