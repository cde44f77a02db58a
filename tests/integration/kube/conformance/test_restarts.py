"""Parts of ``local`` that end and come back while pods run, on a control plane of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from aiinfra_lab.kube import LocalCluster

from .api import Api, Object
from .manifests import (
    config,
    ended,
    exit_code,
    holds,
    is_complete,
    is_running,
    job,
    key,
    mount,
    phase,
    pod,
    shell,
    spec,
    status,
    volume,
)
from .namespace import WATCHED, Namespace, Shown

pytestmark = pytest.mark.needs("kube", "kubernetes", "kubernetes-asyncio")

AGENT, RUNTIME = "node-1", "node-1-runtime"
# It says who it is, and ends when a file of its folder tells it to.
_LASTING = "echo start $$; until [ -e /both/end ]; do sleep 0.1; done; echo end; exit 5"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster that these tests may break."""
    folder = tmp_path_factory.mktemp("kube") / "restarts"
    with LocalCluster("restarts", folder=folder, nodes=1) as made:
        yield made


@pytest.fixture
async def ns(own: LocalCluster, tmp_path: Path) -> AsyncIterator[Namespace]:
    """A namespace of it."""
    api = await Api.connect(own.kubeconfig)
    shown = Shown(api, "local", tmp_path)
    synced = [asyncio.Event() for _ in WATCHED]
    watches = [
        asyncio.create_task(shown.watch(kind, event))
        for kind, event in zip(WATCHED, synced, strict=True)
    ]
    await asyncio.gather(*(event.wait() for event in synced))
    made = await shown.open()
    yield made
    await shown.close(made.name)
    for watch in watches:
        watch.cancel()
    await asyncio.gather(*watches, return_exceptions=True)
    await api.close()


def _lasting(
    ns: Namespace, name: str, script: str = _LASTING, *, probe: Object | None = None, **fields: Any
) -> Object:
    """A pod that goes on until its folder of this machine has a file ``end``."""
    folder = ns.scratch / name
    folder.mkdir()
    container = shell(script, volumeMounts=[mount("work", "/both")])
    if probe:
        container["readinessProbe"] = probe
    return pod(name, container, volumes=[volume("work", hostPath={"path": str(folder)})], **fields)


async def _started(ns: Namespace, *names: str) -> dict[str, psutil.Process]:
    """The processes of pods, once they have said who they are."""
    found = {}
    for name in names:
        await ns.pod(name, is_running)
        async for line in ns.follow(name):
            found[name] = psutil.Process(int(line.removeprefix("start ")))
            break
    return found


def _end(ns: Namespace, name: str) -> None:
    (ns.scratch / name / "end").touch()


async def test_pods_do_not_notice_that_the_api_server_is_away(
    own: LocalCluster, ns: Namespace
) -> None:
    await ns.create(_lasting(ns, "over"), _lasting(ns, "during"))
    processes = await _started(ns, "over", "during")
    restart = asyncio.create_task(asyncio.to_thread(own.restart, "apiserver"))
    await asyncio.sleep(0.3)
    _end(ns, "during")
    await restart
    found = await ns.pod("during", ended)
    assert (phase(found), exit_code(found)) == ("Failed", 5)
    assert processes["over"].is_running()
    _end(ns, "over")
    await ns.pod("over", ended)
    (line, last) = (await ns.log("over")).splitlines()
    assert (line.split()[0], last) == ("start", "end")
    await ns.create(pod("after", shell("echo new")))
    await ns.pod("after", lambda found: phase(found) == "Succeeded")


async def test_an_agent_that_was_killed_takes_its_pods_up_again(
    own: LocalCluster, ns: Namespace
) -> None:
    slow = 'trap "sleep 0.5; echo bye; exit 0" TERM; ' + _LASTING
    await ns.create(
        _lasting(ns, "over"),
        _lasting(ns, "away"),
        _lasting(ns, "deleted", slow, terminationGracePeriodSeconds=30),
    )
    processes = await _started(ns, "over", "away", "deleted")
    own.child(AGENT).stop(0)
    # While nobody looks one ends, one is to end, and one comes.
    _end(ns, "away")
    await ns.delete("Pod", "deleted")
    await ns.create(pod("new", shell("echo new")))
    await asyncio.to_thread(processes["away"].wait, 30)
    assert not ended(await ns.get("Pod", "away"))
    await asyncio.to_thread(own.restart, AGENT)
    found = await ns.pod("away", ended)
    assert (phase(found), exit_code(found)) == ("Failed", 5)
    await ns.gone("Pod", "deleted")
    assert exit_code(ns.versions("Pod", "deleted")[-1]) == 0
    await ns.pod("new", lambda found: phase(found) == "Succeeded")
    assert (await _started(ns, "over"))["over"] == processes["over"]
    found = await ns.get("Pod", "over")
    assert is_running(found)
    assert status(found)["restartCount"] == 0
    _end(ns, "over")
    await ns.pod("over", ended)
    assert len((await ns.log("over")).splitlines()) == 2


async def test_an_agent_that_is_asked_to_end_leaves_the_pods_alone(
    own: LocalCluster, ns: Namespace
) -> None:
    probe = {"exec": {"command": ["cat", "/both/ready"]}, "periodSeconds": 1}
    await ns.create(_lasting(ns, "p", probe=probe))
    processes = await _started(ns, "p")
    await asyncio.to_thread(own.restart, AGENT)
    assert processes["p"].is_running()
    found = await ns.get("Pod", "p")
    assert is_running(found)
    assert not holds(found, "Ready")
    # What was taken up is looked after.
    (ns.scratch / "p" / "ready").touch()
    await ns.pod("p", lambda found: holds(found, "Ready"))
    _end(ns, "p")
    await ns.pod("p", ended)


async def test_when_the_runtime_falls_its_pods_fall_and_the_policy_says_what_comes(
    own: LocalCluster, ns: Namespace
) -> None:
    again = _lasting(ns, "again", restartPolicy="Always")
    await ns.create(_lasting(ns, "never"), again)
    processes = await _started(ns, "never", "again")
    own.child(RUNTIME).stop(0)
    gone, alive = await asyncio.to_thread(psutil.wait_procs, [*processes.values()], 30)
    assert not alive, gone
    await asyncio.to_thread(own.restart, RUNTIME)
    found = await ns.pod("never", ended)
    assert phase(found) == "Failed"
    found = await ns.pod("again", lambda found: status(found).get("restartCount") == 1)
    await ns.pod("again", lambda found: is_running(found) and status(found)["restartCount"] == 1)
    await ns.create(pod("after", shell("echo new")))
    await ns.pod("after", lambda found: phase(found) == "Succeeded")


async def test_a_job_is_carried_on_by_the_next_controllers(
    own: LocalCluster, ns: Namespace
) -> None:
    wait = [{"name": "N", "valueFrom": key("configMap", "c", "n")}]
    template = spec(shell("sleep $N", env=wait))
    await ns.create(config("c", n="2"), job("j", template, completions=4, parallelism=2))
    await ns.until(lambda: [found for found in ns.there() if is_running(found)])
    await ns.patch("ConfigMap", "c", {"data": {"n": "0"}})
    own.child("controller-manager").stop(0)
    first = set(ns.names())
    for name in first:
        await ns.pod(name, ended)
    await asyncio.to_thread(own.restart, "controller-manager")
    found = await ns.job("j", is_complete)
    assert found["status"]["succeeded"] == 4
    assert len(ns.names()) == 4
    assert first < ns.names()
