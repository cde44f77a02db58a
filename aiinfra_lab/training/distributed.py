"""The ranks of one training as a process group: made, watched and ended the same way everywhere.

torchrun says in the environment who a process is; without it, a process is a world of its own and
no group is made. What this module adds to ``init_process_group``:

- a store prefix for each restart: with the keys of the run before, gloo's ranks of a restart
  connect to dead addresses and fail or hang (torch 2.15: 11 of 18 restarts);
- nccl only where every rank of the host has a GPU of its own, else gloo;
- a timeout in seconds instead of half an hour, and an error that names the rank or the host that
  does not answer, instead of the pair of sockets that saw it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

import psutil
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from aiinfra_lab.errors import AIInfraLabError, InputError, MissingNeed

Device = Literal["auto", "cpu", "cuda"]
# Survivors of a lost rank see their timeouts within a second or two of each other.
_OTHERS_S = 3.0


class RankLost(AIInfraLabError):
    """Ranks stopped answering: they hang, they died, or the network to them is cut.

    ``ranks`` are those that did not say that they gave up, too.
    """

    def __init__(
        self, message: str, *, ranks: tuple[int, ...] = (), fix: str | None = None
    ) -> None:
        super().__init__(message, fix=fix)
        self.ranks = ranks


@dataclass(frozen=True)
class Group:
    """Who this process is among the ranks.

    Attributes
    ----------
    rank, world : int
    local_rank, local_world : int
        Among the ranks of this host.
    device : torch.device
        Where this rank computes.
    restarts : int
        How often torchrun has started the ranks again.
    timeout_s : float
        Seconds that a collective may wait.
    hosts : tuple of str
        The host of each rank: its address where gloo was given an interface, else its name.
    """

    rank: int
    world: int
    local_rank: int
    local_world: int
    device: torch.device
    restarts: int
    timeout_s: float
    hosts: tuple[str, ...] = ()
    _store: Store | None = field(default=None, repr=False)

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which speaks and writes for all."""
        return self.rank == 0

    def gather(self, value: object) -> list[object]:
        """``value`` of every rank, by rank, on all ranks. Small things: they are pickled."""
        if self._store is None:
            return [value]
        values: list[object] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all ranks; after ``timeout_s`` it raises what ``process_group`` translates."""
        if self._store is not None:
            dist.barrier()

    def lost(self, error: BaseException) -> RankLost:
        """The sentence for a failed collective: who does not answer."""
        reason = f"after at most {self.timeout_s:g} s without an answer"
        absent = self._absent()
        if absent is None:
            return RankLost(
                f"rank {self.rank} on {self.hosts[self.rank]} cannot reach the store on "
                f"{os.environ.get('MASTER_ADDR', 'rank 0')} any more: rank 0, that host or the "
                f"network to it is away ({reason})",
                ranks=(0,),
            )
        if not absent:
            return RankLost(f"a collective failed on all ranks: {_first_line(error)}")
        names = ", ".join(f"rank {rank} on {self.hosts[rank]}" for rank in absent)
        return RankLost(
            f"{names} stopped answering ({reason}): it hangs, was killed, or its host is away",
            ranks=tuple(absent),
        )

    def _absent(self) -> list[int] | None:
        """The ranks that do not say that they gave up; None if the store is away, too."""
        answers: list[list[int] | None] = []
        # torch waits without end for the answer of a store whose host the network does not reach.
        thread = threading.Thread(target=lambda: answers.append(self._ask_who_gave_up()))
        thread.daemon = True
        thread.start()
        thread.join(_OTHERS_S + 1)
        return answers[0] if answers else None

    def _ask_who_gave_up(self) -> list[int] | None:
        if self._store is None:
            return []
        try:
            self._store.set_timeout(timedelta(seconds=_OTHERS_S))
            self._store.set(f"gave-up/{self.rank}", "1")
            deadline = time.monotonic() + _OTHERS_S
            while True:
                absent = [
                    rank for rank in range(self.world) if not self._store.check([f"gave-up/{rank}"])
                ]
                if not absent or time.monotonic() > deadline:
                    return absent
                time.sleep(0.05)
        except (RuntimeError, dist.DistError):
            return None


@contextmanager
def process_group(
    *, device: Device = "auto", timeout_s: float = 30.0, threads: int | None = None
) -> Iterator[Group]:
    """Join the ranks that torchrun started, and leave them in good order.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda"}
        auto takes a GPU where each rank of this host has its own.
    timeout_s : float
        Seconds that a collective may wait for the others.
    threads : int, optional
        Of this rank; by default the cores divided among the ranks of the host. The same in every
        form of a launch: another number of threads may round in another order.

    Raises
    ------
    MissingNeed
        ``device`` is cuda and this host has no GPU for each of its ranks.
    InputError
        The port of the rendezvous is taken, or the environment is incomplete.
    RankLost
        A collective failed or timed out inside the block.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    chosen = _choose(device, local_rank, local_world)
    torch.set_num_threads(threads or max(1, _cores() // local_world))
    if "RANK" not in os.environ:
        yield Group(0, 1, 0, 1, chosen, 0, timeout_s, (_own_name(),))
        return
    group = _join(chosen, local_rank, local_world, timeout_s)
    try:
        yield group
        group.barrier()  # a rank that leaves early tears down the store of those that still work
    except (RuntimeError, dist.DistError) as error:
        if not _from_a_collective(error):
            raise
        raise group.lost(error) from error
    finally:
        with suppress(RuntimeError):
            dist.destroy_process_group()


def _cores() -> int:
    """That this process may use: fewer than there are in a container or under taskset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _choose(device: Device, local_rank: int, local_world: int) -> torch.device:
    gpus = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    if gpus >= local_world:
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    if device == "cuda":
        raise MissingNeed(
            "--device cuda needs a GPU for each rank of a host",
            found=f"{gpus} GPUs for {local_world} ranks",
            fix="Take --device cpu, or fewer ranks.",
        )
    return torch.device("cpu")


def _join(device: torch.device, local_rank: int, local_world: int, timeout_s: float) -> Group:
    timeout = timedelta(seconds=timeout_s)
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    try:
        base, rank, world = next(rendezvous("env://", timeout=timeout))
        # The count is each host's own, and hosts may differ in it; a store of rank 0's own is new.
        shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
        store = PrefixStore(f"restart-{restarts if shared else 0}", base)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=world,
            timeout=timeout,
        )
    except dist.DistNetworkError as error:
        if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
            port = os.environ.get("MASTER_PORT", "")
            raise InputError(
                f"port {port} is taken, so the ranks cannot meet there",
                fix="Choose another with --rendezvous HOST:PORT, or let torchrun choose.",
            ) from error
        raise RankLost(
            f"the ranks did not meet within {timeout_s:g} s at "
            f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}: {_first_line(error)}"
        ) from error
    except ValueError as error:
        raise InputError(f"torchrun's environment is not whole: {error}") from error
    except RuntimeError as error:
        raise RankLost(
            f"the ranks could not connect to each other: {_first_line(error)}"
        ) from error
    hosts: list[object] = [None] * world
    dist.all_gather_object(hosts, _own_name())
    return Group(
        rank,
        world,
        local_rank,
        local_world,
        device,
        restarts,
        timeout_s,
        tuple(str(host) for host in hosts),
        store,
    )


def _own_name() -> str:
    """What tells this host from the others: hosts of one image may share a name."""
    own = psutil.net_if_addrs().get(os.environ.get("GLOO_SOCKET_IFNAME", ""), [])
    for found in own:
        if found.family == socket.AF_INET and not found.address.startswith("127."):
            return found.address
    return socket.gethostname()


def _from_a_collective(error: BaseException) -> bool:
    """gloo raises plain RuntimeErrors; its words are all there is to know them by."""
    text = str(error)
    words = ("gloo", "Connection closed by peer", "Timed out", "timed out", "NCCL", "Broken pipe")
    return isinstance(error, dist.DistError) or any(word in text for word in words)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
