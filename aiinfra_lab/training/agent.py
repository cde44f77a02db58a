"""torchrun's agent of one host, run as ``python -m aiinfra_lab.training.agent ORDER``.

It starts the ranks, restarts them all when one fails, and writes down which rank failed first and
with which sentence: torchrun itself knows that and prints it for people only. ``launch`` runs it
as a supervised child and reads what it wrote.
"""

from __future__ import annotations

import os
import signal
import sys
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
        What the other hosts reach this one by; empty: what its name resolves to.
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
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    single = order.hosts == 1
    interface = order.interface or (_loopback() if single else "")
    if interface:
        os.environ["GLOO_SOCKET_IFNAME"] = interface
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
        rdzv_configs={"is_host": str(int(order.first)), "timeout": int(order.meet_s)},
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
    return 0


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


def _loopback() -> str:
    """The interface of 127.0.0.1: the host's name may resolve to one that is not up."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == "127.0.0.1" for address in addresses):
            return name
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
