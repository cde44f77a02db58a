"""The runtime as a server: one JSON object a line on a unix socket, answers and news.

A client asks ``{"n": 1, "do": "run", "spec": {...}}`` and gets ``{"n": 1, "value": ...}`` or
``{"n": 1, "error": "InputError", "message": ...}``. First of all it gets ``{"hello": {...}}``, and
at any time ``{"event": {...}}``: the state of a container that has started or ended.
"""

from __future__ import annotations

import array
import base64
import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

from aiinfra_lab.errors import AIInfraLabError, InputError
from aiinfra_lab.kube.runtime import namespaces, place
from aiinfra_lab.kube.runtime.attachment import Attachment
from aiinfra_lab.kube.runtime.container import Container
from aiinfra_lab.kube.runtime.containers import Containers, checked_seconds
from aiinfra_lab.kube.runtime.execution import Execution
from aiinfra_lab.kube.runtime.failures import described
from aiinfra_lab.kube.runtime.logger import Logger
from aiinfra_lab.kube.runtime.loop import Loop
from aiinfra_lab.kube.runtime.spec import ContainerSpec, ContainerState
from aiinfra_lab.kube.runtime.start import Host

END_GRACE: Final = 1.0  # seconds for containers when the runtime ends; it has two in all
LONGEST_LINE: Final = 16 << 20  # bytes of a request: environments may be large
MOST_OUTPUT: Final = 16 << 20  # bytes that ``execute`` may collect
_MOST_UNREAD: Final = 32 << 20  # bytes that wait for a client until it is let go of
_CHUNK: Final = 1 << 16

Answer = Callable[[Any], None]


class Connection:
    """One client's connection: whole lines in, lines out, never waiting for it."""

    def __init__(self, server: Server, link: socket.socket) -> None:
        self._server, self._link = server, link
        self._in = bytearray()
        self._out = bytearray()
        self.open = True
        self.attached: Callable[[], None] | None = None  # what its end means to a program
        self._blocked = False
        link.setblocking(False)
        server.loop.reading(link.fileno(), self._receive)

    def _receive(self) -> None:
        try:
            data = self._link.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._in += data
        if b"\n" in data:
            *lines, rest = bytes(self._in).split(b"\n")
            self._in = bytearray(rest)
            for line in lines:
                self._server.handle(self, line)
        if len(self._in) > LONGEST_LINE:
            self.close()

    def say(self, document: dict[str, Any]) -> None:
        """Send one line, now or when the client reads again."""
        if not self.open:
            return
        self._out += json.dumps(document).encode() + b"\n"
        self._flush()
        if len(self._out) > _MOST_UNREAD:
            self.close()

    def give(self, document: dict[str, Any], fds: list[int]) -> None:
        """Send one line with descriptors; the client is let go of if it cannot take them now."""
        if not self.open:
            return
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        data = json.dumps(document).encode() + b"\n"
        try:
            sent = 0 if self._out else self._link.sendmsg([data], rights)
        except OSError:
            sent = 0
        if sent != len(data):
            self.close()

    def _flush(self) -> None:
        try:
            while self._out:
                del self._out[: self._link.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if bool(self._out) != self._blocked:
            self._blocked = bool(self._out)
            self._server.loop.writing(self._link.fileno(), self._flush if self._out else None)

    def close(self) -> None:
        """Let go of the client."""
        if self.open:
            self.open = False
            self._server.loop.forget(self._link.fileno())
            self._link.close()
            self._server.connections.discard(self)
            if self.attached is not None:
                self.attached()


class Server:
    """The runtime in ``folder``.

    Raises
    ------
    InputError
        Another runtime has the folder, or it cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.loop = Loop()
        self.connections: set[Connection] = set()
        self._told = False
        self._lock = place.hold(folder)
        self._folder = folder
        self._listen_to_signals()
        staging = folder / "root"
        staging.mkdir(exist_ok=True)
        self._host = Host(namespaces.probe(), str(staging.resolve()), _more_files())
        self._logger = Logger(self.loop)
        self.containers = Containers(self.loop, self._logger, self._host, self._announce)
        self._listener = place.listen(folder)
        self.loop.reading(self._listener.fileno(), self._accept)

    def _listen_to_signals(self) -> None:
        self._wake, wake = os.pipe()
        for fd in (self._wake, wake):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        self.loop.reading(self._wake, self._woken)

    def _on_signal(self, *_: object) -> None:
        self._told = True

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake, 512):
                pass
        self.containers.reap()
        if self._told and not self.containers.closing:
            self.containers.end_all(END_GRACE)

    def run(self) -> None:
        """Work until a signal asks for the end and every container has ended."""
        while not (self.containers.closing and self.containers.all_ended):
            self.loop.turn()
        place.socket_of(self._folder).unlink(missing_ok=True)
        self._logger.close()
        self.containers.close()

    def _accept(self) -> None:
        try:
            link, _ = self._listener.accept()
        except OSError:  # it has given up, or there are no more descriptors
            return
        connection = Connection(self, link)
        self.connections.add(connection)
        isolated = self._host.isolation != "none"
        connection.say({"hello": {"isolated": isolated, "pid": os.getpid(), "version": 1}})

    def _announce(self, state: ContainerState) -> None:
        for connection in list(self.connections):
            if connection.attached is None:
                connection.say({"event": asdict(state)})

    def handle(self, connection: Connection, line: bytes) -> None:
        """Do what one line asks for; answer now or later."""
        try:
            request = json.loads(line)
            number, verb = request["n"], request["do"]
        except (ValueError, KeyError, TypeError):
            connection.close()
            return

        def answer(value: Any) -> None:
            connection.say({"n": number, "value": value})

        try:
            if verb == "attach" and connection.attached is None:
                self.containers.execute(request["id"], partial(self._attach, request, connection))
            else:
                self._do(verb, request, answer)
        except AIInfraLabError as error:
            connection.say({"n": number, **described(error)})
        except OSError as error:
            problem = {"error": "AIInfraLabError", "message": f"{verb} failed: {error}"}
            connection.say({"n": number, **problem})
        except Exception as error:  # one client's nonsense must not end the others' containers
            problem = {"error": "InputError", "message": f"the request {verb} is wrong: {error!r}"}
            connection.say({"n": number, **problem})

    def _do(self, verb: str, request: dict[str, Any], answer: Answer) -> None:
        if verb == "run":
            spec = ContainerSpec.from_json(request["spec"])
            self.containers.run(spec, lambda state: answer(asdict(state)))
        elif verb == "stop":
            self.containers.stop(request["id"], float(request["grace"]))
            answer(None)
        elif verb == "list":
            answer([asdict(state) for state in self.containers.states()])
        elif verb == "remove":
            self.containers.remove(request["id"])
            answer(None)
        elif verb == "execute":
            self.containers.execute(request["id"], partial(self._execution, request, answer))
        else:
            raise InputError(f"the runtime does not know the request {verb!r}")

    def _execution(
        self, request: dict[str, Any], answer: Answer, container: Container, host: Host
    ) -> Execution:
        timeout, limit = request["timeout"], int(request["limit"])
        if timeout is not None:
            checked_seconds("timeout", timeout)
        if not 0 <= limit <= MOST_OUTPUT:
            raise InputError(f"limit is {limit}", needed=f"0 to {MOST_OUTPUT} bytes")

        def encoded(result: dict[str, Any]) -> None:
            answer(result | {"output": base64.b64encode(result["output"]).decode()})

        return Execution(
            self.loop,
            container,
            host,
            _words(request),
            stdin=base64.b64decode(request["stdin"]),
            timeout=timeout,
            limit=limit,
            answer=encoded,
        )

    def _attach(
        self, request: dict[str, Any], connection: Connection, container: Container, host: Host
    ) -> Attachment:
        def started(fds: dict[str, int], failure: str) -> None:
            if failure:
                problem = described(AIInfraLabError(failure))
                connection.say({"n": request["n"], **problem})
            else:
                connection.give({"n": request["n"], "value": list(fds)}, list(fds.values()))

        attachment = Attachment(
            self.loop,
            container,
            host,
            _words(request),
            stdin=bool(request["stdin"]),
            tty=bool(request["tty"]),
            started=started,
            over=lambda code: connection.say({"exit": code}),
        )
        connection.attached = attachment.leave
        return attachment


def _words(request: dict[str, Any]) -> list[str]:
    words = [str(word) for word in request["argv"]]
    if not words or not words[0] or any("\0" in word for word in words):
        raise InputError(f"what is to be run in {request['id']} is not a program and its words")
    return words


def _more_files() -> tuple[int, int]:
    """Take as many descriptors as allowed; gives the limits before, which programs get."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard
