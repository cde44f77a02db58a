"""MLflow, opened quietly: a tracking server, or SQLite under ``home`` from a migrated template.

MLflow is imported at the first use (about two seconds). Its own waits are minutes long; here a
request has ``REQUEST_S`` and two tries, and a server that is not there is noticed before MLflow
is imported at all. SQLite waits 20 s for a lock (MLflow fixes that).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiinfra_lab.errors import InputError
from aiinfra_lab.registry.errors import RegistryAway, RegistryError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

REQUEST_S = 10  # seconds for each answer of a server
CHECK_S = 2.0  # seconds for the first one
LOCK_S = 60.0  # seconds that another process of this machine may take for its change
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(REQUEST_S),
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_AWAY = {"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"}


class Backend:
    """Where models and runs are recorded.

    Parameters
    ----------
    root : Path
        The folder for the database, local artefacts, the outbox and the lock.
    url : str, optional
        A tracking server, ``http(s)://``; None: SQLite in ``root``.
    artifacts : str, optional
        Where new experiments keep their files, like ``s3://bucket/prefix``; None: the server's
        own place, or a folder in ``root``.
    """

    def __init__(self, root: Path, url: str | None = None, artifacts: str | None = None) -> None:
        self.root, self.url, self._artifacts = root, url, artifacts
        self.where = public_url(url) if url else str(root / "mlflow.db")

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client, made at the first use.

        Raises
        ------
        RegistryAway
            The server does not answer.
        InputError
            The folder cannot be written.
        """
        from aiinfra_lab.registry.template import make_database

        if self.url:
            self._check_server()
            uri = self.url
        else:
            self._make_root()
            make_database(self.root / "mlflow.db")
            uri = f"sqlite:///{self.root / 'mlflow.db'}"
        with self.translated():
            return _open(uri)

    @property
    def artifacts(self) -> str | None:
        """The root of new artefacts; None: the server decides."""
        if self._artifacts:
            return self._artifacts.rstrip("/")
        return None if self.url else (self.root / "artifacts").as_uri()

    def _make_root(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.root, error.strerror) from None
        if not os.access(self.root, os.W_OK):
            raise unwritable(self.root, "it is read-only")

    def _check_server(self) -> None:
        import requests

        try:
            answer = requests.get(f"{str(self.url).rstrip('/')}/health", timeout=CHECK_S)
        except requests.RequestException as error:
            raise self.away(type(error).__name__) from None
        if answer.status_code in (401, 403):
            raise InputError(
                f"AIINFRA_MLFLOW_URL: the server at {self.where} refuses the user or the password"
            )
        if answer.status_code != 200:
            raise self.away(f"status {answer.status_code}")

    def away(self, reason: str) -> RegistryAway:
        """The error for a registry that cannot be used now."""
        if self.url:
            return RegistryAway(
                f"AIINFRA_MLFLOW_URL: no MLflow server answers at {self.where} ({reason})",
                fix="Start it, or unset AIINFRA_MLFLOW_URL for the registry on this machine.",
            )
        return RegistryAway(
            f"the registry {self.where} cannot be used now ({reason})",
            fix="Try again when no other program holds it.",
        )

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Turn what MLflow raises into this project's errors, in one sentence."""
        import requests
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import DBAPIError

        try:
            yield
        except MlflowException as error:
            words = _first_line(error)
            if self.url and error.error_code in {*_AWAY, "INTERNAL_ERROR"}:
                self._check_server()
            if "readonly database" in words:
                raise unwritable(self.root, "the database is read-only") from None
            if error.error_code in _AWAY:
                raise self.away(words) from None
            raise RegistryError(f"the registry {self.where} refused: {words}") from None
        except requests.RequestException as error:
            raise self.away(type(error).__name__) from None
        except DBAPIError as error:
            raise RegistryError(
                f"the registry's database {self.where} cannot be used: {_first_line(error)}",
                fix="Move it away, or set AIINFRA_HOME to another folder.",
            ) from None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """One change at a time on this machine; the lock goes with its holder."""
        self._make_root()
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            end = time.monotonic() + LOCK_S
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise self.away(f"another process holds it for {LOCK_S:g} s") from None
                    time.sleep(0.01)
            yield
        finally:
            os.close(descriptor)


def code_of(error: Exception) -> str:
    """MLflow's word for an error, like ``RESOURCE_DOES_NOT_EXIST``; else an empty one."""
    return str(getattr(error, "error_code", ""))


def unwritable(folder: Path, reason: str | None) -> InputError:
    """The refusal of a folder that cannot be written."""
    return InputError(
        f"the registry cannot write to {folder}: {reason}",
        fix="Set AIINFRA_HOME to a folder that you may write to.",
    )


def public_url(url: str) -> str:
    """``url`` without user and password.

    Raises
    ------
    InputError
        It is no address of an MLflow server.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        raise InputError("AIINFRA_MLFLOW_URL is no address", needed="http://HOST:PORT or https://")
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


def _open(uri: str) -> MlflowClient:
    from aiinfra_lab.telemetry import silence_telemetry

    silence_telemetry()
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # MLflow's own code uses what SQLAlchemy and others deprecate; nobody here can mend that.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.tracking import MlflowClient

        # What these say comes as an error too; the first of them prints a stack trace with it.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client._get_registry_client()  # type: ignore[no-untyped-call]
    return client


def _first_line(error: Exception) -> str:
    text = str(getattr(error, "orig", None) or getattr(error, "message", None) or error)
    return (text.strip().splitlines() or [type(error).__name__])[0][:300]
