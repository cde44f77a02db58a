"""The model server as a supervised child of this process.

It is ready when the block begins and gone when it ends, whatever happens in between. It keeps
its port over ``stop`` (or ``kill``) and ``start``, so that a drill can take it away and bring
it back under a client that knows one URL.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Self

from aiinfra_lab.errors import InputError, ProcessError
from aiinfra_lab.processes import Child, HttpAnswers, LogLine, Service

READY_WALL = 60.0  # seconds; it takes about one, but a machine may be busy
_KEPT_LOG = 8 << 20
_SPEAKER = "aiinfra_lab.serving: "


class ModelServer(Service):
    """A model server in a process of its own, on this machine's loopback address.

    Parameters
    ----------
    bundle : str or Path
        The bundle's folder.
    port : int
        0: any free port, and the same one after each later ``start``.
    faults : bool
        Offer ``/faults`` (see ``aiinfra_lab.serving.faults``).
    models : str or Path, optional
        Offer ``PUT /model`` for bundles below this folder.
    threads, max_queue, max_batch, max_body : int
        Predictions at work, predictions that may wait beyond them, instances of a request, bytes of
        a body.
    drain, grace : float
        Seconds at the end: not ready before the port closes, and then for the requests in flight.
    access_log : bool
        Write a line of JSON for each request into the log.
    log : str or Path, optional
        Where its output goes; by default a temporary file that goes with this object.

    Examples
    --------
    >>> with ModelServer(digits_bundle(), faults=True) as server:  # doctest: +SKIP
    ...     answer = httpx.get(f"{server.url}/readyz")
    """

    def __init__(
        self,
        bundle: str | Path,
        *,
        port: int = 0,
        faults: bool = False,
        models: str | Path | None = None,
        threads: int = 2,
        max_queue: int = 64,
        max_batch: int = 256,
        max_body: int = 4 << 20,
        drain: float = 0.0,
        grace: float = 10.0,
        access_log: bool = False,
        log: str | Path | None = None,
    ) -> None:
        words: dict[str, object] = {
            "--model": Path(bundle).absolute(),
            "--threads": threads,
            "--max-queue": max_queue,
            "--max-batch": max_batch,
            "--max-body": max_body,
            "--drain": drain,
            "--grace": grace,
        }
        if models is not None:
            words["--models"] = Path(models).absolute()
        flags = {"--faults": faults, "--admin": models is not None, "--access-log": access_log}
        self._options = [text for name, value in words.items() for text in (name, str(value))]
        self._options += [name for name, wanted in flags.items() if wanted]
        # KILL only when the server's own end has had its time.
        self._port, self._grace = port, drain + grace + 5
        self._url: str | None = None
        self._child: Child | None = None
        self._log = Path(log) if log is not None else self._temporary_log()

    def _temporary_log(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="aiinfra-model-server-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder / "log"

    @property
    def url(self) -> str:
        """Where it answers, without a slash at the end; stays after ``stop``.

        Raises
        ------
        InputError
            It was never started.
        """
        if self._url is None:
            raise InputError("the model server has no address yet", fix="Start it first.")
        return self._url

    @property
    def port(self) -> int:
        """The TCP port; 0 before the first start if none was named."""
        return self._port

    @property
    def log(self) -> Path:
        """The file with its output."""
        return self._log

    @property
    def pid(self) -> int | None:
        """Its process id; None while it does not run."""
        return self._child.pid if self.running and self._child else None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._child is not None and self._child.returncode is None

    def start(self) -> Self:
        """Start it and wait until it is ready.

        Raises
        ------
        InputError
            It runs already, or it refused its bundle, its port or another option.
        ProcessError
            It did not come up; the last lines of its log are in the error.
        """
        child = self._new_child().start()
        try:
            self._note(child.ready(self._said(), READY_WALL)[1])
            child.ready(self._answers(), READY_WALL)
        except BaseException as error:
            child.stop(0)
            raise _refused(error) or error from None
        return self

    async def start_async(self) -> Self:
        """As ``start``."""
        child = await self._new_child().start_async()
        try:
            self._note((await child.ready_async(self._said(), READY_WALL))[1])
            await child.ready_async(self._answers(), READY_WALL)
        except BaseException as error:
            await child.stop_async(0)
            raise _refused(error) or error from None
        return self

    def _new_child(self) -> Child:
        if self.running:
            raise InputError("the model server runs already", found=self._url or "it starts")
        # -P: a file of the caller's folder must not stand in for a library.
        command = [sys.executable, "-P", "-m", "aiinfra_lab.serving", *self._options]
        self._child = Child(
            [*command, "--port", str(self._port)],
            log=self._log,
            name="model server",
            grace=self._grace,
            max_log=_KEPT_LOG,
        )
        return self._child

    def _said(self) -> LogLine:
        return LogLine(r"^aiinfra_lab\.serving: .* ready at (http://\S+)$")

    def _answers(self) -> HttpAnswers:
        return HttpAnswers(f"{self.url}/readyz", status=200)

    def _note(self, url: str) -> None:
        self._url, self._port = url, int(url.rpartition(":")[2])

    def reload(self) -> None:
        """Have it read its bundle's folder again (SIGHUP); its log says what came of it."""
        if self._child is not None:
            self._child.send_signal(signal.SIGHUP)

    def stop(self) -> int | None:
        """End it in order; gives the exit status (0: every request was answered)."""
        return self._child.stop() if self._child else None

    async def stop_async(self) -> int | None:
        """As ``stop``."""
        return await self._child.stop_async() if self._child else None

    def kill(self) -> int | None:
        """End it at once, as a crash would: connections break, nothing is answered."""
        return self._child.stop(0) if self._child else None

    async def kill_async(self) -> int | None:
        """As ``kill``."""
        return await self._child.stop_async(0) if self._child else None

    def wait(self) -> int:
        """Wait until it ends; gives the exit status.

        Raises
        ------
        ProcessError
            It ended with an error; the last lines of its log are in it.
        """
        if self._child is None:
            raise InputError("the model server was never started")
        return self._child.wait(check=True)


def _refused(error: BaseException) -> InputError | None:
    """What the server itself said before it ended with the status for bad input."""
    if isinstance(error, ProcessError) and error.returncode == InputError.exit_code:
        last = (error.tail.splitlines() or [""])[-1]
        return InputError(last.removeprefix(_SPEAKER).rstrip("."))
    return None
