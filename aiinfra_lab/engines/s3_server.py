"""One embedded S3 server, supervised: moto's, in a process of its own.

moto can also run in a thread, ready in a millisecond. A process costs a second or two at the start
and is worth it: its 130 MB and its work stay out of the program that is measured beside it, its
buckets are its own (in a thread they belong to the whole process, and two servers share them), and
it can hang, die and come back, which is what a client must live with.

- It listens on 127.0.0.1 only, and takes any key and secret: every user of this machine can
  reach it.
- Everything is in memory: a restarted server is empty.
"""

from __future__ import annotations

import os
import sys
from typing import Self

from aiinfra_lab.engines.s3_client import S3Access
from aiinfra_lab.engines.server import EmbeddedServer
from aiinfra_lab.errors import MissingNeed
from aiinfra_lab.processes import Child, HttpAnswers, LogLine

HOST = "127.0.0.1"
READY_S = 60.0  # it needs 1 to 2 s; this is for a machine under heavy load
GRACE_S = 2.0  # it has nothing to save
REGION = "us-east-1"  # in every other region a bucket needs a LocationConstraint


class S3Server(EmbeddedServer):
    """One embedded server; it ends with this process, whatever ends that.

    Parameters
    ----------
    folder : str or Path, optional
        For the log ``<name>.log``; made if it is not there. By default a temporary one that
        ``stop`` removes.
    port : int
        The TCP port; 0 takes a free one at the first start, and a restart takes the same.
    name : str
        What errors and the log file call it.

    Notes
    -----
    ``child`` is the process: SIGSTOP makes the server hang, SIGKILL is a crash.

    Examples
    --------
    >>> with S3Server() as server, server.access.client() as s3:  # doctest: +SKIP
    ...     s3.create_bucket(Bucket="models")
    """

    kind = "s3"

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, *, port: int = 0, name: str = "s3"
    ) -> None:
        super().__init__(folder, port=port, name=name)

    @property
    def access(self) -> S3Access:
        """What a client needs to know."""
        return S3Access(self.url, "embedded", "embedded", REGION)

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``; for ``port=0`` it is known from the first start on."""
        if not self._port:
            raise RuntimeError(f"{self.name} was not started: it has no port yet")
        return f"http://{HOST}:{self._port}"

    def start(self) -> Self:
        """Start the server; returns when it answers.

        Raises
        ------
        MissingNeed
            moto is not installed.
        InputError
            The folder cannot be made.
        ProcessError
            The server ended (its port is taken, say) or did not answer in time.
        """
        child = self._child = self._new_child()
        try:
            child.start()
            # Werkzeug prints the port that it was given once it listens.
            line = child.ready(LogLine(rf"Running on http://{HOST}:(\d+)"), READY_S)
            child.ready(HttpAnswers(f"http://{HOST}:{line[1]}/moto-api/"), READY_S)
            self._port = int(line[1])
        except BaseException:
            self.stop()
            raise
        return self

    async def start_async(self) -> Self:
        """As ``start``; a cancelled start leaves nothing."""
        child = self._child = self._new_child()
        try:
            await child.start_async()
            line = await child.ready_async(LogLine(rf"Running on http://{HOST}:(\d+)"), READY_S)
            await child.ready_async(HttpAnswers(f"http://{HOST}:{line[1]}/moto-api/"), READY_S)
            self._port = int(line[1])
        except BaseException:
            await self.stop_async()
            raise
        return self

    def _new_child(self) -> Child:
        import importlib.util

        if self._child is not None and self._child.returncode is None and self._child.pid:
            raise RuntimeError(f"{self.name} runs already")
        if not all(importlib.util.find_spec(module) for module in ("moto", "flask", "boto3")):
            raise MissingNeed(
                "there is no embedded S3 server",
                needed="moto[s3,server] and boto3 in this environment",
                fix="Install them, or set AIINFRA_S3_URL to a server that runs.",
            )
        folder = self._made_folder()
        words = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(self._port)]
        # A port in the environment would win over the one that it was given.
        env = {k: v for k, v in os.environ.items() if k != "MOTO_PORT"}
        log = folder / f"{self.name}.log"
        return Child(words, name=self.name, log=log, env=env, cwd=folder, grace=GRACE_S)

    def __repr__(self) -> str:
        return f"<S3Server {self.name} port={self._port or None}>"
