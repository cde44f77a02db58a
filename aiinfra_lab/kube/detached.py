"""Local clusters that stay when the command ends: started, found again and ended by name."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

from aiinfra_lab.errors import AIInfraLabError, InputError, ProcessError
from aiinfra_lab.kube.components import COMPONENTS, checked_component
from aiinfra_lab.kube.node.provision.images import ImageTable
from aiinfra_lab.kube.nodes import checked_count
from aiinfra_lab.kube.place import Place, Record
from aiinfra_lab.kube.programs import find_programs
from aiinfra_lab.kube.provider import (
    Access,
    Wishes,
    own_record,
    refuse_unmet,
    unknown_cluster,
)

SUPERVISOR = "supervisor"
_MODULE = "aiinfra_lab.kube.supervise"
_LOOK_S = 0.05
_END_S = 30.0  # a stop takes 3 s; this is for a machine under heavy load


class LocalProvider:
    """The provider ``local``: a supervisor process of its own holds each cluster."""

    meets: ClassVar[frozenset[str]] = frozenset({"port", "workers", "gpus"})

    def up(self, name: str, wishes: Wishes) -> Access:
        """Start a cluster, or take up one that was kept; returns when it takes pods.

        Raises
        ------
        InputError
            A wish cannot be met, or the name belongs to another program.
        MissingNeed
            The programs are not here.
        ProcessError
            It did not come up; the sentence says why, and its logs stay.
        """
        refuse_unmet(wishes, "local")
        place = Place(name)
        record = own_record(place, "local")
        if place.is_held and record is not None:
            if wishes != Wishes(timeout=wishes.timeout):
                raise InputError(
                    f"cluster {name} is up already, and takes no such wish any more",
                    fix=f"First: aiinfra cluster down --name {name}",
                )
            return Access.to(place, self._wait(place, None, wishes.timeout))
        checked_count(1 + wishes.workers)
        ImageTable()
        find_programs(COMPONENTS)
        if wishes.crds:
            from aiinfra_lab.kube.clients import read_crds

            read_crds(wishes.crds)
        order = {
            "name": name,
            "keep": True,  # whether its state goes is for `down` to say
            "nodes": 1 + wishes.workers,
            "gpus": wishes.gpus,
            "port": wishes.port,
            "crds": [str(path.absolute()) for path in wishes.crds],
            "timeout": wishes.timeout,
        }
        process = self._spawn(place, order)
        try:
            return Access.to(place, self._wait(place, process, wishes.timeout))
        except BaseException:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
            raise

    def _spawn(self, place: Place, order: dict[str, object]) -> subprocess.Popen[bytes]:
        from aiinfra_lab.processes import tree

        try:
            place.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
            log = (place.logs / f"{SUPERVISOR}.log").open("wb")
        except OSError as error:
            raise InputError(
                f"the folder {place.root} cannot be written",
                found=error.strerror,
                fix="Set AIINFRA_HOME to a folder that you may write to.",
            ) from None
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, str(place.root)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
        # It waits for its order, so that its pid is on record before it does anything.
        began = tree.start_time(process.pid) or 0.0
        last = place.read()
        place.write(
            Record(
                name=place.name,
                phase="starting",
                pid=process.pid,
                start_time=began,
                keep=True,
                detached=True,
                parts=last.parts if last else [],
            )
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(order).encode())
            process.stdin.close()
        return process

    def _wait(
        self, place: Place, process: subprocess.Popen[bytes] | None, timeout: float
    ) -> Record:
        """Wait until the cluster is ready; ``process`` is its supervisor if it is ours."""
        last = time.monotonic() + 5 * timeout  # each component has its own time
        while time.monotonic() < last:
            ended = process is not None and process.poll() is not None
            record = place.read()
            if record is not None and record.phase == "ready":
                return record
            if ended or (process is None and not place.is_held):
                status = process.returncode if process else None
                raise _explained(place, record, status)
            time.sleep(_LOOK_S)
        raise ProcessError(f"cluster {place.name} was not ready in time")

    def down(self, name: str, *, keep: bool = False) -> None:
        """End a cluster and remove its state, unless ``keep``; also one that is still starting.

        Raises
        ------
        InputError
            There is no such cluster, or it belongs to another program.
        ProcessError
            It does not end.
        """
        place = Place(name)
        record = own_record(place, "local")
        if record is None and not place.is_held:
            raise unknown_cluster(name)
        if record is not None and not record.detached and place.is_held:
            raise InputError(
                f"cluster {name} belongs to process {record.pid}, which ends it by itself"
            )
        self._end_supervisor(place)
        if not place.hold():
            raise ProcessError(f"cluster {name} is being started again")
        try:
            place.end_leftovers()
            if not keep:
                place.remove()
            elif record := place.read():
                record.phase = "stopped"
                place.write(record)
        finally:
            place.release()

    def _end_supervisor(self, place: Place) -> None:
        last = time.monotonic() + _END_S
        told = 0
        while time.monotonic() < last:
            record = place.read()
            alive = record is not None and _is_supervisor(record.pid, place.root)
            if alive and record is not None and told != record.pid:
                os.kill(record.pid, 15)
                told = record.pid
            if not alive and not place.is_held:
                return
            time.sleep(_LOOK_S)
        raise ProcessError(f"cluster {place.name} does not end within {_END_S:g} s")

    def record(self, name: str) -> Record | None:
        """What is known about the cluster now."""
        return Place(name).read()

    def log(self, name: str, component: str) -> Path:
        """The log of a component, or of the ``supervisor``."""
        place = Place(name)
        record = place.read()
        if record is None:
            raise unknown_cluster(name)
        component = checked_component(component, SUPERVISOR, *(part.name for part in record.parts))
        path = place.logs / f"{component}.log"
        if not path.exists():
            raise InputError(f"{component} of cluster {name} has written no log")
        return path


def _is_supervisor(pid: int, root: Path) -> bool:
    """Whether ``pid`` is the supervisor of the cluster in ``root``; no clock is asked."""
    import psutil

    try:
        process = psutil.Process(pid)
        alive = process.status() != psutil.STATUS_ZOMBIE
        return alive and process.cmdline()[-2:] == [_MODULE, str(root)]
    except psutil.Error:
        return False


def _explained(place: Place, record: Record | None, status: int | None) -> AIInfraLabError:
    if record is not None and record.phase == "failed" and record.sentence:
        error = InputError if status == InputError.exit_code else ProcessError
        return error(record.sentence)
    if record is None or record.phase == "stopped":
        return ProcessError(f"cluster {place.name} was taken down while it was starting")
    from aiinfra_lab.processes.tail import read_tail

    tail = read_tail(place.logs / f"{SUPERVISOR}.log", 10, 0.0)
    return ProcessError(f"the supervisor of cluster {place.name} ended", tail=tail)
