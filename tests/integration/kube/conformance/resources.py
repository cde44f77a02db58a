"""The node, and what happens when it has no more to give."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from .api import Object, path_of
from .catalogue import case
from .manifests import FOREVER, condition, holds, is_running, phase, pod, shell
from .namespace import Namespace


@case()
async def a_node(ns: Namespace) -> None:
    """The nodes are ready, say what they are, and renew their leases."""
    nodes = (await ns.api.ask("GET", path_of("Node")))["items"]
    assert nodes
    for node in nodes:
        name = node["metadata"]["name"]
        assert holds(node, "Ready"), node
        assert condition(node, "MemoryPressure").get("status") == "False"
        assert all(node["status"]["nodeInfo"][key] for key in ("kubeletVersion", "osImage"))
        assert node["status"]["allocatable"]["pods"] not in ("", "0")
        # A node that has just come makes it a moment after it is ready.
        lease = await ns.api.come(path_of("Lease", "kube-node-lease", name))
        renewed = datetime.fromisoformat(lease["spec"]["renewTime"])
        assert (datetime.now(UTC) - renewed).total_seconds() < 40
    said = await ns.kubectl("get", "nodes", "-o", "wide")
    assert all(node["metadata"]["name"] in said for node in nodes)


@case(wants=("gpus",))
async def gpus(ns: Namespace) -> None:
    """Each GPU is given once; who asks for one more waits with the reason until one is free."""
    nodes = (await ns.api.ask("GET", path_of("Node")))["items"]
    count = sum(int(n["status"]["allocatable"].get("nvidia.com/gpu", 0)) for n in nodes)
    assert count >= 2, "the suite's cluster is to have two GPUs, real or not"
    one: Object = {"limits": {"nvidia.com/gpu": "1"}}
    show = 'echo "up [$CUDA_VISIBLE_DEVICES]"; '
    names = [f"p{number}" for number in range(count)]
    await ns.create(*(pod(name, shell(show + FOREVER, resources=one)) for name in names))
    for name in names:
        await ns.pod(name, is_running)
    given = {name: await _given(ns, name) for name in names}
    if ns.provider == "local":
        assert len(set(given.values())) == count, given
    await ns.create(pod("late", shell(show, resources=one)))
    waiting = await ns.pod("late", lambda found: condition(found, "PodScheduled"))
    told = condition(waiting, "PodScheduled")
    assert (phase(waiting), told["reason"]) == ("Pending", "Unschedulable")
    assert "Insufficient nvidia.com/gpu" in told["message"]
    assert "Insufficient nvidia.com/gpu" in await ns.event("FailedScheduling", "late")
    await ns.delete("Pod", names[0])
    await ns.pod("late", lambda found: phase(found) == "Succeeded")
    if ns.provider == "local":
        assert await _given(ns, "late") == given[names[0]]


async def _given(ns: Namespace, name: str) -> tuple[str, str]:
    """A pod's node, and which of its GPUs the pod sees."""
    found = await ns.get("Pod", name)
    async for line in ns.follow(name):
        assert re.fullmatch(r"up \[\d+\]\n", line) or ns.provider != "local", line
        return found["spec"]["nodeName"], line
    raise AssertionError(f"{name} ended without a word")


@case(wants=("gpus",))
async def more_gpus_than_a_node_has(ns: Namespace) -> None:
    """Who asks one node for more than any has waits, and is told what for; others do not wait."""
    nodes = (await ns.api.ask("GET", path_of("Node")))["items"]
    most = max(int(n["status"]["allocatable"].get("nvidia.com/gpu", 0)) for n in nodes)
    wanted: Object = {"limits": {"nvidia.com/gpu": str(most + 1)}}
    await ns.create(pod("p", shell("true", resources=wanted)), pod("other", shell("true")))
    found = await ns.pod("p", lambda found: condition(found, "PodScheduled"))
    told = condition(found, "PodScheduled")
    assert (phase(found), told["reason"]) == ("Pending", "Unschedulable")
    assert f"{len(nodes)} Insufficient nvidia.com/gpu" in told["message"]
    assert "Insufficient nvidia.com/gpu" in await ns.event("FailedScheduling", "p")
    assert "Insufficient nvidia.com/gpu" in await ns.kubectl("describe", "pod", "p")
    await ns.pod("other", lambda found: phase(found) == "Succeeded")
    assert {phase(version) for version in ns.versions("Pod", "p")} == {"Pending"}


@case(wants=("cuda",))
async def no_gpu(ns: Namespace) -> None:
    """A pod that asks for none sees none, even where there are some."""
    await ns.create(pod("p", shell('echo "[${CUDA_VISIBLE_DEVICES-unset}]"')))
    await ns.pod("p", lambda found: phase(found) == "Succeeded")
    assert await ns.log("p") == "[]\n"


@case()
async def nowhere(ns: Namespace) -> None:
    """A pod that no node suits stays Pending, and says what is in the way."""
    await ns.create(pod("p", shell("true"), nodeSelector={"there-is": "none"}))
    found = await ns.pod("p", lambda found: condition(found, "PodScheduled"))
    assert phase(found) == "Pending"
    assert condition(found, "PodScheduled")["reason"] == "Unschedulable"
    assert "didn't match Pod's node affinity/selector" in await ns.event("FailedScheduling", "p")
    await ns.delete("Pod", "p")
    await ns.gone("Pod", "p")
