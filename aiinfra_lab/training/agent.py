"""torchrun's agent of one host, run as ``python -m aiinfra_lab.training.agent ORDER``.

It starts the ranks, restarts them all when one fails, and writes down which rank failed first and
with which sentence: torchrun itself knows that and prints it for people only. ``launch`` runs it
as a supervised child and reads what it wrote.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict

from aiinfra_lab.files import write_json

FAILURES = "failures.json"


class Order(BaseModel):
    """What the agent is to do.

    Attributes
    ----------
    module, words : str, list of str
        The program of a rank: ``python -m module words``.
    nproc, max_restarts : int
        Ranks on this host, and how often all may be started again.
    logs : Path
        A folder: below it each attempt and rank has its stdout.log and stderr.log.
    run_id : str
        The same on all hosts of a run.
    hosts, first : int, bool
        Hosts in all, and whether the ranks meet on this one.
    endpoint : str
        HOST:PORT where the agents meet; empty on a single host.
    address, interface : str
        What the other hosts reach this one by; empty: what its name resolves to. An address of
        this host gives its interface.
    meet_s : float
        Seconds that the agents wait for each other.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    module: str
    words: list[str]
    nproc: int
    max_restarts: int
    logs: Path
    run_id: str
    hosts: int = 1
    first: bool = True
    endpoint: str = ""
    address: str = ""
    interface: str = ""
    meet_s: float = 120.0


def main(text: str) -> int:
    """Run the ranks to their end; 0, or 1 with ``failures.json`` in the folder of the logs."""
    # After the order is read: torch takes a second.
    order = Order.model_validate_json(text)
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    single = order.hosts == 1
    interface = order.interface or interface_of("127.0.0.1" if single else order.address)
    if interface:
        os.environ["GLOO_SOCKET_IFNAME"] = interface
    if not single:
        # A store for each round: an agent that follows another's restart does not count it, so no
        # name in a store that stays would be the same on all hosts.
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    order.logs.mkdir(parents=True, exist_ok=True)
    config = LaunchConfig(
        min_nodes=order.hosts,
        max_nodes=order.hosts,
        nproc_per_node=order.nproc,
        run_id=order.run_id,
        rdzv_backend="c10d",
        rdzv_endpoint=order.endpoint or "localhost:0",
        # Which host keeps the store is said, not guessed from names (torch 2.15 hangs on a wrong
        # guess).
        rdzv_configs={
            "is_host": str(int(order.first)),
            "join_timeout": math.ceil(order.meet_s),
            "read_timeout": math.ceil(order.meet_s),  # also of the first connection
        },
        max_restarts=order.max_restarts,
        monitor_interval=0.1,
        start_method="spawn",
        logs_specs=DefaultLogsSpecs(log_dir=str(order.logs), redirects=Std.ALL),
        local_addr=order.address or ("localhost" if single else None),
    )
    try:
        elastic_launch(config, sys.executable)("-u", "-m", order.module, *order.words)
    except ChildFailedError as error:
        failures = [_failure(rank, failure) for rank, failure in error.failures.items()]
        write_json(order.logs / FAILURES, sorted(failures, key=lambda f: f["time"]))
        return 1
    except RendezvousError as error:
        print(f"{type(error).__name__}: {error}; {error.__cause__}", flush=True)
        if not any(order.logs.glob("*/attempt_*/*/error.json")):  # a rank knows more
            write_json(order.logs / FAILURES, [_unmet(order, error)])
        return 1
    return 0


def _unmet(order: Order, error: Exception) -> dict[str, Any]:
    """The failure of agents that did not find each other, or lost each other later."""
    from torch.distributed.elastic.rendezvous import RendezvousTimeoutError

    waited, fix = f"within {order.meet_s:g} s", ""
    if any(order.logs.glob("*/attempt_*")):
        sentence = f"the host of {order.endpoint}, or the network to it, is away"
    elif isinstance(error, RendezvousTimeoutError):
        sentence = f"not all of {order.hosts} hosts came to {order.endpoint} {waited}"
        fix = "Start the same command on each of them, with its own --host-index."
    elif order.first:
        cause = (str(error.__cause__).strip().splitlines() or [""])[0]
        sentence = f"host 0 cannot let the others meet at {order.endpoint}: {cause}"
        fix = "Give --rendezvous an address of host 0 and a free port."
    else:
        sentence = f"nobody was to be met at {order.endpoint} {waited}"
        fix = "Start host 0, and see that this host reaches that address and port."
    return {
        "rank": -1,
        "exit_code": 1,
        "signal": "",
        "sentence": sentence,
        "fix": fix,
        "code": 1,
        "lost": False,
        "time": int(time.time()),
    }


def _failure(rank: int, failure: Any) -> dict[str, Any]:
    # torch puts words of its own where a rank wrote nothing.
    data = failure.error_file_data if isinstance(failure.error_file_data, dict) else {}
    message = data.get("message", "") if "code" in data else ""
    return {
        "rank": rank,
        "exit_code": int(failure.exitcode),
        "signal": signal.Signals(-failure.exitcode).name if failure.exitcode < 0 else "",
        "sentence": message.get("message", "") if isinstance(message, dict) else str(message),
        "code": data.get("code"),
        "lost": bool(data.get("lost")),
        "time": failure.timestamp,
    }


def interface_of(host: str) -> str:
    """The interface with the address of ``host``: left to itself, gloo takes what this host's name
    resolves to, which may not be up."""
    try:
        wanted = socket.gethostbyname(host) if host else ""
    except OSError:
        return ""
    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address == wanted for found in addresses):
            return name
    return ""


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # to tear torch down takes a second, and everything is written
