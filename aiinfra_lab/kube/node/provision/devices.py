"""The node's GPUs: how many there are, and which container has which.

Devices are known by nvidia-smi's index. Processes share the machine, so nothing but
CUDA_VISIBLE_DEVICES keeps a container to its own GPUs, and a value that the pod sets itself, which
in a real container counts from the container's first GPU, is counted among the container's own.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Mapping, Sequence

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube.node.problems import ConfigProblem

GPU = "nvidia.com/gpu"
# The driver's first answer after a boot takes seconds; one that hangs must not hold up the node.
_PATIENCE_S = 20.0

_log = logging.getLogger(__name__)


def count_gpus(program: str = "nvidia-smi", *, timeout: float = _PATIENCE_S) -> int:
    """How many GPUs this machine has; 0 where nvidia-smi is missing, fails or hangs."""
    command = [program, "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
    except FileNotFoundError:
        return 0
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.warning("the GPUs cannot be counted: %s", error)
        return 0
    if answer.returncode != 0:
        _log.warning("the GPUs cannot be counted: %s", (answer.stdout + answer.stderr).strip())
        return 0
    return sum(line.strip().isdigit() for line in answer.stdout.splitlines())


class Devices:
    """The GPUs of one node, and who has them.

    Parameters
    ----------
    count : int, optional
        How many there are; they may be made up, then only the indices exist. By default the
        machine's own are counted.
    """

    def __init__(self, count: int | None = None) -> None:
        if count is not None and count < 0:
            raise InputError(f"a node cannot have {count} GPUs", needed="0 or more")
        self.count = count_gpus() if count is None else count
        self._held: dict[str, dict[str, tuple[int, ...]]] = {}  # pod's uid, container
        self._passing: set[tuple[str, str]] = set()  # init containers, over before the others

    def assign(self, uid: str, container: str, n: int, *, init: bool = False) -> tuple[int, ...]:
        """Give ``n`` GPUs to a container; the same again each time it is asked.

        An init container's GPUs are free for the pod's next container: the scheduler counts the
        larger of the two, not the sum.

        Raises
        ------
        ConfigProblem
            There are not so many.
        """
        mine = self._held.get(uid, {})
        if len(mine.get(container, ())) == n:
            return mine.get(container, ())
        taken = {
            index
            for holder, held in self._held.items()
            for name, indices in held.items()
            if holder != uid or (name != container and (uid, name) not in self._passing)
            for index in indices
        }
        free = [index for index in range(self.count) if index not in taken]
        if len(free) < n:
            raise ConfigProblem(
                f"{GPU}: {n} are asked for, and {len(free)} of {self.count} are free"
            )
        self.adopt(uid, container, free[:n], init=init)
        return tuple(free[:n])

    def adopt(
        self, uid: str, container: str, indices: Sequence[int], *, init: bool = False
    ) -> None:
        """Take up what an agent before this one has assigned."""
        if indices:
            self._held.setdefault(uid, {})[container] = tuple(indices)
            if init:
                self._passing.add((uid, container))

    def held(self, uid: str) -> Mapping[str, tuple[int, ...]]:
        """What the containers of a pod have."""
        return self._held.get(uid, {})

    def release(self, uid: str) -> None:
        """Take back what a pod has; may be called again."""
        self._held.pop(uid, None)
        self._passing = {key for key in self._passing if key[0] != uid}


def device_env(indices: Sequence[int]) -> dict[str, str]:
    """The variables that keep a container to its GPUs."""
    if not indices:
        return {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}
    text = ",".join(str(index) for index in indices)
    # CUDA's own order is by speed, nvidia-smi's by the bus.
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": text,
        "NVIDIA_VISIBLE_DEVICES": text,
    }


def within(chosen: str, indices: Sequence[int]) -> str:
    """CUDA_VISIBLE_DEVICES for a container that chooses among its own GPUs itself.

    Examples
    --------
    >>> within("1,0", (4, 6))
    '6,4'
    """
    own: list[str] = []
    for word in (part.strip() for part in chosen.split(",")):
        # As CUDA does: the first that is none of them hides itself and all after it.
        if not word.isdecimal() or int(word) >= len(indices):
            break
        own.append(str(indices[int(word)]))
    return ",".join(own)
