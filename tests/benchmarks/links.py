"""What an all-reduce of two hosts costs on a slow link, beside what the α-β model says.

    python tests/benchmarks/links.py            # Linux with unshare, ip and tc; half a minute
    python tests/benchmarks/links.py --save     # also writes results/links.json

Two network namespaces with a pair of veth between them, each end shaped by tc, and gloo on top:
everything is as between two machines but the wire. α is measured (the smallest message without
shaping), β is the rate that tc was told.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peers import say
from publishing import options, publish

from aiinfra_lab import needs
from aiinfra_lab.measure import machine
from aiinfra_lab.processes import Child
from aiinfra_lab.training.reduce import ring_seconds

RESULT = Path(__file__).parent / "results" / "links.json"
RATES = {"free": "", "1 Gbit/s": "1gbit", "100 Mbit/s": "100mbit"}
BYTES_A_SECOND = {"1 Gbit/s": 125e6, "100 Mbit/s": 12.5e6}
SIZES = (4 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20)  # bytes; ResNet-20's gradient is 1.1 MB
PORT = 29500
LIMIT_S = 240.0


def rank_main(rank: int, address: str, rounds: int, out: Path) -> None:
    """One of the two: median seconds of an all-reduce by size, after two that do not count."""
    store = dist.TCPStore(address, PORT, 2, rank == 0, timedelta(seconds=60))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found = {}
    for size in SIZES:
        tensor, seconds = torch.ones(size // 4), []
        for _ in range(rounds + 2):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(tensor)
            seconds.append(time.perf_counter() - began)
        found[size] = statistics.median(seconds[2:])
    dist.barrier()
    out.write_text(json.dumps(found), "utf-8")
    dist.destroy_process_group()


def seconds_by_size(hosts: Any, folder: Path, rounds: int) -> dict[int, float]:
    """The slower rank's medians over the link as it is shaped now."""
    outs = []
    with ExitStack() as stack:
        children = []
        for host in hosts.hosts:
            out = folder / f"{len(list(folder.iterdir()))}.json"
            words = (str(host.index), hosts.hosts[0].address, str(rounds), str(out))
            argv = host.command(sys.executable, __file__, "--rank", *words)
            env = os.environ | {"GLOO_SOCKET_IFNAME": host.interface, "OMP_NUM_THREADS": "1"}
            log = folder / f"{out.stem}.log"
            children.append(stack.enter_context(Child(argv, log=log, env=env)))
            outs.append(out)
        for child in children:
            child.wait(LIMIT_S, check=True)
    both = [json.loads(out.read_text("utf-8")) for out in outs]
    return {size: max(found[str(size)] for found in both) for size in SIZES}


def report(found: dict[str, Any]) -> str:
    """A table for people."""
    lines = [f"α {1e6 * found['alpha_s']:.0f} us; milliseconds of an all-reduce, model in brackets"]
    for rate, sizes in found["links"].items():
        cells = [
            f"{int(size) >> 10} KiB {1e3 * row['seconds']:.2f}"
            + (f" [{1e3 * row['model_s']:.2f}]" if "model_s" in row else "")
            for size, row in sizes.items()
        ]
        lines.append(f"{rate:>11}: " + ", ".join(cells))
    return "\n".join(lines)


def main() -> int:
    """Measure, and print; a time decides nothing."""
    asked = options(__doc__, RESULT, quick="few rounds")
    needs.require("netns")
    sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
    from two_hosts import TwoHosts

    rounds, links = (3 if asked.quick else 15), {}
    with tempfile.TemporaryDirectory(prefix="links-") as name, TwoHosts(Path(name)) as hosts:
        for rate, words in RATES.items():
            say(f"link: {rate}")
            if words:
                hosts.slow(words)
            folder = Path(name) / rate.replace("/", "-")
            folder.mkdir()
            links[rate] = seconds_by_size(hosts, folder, rounds)
    alpha = links["free"][SIZES[0]] / 2  # two steps of the ring, and next to nothing to send
    found = {
        "benchmark": "links",
        "machine": machine(),
        "torch": torch.__version__.split("+")[0],
        "rounds": rounds,
        "alpha_s": alpha,
        "links": {
            rate: {
                str(size): {"seconds": seconds}
                | (
                    {"model_s": ring_seconds(size, 2, alpha, BYTES_A_SECOND[rate])}
                    if rate in BYTES_A_SECOND
                    else {}
                )
                for size, seconds in sizes.items()
            }
            for rate, sizes in links.items()
        },
    }
    publish(found, asked, RESULT, report)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        rank_main(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))
    else:
        sys.exit(main())
