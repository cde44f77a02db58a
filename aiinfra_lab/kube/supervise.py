"""The supervisor of a detached cluster: it starts it, revives what ends, and stops it when asked.

``aiinfra cluster up`` starts this program in a session of its own and leaves; ``down`` sends it
TERM. It is the components' parent, so that they end with it, whatever ends it. Its order comes on
stdin as one JSON object, the keyword arguments of ``LocalCluster``.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from typing import Any

from aiinfra_lab.errors import AIInfraLabError
from aiinfra_lab.kube.control_plane import Interrupted
from aiinfra_lab.kube.local import LocalCluster

LOOK_S = 0.5  # between two looks at the components
PAUSES_S = (0.0, 1.0, 2.0, 4.0, 8.0)  # before the first restart of a component, the second, ...
STEADY_S = 60.0  # who has lived so long starts again without a pause


class Reviver:
    """Restarts components that have ended, ever more slowly, until one does not come back."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._falls: dict[str, tuple[int, float]] = {}  # how often in a row, and when last

    def look(self, asked: threading.Event) -> None:
        """Restart what has ended.

        Raises
        ------
        AIInfraLabError
            A component has ended as often as there are pauses, or does not become healthy.
        """
        for name in self._cluster.ended():
            count, last = self._falls.get(name, (0, 0.0))
            count = 0 if time.monotonic() - last > STEADY_S else count
            status, tail = self._cluster.child(name).returncode, self._cluster.child(name).tail(3)
            print(f"{name} ended with {status}: {tail}", flush=True)
            if count >= len(PAUSES_S):
                raise AIInfraLabError(f"{name} ended {count + 1} times in a row")
            if asked.wait(PAUSES_S[count]):
                return
            self._falls[name] = (count + 1, time.monotonic())
            self._cluster.restart(name)


def supervise(order: dict[str, Any]) -> int:
    """Run one cluster until TERM or INT; give the exit status."""
    asked = threading.Event()
    cluster = LocalCluster(**order, detached=True)

    def end(number: int, frame: object) -> None:
        asked.set()
        cluster.call_off()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        cluster.start()
        reviver = Reviver(cluster)
        while not asked.wait(LOOK_S):
            reviver.look(asked)
    except Interrupted:  # in a start, which has cleaned up, or in a restart, which has not
        cluster.stop()
        return 0
    except AIInfraLabError as error:
        print(f"aiinfra: {error}", flush=True)
        cluster.fail(error)
        return error.exit_code
    cluster.stop()
    return 0


if __name__ == "__main__":
    sys.exit(supervise(json.load(sys.stdin)))
