"""The end of pods, and of what owns them."""

from __future__ import annotations

import asyncio
import time

from .api import path_of
from .catalogue import case
from .jobs import pods_of
from .manifests import (
    FOREVER,
    LOOP,
    claim,
    is_running,
    job,
    mount,
    phase,
    pod,
    shell,
    spec,
    state,
    status,
    volume,
)
from .namespace import Namespace

_SLOW = f"trap 'echo asked; sleep 1.5; echo bye; exit 0' TERM; echo up; {LOOP}"


async def _up(ns: Namespace, name: str, container: str = "main") -> None:
    """Wait until a script has said that its handlers stand."""
    async for line in ns.follow(name, container):
        if line == "up\n":
            return
    raise AssertionError(f"{name} ended without a word")


@case()
async def graceful(ns: Namespace) -> None:
    """TERM reaches the program, its last words are in the log, and the pod lasts until then."""
    await ns.create(pod("p", shell(_SLOW), terminationGracePeriodSeconds=60))
    await ns.pod("p", is_running)
    await _up(ns, "p")
    followed = asyncio.create_task(_all(ns, "p"))
    await asyncio.sleep(0)
    begin = time.monotonic()
    await ns.delete("Pod", "p")
    found = await ns.get("Pod", "p")
    assert found["metadata"]["deletionTimestamp"]
    await ns.gone("Pod", "p")
    assert 1.4 < time.monotonic() - begin < 55
    assert (await followed).endswith("asked\nbye\n")
    last = ns.versions("Pod", "p")[-1]
    assert state(last, "terminated").get("exitCode") == 0


async def _all(ns: Namespace, name: str) -> str:
    return "".join([line async for line in ns.follow(name)])


@case()
async def grace_is_over(ns: Namespace) -> None:
    """A program that does not listen is killed once its grace is over."""
    script = f"trap '' TERM; echo up; {LOOP}"
    await ns.create(pod("p", shell(script), terminationGracePeriodSeconds=1))
    await ns.pod("p", is_running)
    await _up(ns, "p")
    begin = time.monotonic()
    await ns.delete("Pod", "p")
    await ns.gone("Pod", "p")
    assert time.monotonic() - begin > 0.9
    last = ns.versions("Pod", "p")[-1]
    assert state(last, "terminated").get("exitCode") == 137


@case()
async def before_the_end(ns: Namespace) -> None:
    """A preStop hook runs to its end before TERM comes."""
    script = f"trap 'cat /both/hook; exit 0' TERM; echo up; {LOOP}"
    hook = {"exec": {"command": ["sh", "-c", "sleep 0.5; echo hooked > /both/hook"]}}
    container = shell(script, lifecycle={"preStop": hook}, volumeMounts=[mount("work", "/both")])
    grace = 60
    await ns.create(
        pod("p", container, volumes=[volume("work")], terminationGracePeriodSeconds=grace)
    )
    await ns.pod("p", is_running)
    await _up(ns, "p")
    followed = asyncio.create_task(_all(ns, "p"))
    await asyncio.sleep(0)
    await ns.delete("Pod", "p")
    await ns.gone("Pod", "p")
    assert (await followed).endswith("hooked\n")


@case()
async def forced(ns: Namespace) -> None:
    """Grace 0: the object goes at once, the processes follow, and the name is free again."""
    beats = "trap '' TERM; echo up; while :; do date +%s%N > /data/beat; sleep 0.3; done"
    data = [volume("data", persistentVolumeClaim={"claimName": "c"})]
    seen = [mount("data", "/data")]
    first = pod("p", shell(beats, volumeMounts=seen), volumes=data)
    await ns.create(claim("c"), first)
    await ns.pod("p", is_running)
    await _up(ns, "p")
    begin = time.monotonic()
    await ns.delete("Pod", "p", gracePeriodSeconds=0)
    await ns.gone("Pod", "p")
    assert time.monotonic() - begin < 10
    # The next pod of that name waits until the heart of the first one has stopped.
    still = 'a=1; b=2; while [ "$a" != "$b" ]; do a=$b; sleep 3; b=$(cat /data/beat); done'
    uid = ns.versions("Pod", "p")[-1]["metadata"]["uid"]
    await ns.create(pod("p", shell(still, volumeMounts=seen), volumes=data))
    found = await ns.pod("p", lambda found: phase(found) == "Succeeded")
    assert found["metadata"]["uid"] != uid


async def _a_job_that_goes_on(ns: Namespace) -> str:
    await ns.create(job("j", spec(shell(FOREVER))))
    (found,) = await ns.until(lambda: [pod for pod in pods_of(ns, "j") if is_running(pod)])
    return str(found["metadata"]["name"])


@case()
async def background(ns: Namespace) -> None:
    """The Job goes first; its pods follow."""
    name = await _a_job_that_goes_on(ns)
    await ns.delete("Job", "j", propagationPolicy="Background")
    await ns.gone("Job", "j")
    await ns.gone("Pod", name)


@case()
async def foreground(ns: Namespace) -> None:
    """The pods go first; the Job waits for them."""
    name = await _a_job_that_goes_on(ns)
    await ns.delete("Job", "j", propagationPolicy="Foreground")
    await ns.gone("Job", "j")
    last = ns.versions("Job", "j")[-1]["metadata"]
    assert "foregroundDeletion" in last.get("finalizers", [])
    await ns.gone("Pod", name)
    await ns.until(lambda: not ns.there())
    gone = ns.versions("Pod", name)[-1]["metadata"]
    assert int(gone["resourceVersion"]) < int(last["resourceVersion"])


@case()
async def orphan(ns: Namespace) -> None:
    """The Job goes; its pod runs on without an owner."""
    name = await _a_job_that_goes_on(ns)
    await ns.delete("Job", "j", propagationPolicy="Orphan")
    await ns.gone("Job", "j")
    await ns.pod(name, lambda found: not found["metadata"].get("ownerReferences"))
    found = await ns.get("Pod", name)
    assert is_running(found)
    assert status(found)["restartCount"] == 0
    assert "deletionTimestamp" not in found["metadata"]


@case()
async def a_namespace(ns: Namespace) -> None:
    """Whoever deletes a namespace ends what runs in it."""
    other = await ns.another()
    # The controller comes back after half of the longest grace.
    running = [pod("p", shell(_SLOW), terminationGracePeriodSeconds=10), pod("q", shell(FOREVER))]
    await other.create(*running, job("j", spec(shell(FOREVER))))
    await other.until(lambda: len([p for p in other.there() if is_running(p)]) == 3)
    await _up(other, "p")
    followed = asyncio.create_task(_all(other, "p"))
    await asyncio.sleep(0)
    path = path_of("Namespace", name=other.name)
    await ns.api.ask("DELETE", path)
    await ns.api.gone(path)
    assert not other.there("Pod")
    assert (await followed).endswith("bye\n")
