"""Start ranks on this host and see them to their end.

The agent (torchrun's, see ``agent``) is a supervised child: it ends with this process, whatever
ends this process, and its ranks with it. There is always a limit of time. A failure becomes one
sentence with the exit code of the rank that failed first.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiinfra_lab.errors import AIInfraLabError, InputError
from aiinfra_lab.observability import Progress, Reporter, parse_progress, progress
from aiinfra_lab.processes import Child
from aiinfra_lab.training.agent import FAILURES, Order
from aiinfra_lab.training.config import TrainingConfig
from aiinfra_lab.training.options import words_of
from aiinfra_lab.training.result import RESULT, Result, read_result

MODULE = "aiinfra_lab.training"
LOOK_EVERY_S = 0.1
# An agent ends its ranks within a second of a failure; one whose peer host is away may wait for
# ever in its own store, deaf to TERM.
AGENT_GRACE_S, DEAF_GRACE_S = 8.0, 2.0


class LaunchError(AIInfraLabError):
    """Ranks failed, or did not end in time.

    ``exit_code`` is that of the first rank that failed; ``said`` whether a rank gave the sentence.
    """

    def __init__(
        self, message: str, *, exit_code: int = 1, fix: str | None = None, said: bool = False
    ) -> None:
        super().__init__(message, fix=fix)
        self.exit_code, self.said = exit_code, said


@dataclass(frozen=True)
class Hosts:
    """Where the agents of several hosts meet.

    Attributes
    ----------
    count, index : int
        Hosts in all, and which this is; number 0 keeps the store.
    endpoint : str
        HOST:PORT of number 0.
    run_id : str
        The same on all of them.
    address : str
        What the others reach this host by. Rank 0, which writes the result, is on the host whose
        address comes first as text: so torch numbers them.
    interface : str
        The network interface of that address, where it is not an address of this host itself.
    meet_s : float
        Seconds that the hosts wait for each other at the start.
    """

    count: int
    index: int
    endpoint: str
    run_id: str
    address: str = ""
    interface: str = ""
    meet_s: float = 120.0

    def __post_init__(self) -> None:
        host, _, port = self.endpoint.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise InputError(
                "several hosts need a place to meet", found=repr(self.endpoint), needed="HOST:PORT"
            )
        if not 0 <= self.index < self.count:
            raise InputError(
                f"of {self.count} hosts this cannot be number {self.index}",
                needed=f"0..{self.count - 1}",
            )
        if not self.meet_s > 0:
            raise InputError("hosts cannot meet in no time", found=f"{self.meet_s:g} s")


def launch(
    words: Sequence[str],
    *,
    logs: str | Path,
    nproc: int = 1,
    max_restarts: int = 0,
    hosts: Hosts | None = None,
    limit_s: float = 24 * 3600.0,
    module: str = MODULE,
    on_progress: Callable[[Progress], object] | None = None,
) -> None:
    """Run ``python -m module words`` on ``nproc`` ranks of this host until all have ended.

    Parameters
    ----------
    words : sequence of str
        For each rank's command line.
    logs : str or Path
        Gets ``agent.log`` and a folder for each attempt and rank.
    nproc : int
        Ranks on this host.
    max_restarts : int
        How often all ranks are started again after a failure.
    hosts : Hosts, optional
        Of a training on several hosts; each of them calls ``launch``.
    limit_s : float
        Seconds until the ranks are ended.
    on_progress : callable, optional
        Called with what rank 0 of this host reports.

    Raises
    ------
    InputError
        ``nproc`` or ``max_restarts`` cannot be used.
    LaunchError
        A rank failed in the last attempt, or the time is over.
    """
    if nproc < 1 or max_restarts < 0:
        raise InputError(
            f"{nproc} ranks with {max_restarts} restarts cannot be started",
            needed="at least 1 rank and no negative number of restarts",
        )
    # A folder of its own for each launch: nobody reads the failure of the one before.
    folder = Path(logs).absolute() / time.strftime(f"%Y%m%d-%H%M%S-{uuid.uuid4().hex[:6]}")
    order = Order(
        module=module,
        words=[*words],
        nproc=nproc,
        max_restarts=max_restarts,
        logs=folder,
        run_id=hosts.run_id if hosts else folder.name,
        hosts=hosts.count if hosts else 1,
        first=hosts.index == 0 if hosts else True,
        endpoint=hosts.endpoint if hosts else "",
        address=hosts.address if hosts else "",
        interface=hosts.interface if hosts else "",
        meet_s=hosts.meet_s if hosts else Order.model_fields["meet_s"].default,
    )
    argv = [sys.executable, "-m", "aiinfra_lab.training.agent", order.model_dump_json()]
    with Child(argv, name="the agent of the ranks", log=folder / "agent.log") as agent:
        watch = _Watch(folder, on_progress)
        deadline = time.monotonic() + limit_s
        while agent.returncode is None:
            watch.look()
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"the ranks were ended after the limit of {limit_s:g} s",
                    fix="The run goes on from its last checkpoint with the same --out.",
                )
            if watch.failed_for > AGENT_GRACE_S:
                agent.stop(DEAF_GRACE_S)
                break
            time.sleep(LOOK_EVERY_S)
        watch.look()
        code = agent.returncode
    if code != 0:
        raise _failure(folder, agent, watch)


class _Watch:
    """Reads what the ranks of the newest attempt write."""

    def __init__(self, folder: Path, on_progress: Callable[[Progress], object] | None) -> None:
        self._folder, self._on_progress = folder, on_progress
        self._attempt: Path | None = None
        self._read = 0
        self._failed_at: float | None = None

    @property
    def failed_for(self) -> float:
        """Seconds since a rank of the newest attempt said that it failed; 0 while none did."""
        return 0.0 if self._failed_at is None else time.monotonic() - self._failed_at

    @property
    def errors(self) -> list[Path]:
        """What the ranks of the newest attempt wrote about their failures."""
        return sorted(self._attempt.glob("*/error.json")) if self._attempt else []

    def look(self) -> None:
        """Take note of new lines and failures."""
        attempts = sorted(self._folder.glob("*/attempt_*"), key=lambda path: int(path.name[8:]))
        if not attempts:
            return
        if attempts[-1] != self._attempt:
            self._attempt, self._read, self._failed_at = attempts[-1], 0, None
        if self._failed_at is None and self.errors:
            self._failed_at = time.monotonic()
        self._report(attempts[-1] / "0" / "stderr.log")

    def _report(self, log: Path) -> None:
        if self._on_progress is None:
            return
        try:
            with log.open("rb") as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode("utf-8", "replace").splitlines():
            if found := parse_progress(line):
                self._on_progress(found)


def _failure(folder: Path, agent: Child, watch: _Watch) -> LaunchError:
    """The sentence of the failure that explains the others."""
    found: list[dict[str, Any]] = []
    if (file := folder / FAILURES).exists():
        found = json.loads(file.read_text("utf-8"))
    if not found:  # the agent was stopped, or failed itself: ask the ranks
        found = [json.loads(path.read_text("utf-8")) for path in watch.errors]
        found = [f | {"sentence": f["message"]["message"], "signal": ""} for f in found]
    where = f"Logs by rank lie in {folder}."
    own = [f for f in found if f["sentence"] and not f.get("lost")]
    # SIGTERM is how the agent ends the ranks that are left.
    killed = [f for f in found if f["signal"] not in ("", "SIGTERM") and not f["sentence"]]
    lost = [f for f in found if f.get("lost")]
    for failure in sorted(own, key=lambda f: f["rank"]):
        code, fix = failure["code"] or 1, failure.get("fix")
        return LaunchError(failure["sentence"], exit_code=code, fix=fix, said=True)
    for failure in killed:
        return LaunchError(f"rank {failure['rank']} was ended by {failure['signal']}", fix=where)
    for failure in lost:
        return LaunchError(failure["sentence"], fix=where, said=True)
    for failure in found:
        return LaunchError(f"rank {failure['rank']} ended with {failure['exit_code']}", fix=where)
    return LaunchError(
        f"the agent of the ranks failed; its last lines:\n{agent.tail(8)}", fix=where
    )


def train_on_ranks(
    config: TrainingConfig,
    out: str | Path,
    *,
    nproc: int = 1,
    max_restarts: int = 0,
    hosts: Hosts | None = None,
    limit_s: float = 24 * 3600.0,
) -> Result | None:
    """Run ``train(config, out)`` on ``nproc`` ranks of this host, with progress.

    Returns
    -------
    Result or None
        None on a host that does not share the folder with rank 0.

    Raises
    ------
    InputError, LaunchError
        As ``launch``. A rank that fails after the result is written (at its very end) does not
        count.
    """
    folder = Path(out).absolute()
    (folder / RESULT).unlink(missing_ok=True)  # what is there at the end is of this launch
    with ExitStack() as stack:
        bars: list[Reporter[int]] = []

        def show(found: Progress) -> None:
            if not bars:
                bar = progress(found.total, "training", initial=found.step)
                bars.append(stack.enter_context(bar))
            bars[0].update(found.step, **{n: v for n, v in found.metrics.items() if v is not None})

        try:
            launch(
                [*words_of(config), "--out", str(folder)],
                logs=folder / "ranks",
                nproc=nproc,
                max_restarts=max_restarts,
                hosts=hosts,
                limit_s=limit_s,
                on_progress=show,
            )
        except LaunchError as error:
            if error.said or not (folder / RESULT).exists():
                raise
    return read_result(folder)
