"""The fork server, and what its forks do before they run strange code. Runs *inside*.

``python -m aiinfra_lab.sandbox.server SOCKET nested|plain [MODULE...]`` imports the modules once
and then forks for each message on SOCKET. A message is one byte with open handles: the first is
the fork's control connection, the others are for the entry. The order (JSON, one line) comes on
the control connection, so what one submission is told never was in the server's memory, of which
every later fork holds a copy. It names the entry, ``module:function``, a function of the handles
and of the order.

A fork is two processes. The *keeper* passes on interrupts and ends, and tells the outside how it
ended; the *inmate*, its child, closes the walls and runs the entry. The inmate cannot see the
keeper, and all that the inmate started ends with it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from aiinfra_lab.sandbox import isolation, system
from aiinfra_lab.sandbox.limits import Limits

Entry = Callable[[Sequence[int], Mapping[str, Any]], None]
_MOST_HANDLES = 16
_LINUX = sys.platform == "linux"


def main(words: Sequence[str]) -> None:
    """Serve until the connection ends."""
    path, kind, *modules = words
    link = socket.socket(socket.AF_UNIX)
    link.connect(path)
    try:
        for name in modules:
            importlib.import_module(name)
    except Exception as error:
        link.sendall(f"{type(error).__name__}: {error}".encode()[:500])
        return
    # Objects that live for ever are left alone: a collection would touch, and so copy, each page.
    gc.collect()
    gc.freeze()
    link.sendall(b"ready")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are not waited for
    while True:
        data, handles, _, _ = socket.recv_fds(link, 1, _MOST_HANDLES)
        if not data:
            return
        if os.fork() == 0:
            link.close()
            _leave(partial(_keep, handles, nested=kind == "nested"))
        for handle in handles:
            os.close(handle)


def _leave(work: Callable[[], None]) -> NoReturn:
    """Do the work of a forked process and end without anything that the server would do."""
    try:
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


def _keep(handles: Sequence[int], *, nested: bool) -> None:
    control = socket.socket(fileno=handles[0])
    signal.signal(signal.SIGCHLD, lambda *_: None)
    if _LINUX:
        system.die_with_parent(signal.SIGKILL)
    # With the credentials that the system adds, the outside learns this process's number there.
    control.sendall(b"%d\n" % os.getpid())
    order = json.loads(_line(control))
    limits = Limits(**order.pop("limits"))
    try:
        if nested:
            isolation.open_namespaces()
        news, theirs = os.pipe()
        inmate = os.fork()
        if inmate == 0:
            _leave(partial(_live, handles[1:], order, limits, theirs, nested=nested))
        os.close(theirs)
        for handle in handles[1:]:
            os.close(handle)
        if _LINUX:
            system.drop_capabilities()
        trouble = _until_end(news)
    except OSError as error:
        trouble = str(error) or type(error).__name__
        inmate = 0
    control.sendall(json.dumps({"trouble": trouble}).encode() + b"\n")
    if inmate:
        control.sendall(json.dumps(_watch(control, inmate)).encode() + b"\n")


def _live(
    handles: Sequence[int],
    order: Mapping[str, Any],
    limits: Limits,
    news: int,
    *,
    nested: bool,
) -> None:
    """The inmate: walls first, then strange code."""
    try:
        if _LINUX:
            system.die_with_parent(signal.SIGKILL)
        os.setsid()
        _keep_only([*handles, news])
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if _LINUX:  # where memory runs out, this goes before its keeper and before the grader
            Path("/proc/self/oom_score_adj").write_text("500")
        if nested:
            isolation.close_walls(limits, hide=["/run"])
        elif _LINUX:
            isolation.shut(limits)
        else:
            limits.apply()
    except BaseException as error:
        os.write(news, (str(error) or type(error).__name__).encode()[:500])
        raise
    os.close(news)
    module, _, function = order["entry"].partition(":")
    entry: Entry = getattr(importlib.import_module(module), function)
    entry(handles, order)


def _keep_only(handles: Sequence[int]) -> None:
    """Nothing to read, nowhere to write, and no handle but these."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    highest = max(handles)
    for number in range(3, highest):
        if number not in handles:
            with contextlib.suppress(OSError):
                os.close(number)
    os.closerange(highest + 1, max(4096, highest + 2))


def _watch(control: socket.socket, inmate: int) -> dict[str, Any]:
    """Pass on what the outside says until the inmate ends; then how it ended."""
    wake, ring = os.pipe()
    os.set_blocking(ring, False)
    signal.set_wakeup_fd(ring)
    flags = os.WNOHANG
    while True:
        pid, status, usage = os.wait4(inmate, flags)
        if pid:
            cpu_s = usage.ru_utime + usage.ru_stime
            return {"status": os.waitstatus_to_exitcode(status), "cpu_s": cpu_s}
        readable, _, _ = select.select([control.fileno(), wake], [], [], 5.0)
        if wake in readable:
            os.read(wake, 64)
        if control.fileno() in readable:
            said = control.recv(64)
            # The end of the connection is the end of whoever wanted the result.
            if said and b"k" not in said:
                _signal(os.kill, inmate, signal.SIGINT)
            else:
                _signal(os.kill, inmate, signal.SIGKILL)
                _signal(os.killpg, inmate, signal.SIGKILL)
                flags = 0


def _signal(send: Callable[[int, int], None], pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        send(pid, number)


def _line(control: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        piece = control.recv(1 << 16)
        if not piece:
            os._exit(0)
        data += piece
    return data


def _until_end(handle: int) -> str:
    data = b""
    while piece := os.read(handle, 1 << 12):
        data += piece
    os.close(handle)
    return data.decode(errors="replace")


if __name__ == "__main__":
    # Python's own module of this name, so that pickles and forks agree on it.
    importlib.import_module("aiinfra_lab.sandbox.server").main(sys.argv[1:])
