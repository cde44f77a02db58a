"""What a local cluster costs: start, stop, memory, the way of a pod, 500 Jobs, writes a second.

    python tests/benchmarks/kube.py                    # two minutes
    python tests/benchmarks/kube.py --save             # also writes results/kube.json
    python tests/benchmarks/kube.py --context kind-x   # the same on a cluster of your kubeconfig

A start ends when a pod may be made and the node is ready. A pod's latency runs from the moment in
which a client's watch shows it bound to a node to the one in which the same watch shows it
running, so the scheduler is not in it, and both are seen by one clock.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ssl
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
from peers import say
from publishing import parser, publish

from aiinfra_lab import needs
from aiinfra_lab.kube import LocalCluster
from aiinfra_lab.kube.clients import api_client, kubernetes
from aiinfra_lab.kube.node.api import Api
from aiinfra_lab.measure import machine, quantile

RESULT = Path(__file__).parent / "results" / "kube.json"
NAMESPACE = "benchmark"
WRITERS = 16
LIMIT_S = 300.0


# ---- the cluster itself


def starts(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds of start and stop, the parts' own, and the memory of everything at rest."""
    rows: list[dict[str, Any]] = []
    for number in range(rounds):
        cluster = LocalCluster("benchmark", folder=folder / str(number), nodes=1, gpus=0)
        began = time.monotonic()
        with cluster:
            started = time.monotonic() - began
            parts = {part.name: part.ready_s for part in cluster.record.parts}
            time.sleep(3)
            memory = _memory(cluster)
            began = time.monotonic()
        rows.append(
            {
                "start_s": started,
                "stop_s": time.monotonic() - began,
                "parts_s": parts,
                **memory,
            }
        )
        say(f"start {number + 1} of {rounds}: {started:.1f} s")
    names = ("start_s", "stop_s", "pss_mb", "rss_mb")
    found: dict[str, Any] = {name: _spread([row[name] for row in rows]) for name in names}
    found["parts_s"] = {
        name: _spread([row["parts_s"][name] for row in rows])["value"]
        for name in rows[0]["parts_s"]
    }
    found["parts_pss_mb"] = rows[-1]["parts_pss_mb"]
    return found


def _memory(cluster: LocalCluster) -> dict[str, Any]:
    """Megabytes of the cluster's processes and their reapers, without this one."""
    pids = {part.pid: part.name for part in cluster.record.parts}
    found: dict[str, float] = {}
    rss = 0.0
    for process in psutil.Process().children(recursive=True):
        full = process.memory_full_info()
        rss += full.rss / 1e6
        name = pids.get(process.pid, "supervision")
        # PSS counts a page that several share once: reapers share almost everything.
        found[name] = found.get(name, 0.0) + getattr(full, "pss", full.rss) / 1e6
    return {
        "rss_mb": rss,
        "pss_mb": sum(found.values()),
        "parts_pss_mb": {name: round(value) for name, value in found.items()},
    }


# ---- what it does


class Seen:
    """A watch over the benchmark's pods, in a thread: when each was first seen in which state."""

    def __init__(self, made: Any) -> None:
        self.at: dict[str, dict[str, float]] = {}
        self.changed = threading.Condition()
        self._core = kubernetes().client.CoreV1Api(made)
        self._watch = kubernetes().watch.Watch()
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        stream = self._watch.stream(self._core.list_namespaced_pod, NAMESPACE, timeout_seconds=600)
        with contextlib.suppress(Exception):  # it is cut off when the cluster goes
            self._take(stream)

    def _take(self, stream: Any) -> None:
        for event in stream:
            pod, now = event["raw_object"], time.monotonic()
            with self.changed:
                at = self.at.setdefault(pod["metadata"]["name"], {})
                if pod["spec"].get("nodeName"):
                    at.setdefault("bound", now)
                at.setdefault(pod["status"].get("phase", "Pending"), now)
                self.changed.notify_all()

    def wait(self, name: str, state: str) -> None:
        """Return when ``name`` has been seen in ``state``."""
        with self.changed:
            if not self.changed.wait_for(lambda: state in self.at.get(name, {}), LIMIT_S):
                raise SystemExit(f"pod {name} was not {state} within {LIMIT_S:g} s")

    def close(self) -> None:
        """End it."""
        self._watch.stop()


def pod_latency(made: Any, rounds: int) -> dict[str, Any]:
    """Milliseconds from bound to running, one pod after the other."""
    core, seen = kubernetes().client.CoreV1Api(made), Seen(made)
    for number in range(rounds + 3):
        name = f"pod-{number}"
        core.create_namespaced_pod(
            NAMESPACE,
            {
                "metadata": {"name": name},
                "spec": _pod_spec("sleep", "600") | {"restartPolicy": "Never"},
            },
        )
        seen.wait(name, "Running")
        core.delete_namespaced_pod(name, NAMESPACE, grace_period_seconds=0)
    seen.close()
    values = [
        1e3 * (at["Running"] - at["bound"]) for at in list(seen.at.values())[3:] if "Running" in at
    ]
    return {f"p{int(100 * q)}": _spread(values, q) for q in (0.5, 0.95)}


def jobs(made: Any, count: int) -> dict[str, Any]:
    """Seconds until ``count`` Jobs of one short pod each are complete, all made at once."""
    batch = kubernetes().client.BatchV1Api(made)
    began = time.monotonic()

    def create(number: int) -> None:
        spec = {"template": {"spec": _pod_spec("true") | {"restartPolicy": "Never"}}}
        batch.create_namespaced_job(
            NAMESPACE, {"metadata": {"name": f"job-{number}"}, "spec": spec}
        )

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(create, range(count)))
    created = time.monotonic() - began
    while True:
        done = sum(
            any(c.type == "Complete" for c in job.status.conditions or ())
            for job in batch.list_namespaced_job(NAMESPACE, resource_version="0").items
        )
        seconds = time.monotonic() - began
        if done >= count:
            break
        if seconds > LIMIT_S:
            raise SystemExit(f"{done} of {count} Jobs were complete within {LIMIT_S:g} s")
        time.sleep(0.2)
    return {
        "jobs": count,
        "created_s": round(created, 2),
        "complete_s": round(seconds, 2),
        "jobs_a_second": round(count / seconds, 1),
    }


async def writes(made: Any, seconds: float) -> dict[str, Any]:
    """ConfigMaps that ``WRITERS`` tasks create a second: the limit of everything above.

    With the node's own client: the ``kubernetes`` package alone would need more time than the
    server.
    """
    told, counts = made.configuration, [0] * WRITERS
    context = ssl.create_default_context(cafile=told.ssl_ca_cert)
    context.load_cert_chain(told.cert_file, told.key_file)
    api, last = Api(told.host, context), time.monotonic() + seconds

    async def write(writer: int) -> None:
        while time.monotonic() < last:
            name = f"w-{writer}-{counts[writer]}"
            body = {"metadata": {"name": name}, "data": {"value": "1"}}
            await api.create(f"/api/v1/namespaces/{NAMESPACE}/configmaps", body)
            counts[writer] += 1

    try:
        await asyncio.gather(*map(write, range(WRITERS)))
    finally:
        await api.close()
    return {"writers": WRITERS, "writes_a_second": round(sum(counts) / seconds)}


def work(kubeconfig: Path | None, context: str | None, *, quick: bool) -> dict[str, Any]:
    """Latency, Jobs and writes on one cluster, in a namespace that is removed afterwards."""
    with api_client(kubeconfig, context) as made:
        core = kubernetes().client.CoreV1Api(made)
        core.create_namespace({"metadata": {"name": NAMESPACE}})
        try:
            time.sleep(2)  # for its service account
            say("pods, one after the other")
            found: dict[str, Any] = {"pod_latency": pod_latency(made, 80 if quick else 150)}
            say("jobs, all at once")
            found["jobs"] = jobs(made, 50 if quick else 500)
            say("writes")
            found["writes"] = asyncio.run(writes(made, 2.0 if quick else 10.0))
        finally:
            core.delete_namespace(NAMESPACE)
    return found


def _pod_spec(*words: str) -> dict[str, Any]:
    return {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "busybox:1.36", "command": list(words)}],
    }


def _spread(values: list[float], q: float = 0.5) -> dict[str, Any]:
    found = quantile(values, q)
    return {
        "value": round(found.value, 2),
        "interval": [round(found.low, 2), round(found.high, 2)],
        "n": len(values),
    }


# ---- the command


def report(found: dict[str, Any]) -> str:
    """All of it for people."""
    lines = [f"load {found['machine']['load']}; medians with 95 % intervals"]
    if "cluster" in found:
        own = found["cluster"]
        lines += [f"{name}: {own[name]['value']} {own[name]['interval']}"
                  for name in ("start_s", "stop_s", "pss_mb", "rss_mb")]  # fmt: skip
        lines.append(f"ready after, s: {own['parts_s']}")
        lines.append(f"PSS, MB: {own['parts_pss_mb']}")
    for place in ("local", "other"):
        if place in found:
            done = found[place]
            latency = done["pod_latency"]
            lines += [
                f"{place}: ms from bound to running: {latency}",
                f"{place}: {done['jobs']}",
                f"{place}: {done['writes']}",
            ]
    return "\n".join(lines)


def main() -> int:
    """Measure, and print; a time decides nothing."""
    words = parser(__doc__, RESULT, quick="few rounds: half a minute")
    words.add_argument("--context", help="measure this context of your kubeconfig beside it")
    asked: argparse.Namespace = words.parse_args()
    needs.require("kube", "kubernetes")
    found: dict[str, Any] = {"benchmark": "kube", "machine": machine()}
    with tempfile.TemporaryDirectory(prefix="kube-") as name:
        found["cluster"] = starts(Path(name) / "starts", 2 if asked.quick else 7)
        with LocalCluster("benchmark", folder=Path(name) / "work", gpus=0) as cluster:
            found["version"] = cluster.record.version
            found["local"] = work(cluster.kubeconfig, None, quick=asked.quick)
        if asked.context:
            found["other"] = work(None, asked.context, quick=asked.quick)
    publish(found, asked, RESULT, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
