"""The record of a run: parameters, metrics by step, files, and how it ended.

``Run.log`` only puts numbers into a queue. A thread sends them every second, a thousand at a time,
so that a training step never waits for a disk or a server. What could not be sent by the end is
written down beside the outbox and sent by ``flush``.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from aiinfra_lab.errors import AIInfraLabError, InputError
from aiinfra_lab.files import write_json
from aiinfra_lab.registry.backend import Backend, code_of
from aiinfra_lab.registry.errors import RegistryAway, RegistryError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

BATCH = 1000  # metrics that MLflow's servers take at a time
INTERVAL_S = 1.0  # seconds between two sendings
JOIN_S = 60.0  # seconds for the sending that is under way at the end

Row = tuple[str, float, int, int]  # name, value, milliseconds since the epoch, step
_current: contextvars.ContextVar[Run | None] = contextvars.ContextVar("run", default=None)


class Run:
    """A run that goes on; made by ``Runs.run``.

    Attributes
    ----------
    run_id : str
    experiment : str
    """

    def __init__(self, backend: Backend, experiment: str, run_id: str) -> None:
        self.experiment, self.run_id = experiment, run_id
        self._backend = backend
        self._rows: deque[Row] = deque()
        self._over = threading.Event()
        self._refusal: AIInfraLabError | None = None
        self._thread = threading.Thread(target=self._send_often, name="run-metrics", daemon=True)
        self._thread.start()

    def log(self, step: int, **metrics: float) -> None:
        """Note ``metrics`` at ``step``; returns at once.

        Numbers are converted by ``float``: a tensor on a GPU is waited for here.
        """
        now = int(time.time() * 1000)
        for name, value in metrics.items():
            self._rows.append((name, float(value), now, step))

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Keep the file or folder at ``path`` with the run, under ``folder``.

        Raises
        ------
        InputError
            There is nothing at ``path``.
        RegistryAway
            The registry cannot be reached.
        """
        source = Path(path)
        if not source.exists():
            raise InputError(f"there is no file {source} to keep with the run")
        client = self._backend.client
        with self._backend.translated():
            if source.is_dir():
                client.log_artifacts(self.run_id, str(source), folder)
            else:
                client.log_artifact(self.run_id, str(source), folder)

    def _send_often(self) -> None:
        while not self._over.wait(INTERVAL_S):
            try:
                self._send()
            except RegistryAway:
                continue  # the rows are in the queue again
            except AIInfraLabError as error:
                self._refusal = error  # said at the end of the run
                return

    def _send(self) -> None:
        while rows := [self._rows.popleft() for _ in range(min(BATCH, len(self._rows)))]:
            try:
                send(self._backend, self.run_id, rows)
            except BaseException:
                self._rows.extendleft(reversed(rows))
                raise

    def _end(self, status: str, unsent: Path) -> None:
        """Send what is left and write down how the run ended."""
        self._over.set()
        self._thread.join(JOIN_S)
        if self._refusal:
            with contextlib.suppress(AIInfraLabError):
                finish(self._backend, self.run_id, status)
            raise self._refusal
        try:
            self._send()
            finish(self._backend, self.run_id, status)
        except RegistryAway as error:
            write_json(unsent, {"run_id": self.run_id, "status": status, "rows": [*self._rows]})
            away = RegistryAway(
                f"{error.message}; the end of run {self.run_id} is kept in {unsent}",
                fix="flush() sends it when the registry answers again.",
            )
            away.kept = str(unsent)
            raise away from None


class Runs:
    """The runs of one backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._unsent = backend.root / "unsent"

    def current(self) -> Run | None:
        """The run inside whose block the caller is, if it is one of this backend's."""
        found = _current.get()
        return found if found and found._backend is self._backend else None

    @contextlib.contextmanager
    def run(
        self,
        experiment: str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Iterator[Run]:
        """Record the block as a run of ``experiment``.

        Its status is FINISHED, FAILED after an error or KILLED after Ctrl-C; a process that is
        killed leaves RUNNING. A model that is registered in the block is linked to the run.

        Raises
        ------
        RegistryAway
            The registry cannot be reached: at the start nothing was run; at the end the rest is
            kept, ``error.kept`` says where, and ``flush`` sends it.
        """
        run = Run(self._backend, experiment, self._begin(experiment, params or {}, tags or {}))
        token = _current.set(run)
        unsent = self._unsent / f"{run.run_id}.json"
        try:
            yield run
        except BaseException as error:
            status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            with contextlib.suppress(AIInfraLabError):  # the block's own error says more
                run._end(status, unsent)
            raise
        else:
            run._end("FINISHED", unsent)
        finally:
            _current.reset(token)

    def carrier(self, experiment: str, name: str, key: str) -> str:
        """The id of a new run that only holds a model's files."""
        run_id = self._begin(experiment, {}, {"aiinfra.key": key, "aiinfra.model": name})
        finish(self._backend, run_id, "FINISHED")
        return run_id

    def flush(self) -> None:
        """Send what runs could not send at their end."""
        for path in sorted(self._unsent.glob("*.json")):
            kept = json.loads(path.read_text("utf-8"))
            rows = [tuple(row) for row in kept["rows"]]
            for begin in range(0, len(rows), BATCH):
                send(self._backend, kept["run_id"], rows[begin : begin + BATCH])
            finish(self._backend, kept["run_id"], kept["status"])
            path.unlink(missing_ok=True)

    def _begin(self, experiment: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        from mlflow.entities import Param, RunTag

        client = self._backend.client
        words = [Param(str(name), str(value)) for name, value in params.items()]
        marks = [RunTag(str(name), str(value)) for name, value in tags.items()]
        with self._backend.translated():
            run_id = str(client.create_run(self._experiment(client, experiment)).info.run_id)
            client.log_batch(run_id, params=words, tags=marks)  # it cuts them into batches
        return run_id

    def _experiment(self, client: MlflowClient, name: str) -> str:
        if not name.strip():
            raise InputError("an experiment has a name, found an empty one")
        found = client.get_experiment_by_name(name)
        if found is None:
            root = self._backend.artifacts
            place = f"{root}/{quote(name, safe='')}" if root else None
            try:
                return str(client.create_experiment(name, artifact_location=place))
            except Exception as error:
                if code_of(error) != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = client.get_experiment_by_name(name)
        if found is None or found.lifecycle_stage != "active":
            raise RegistryError(f"the experiment {name} was deleted", fix="Use another name.")
        return str(found.experiment_id)


def send(backend: Backend, run_id: str, rows: list[Row]) -> None:
    """Add at most ``BATCH`` rows to a run; a row that is there already is not added again."""
    from mlflow.entities import Metric

    client = backend.client
    with backend.translated():
        client.log_batch(run_id, metrics=[Metric(*row) for row in rows])


def finish(backend: Backend, run_id: str, status: str) -> None:
    """Write down how a run ended."""
    client = backend.client
    with backend.translated():
        client.set_terminated(run_id, status)
