"""All pods of a node: workers come and go with the API's list, and orphans are ended."""

import asyncio
import contextlib
import time

from node_fakes import QUICK, FakeApi, FakePreparation, FakeRuntime, pod

from aiinfra_lab.kube.node.agent import Agent
from aiinfra_lab.kube.node.events import Recorder
from aiinfra_lab.kube.node.order import Order
from aiinfra_lab.kube.node.pods import Pods
from aiinfra_lab.kube.node.tools import Tools
from aiinfra_lab.kube.runtime.spec import ContainerState


@contextlib.asynccontextmanager
async def node(*known):
    api, runtime, preparation = FakeApi(*known), FakeRuntime(), FakePreparation()
    tools = Tools(
        api=api,
        runtime=runtime,
        preparation=preparation,
        recorder=Recorder(api, "n1"),
        waits=QUICK,
    )
    pods = Pods(tools)
    runtime.listener = pods.observe
    yield pods, api, runtime, preparation
    await pods.close()


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


def running(uid, name="main", attempt=0):
    labels = {"uid": uid, "namespace": "default", "pod": uid, "container": name}
    labels["attempt"] = str(attempt)
    run = f"{uid}.{name}.{attempt}"
    return ContainerState(id=run, status="running", pid=3, started_at=time.time(), labels=labels)


async def test_pods_of_the_list_run_and_those_that_left_it_end():
    a, b = pod(name="a", uid="ua"), pod(name="b", uid="ub")
    async with node(a, b) as (pods, _, runtime, preparation):
        pods.compare([])
        pods.synchronise([a, b])
        await until(lambda: runtime.running == ["ua.main.0", "ub.main.0"])
        assert pods.by_name("default", "a").uid == "ua"
        pods.synchronise([b])  # while the watch was cut
        await until(lambda: pods.by_name("default", "a") is None)
        assert runtime.running == ["ub.main.0"]
        assert preparation.forgotten == ["ua"]
        pods.delete(b)
        await until(lambda: not list(pods))
        assert not runtime.states


async def test_what_the_api_does_not_know_is_ended_and_forgotten():
    known = pod(name="a", uid="ua")
    async with node(known) as (pods, _, runtime, preparation):
        for state in (running("ua"), running("ux"), running("ux", attempt=1), running("ux", "s")):
            runtime.states[state.id] = state
        pods.compare(list(runtime.states.values()))
        pods.synchronise([known], folders={"ua", "uz"})
        await until(lambda: sorted(preparation.forgotten) == ["ux", "uz"])
        assert runtime.running == ["ua.main.0"]
        assert not runtime.specs  # the known one was adopted
        assert len(list(pods)) == 1


async def test_a_pod_that_is_made_again_under_its_name_is_another_pod():
    first, second = pod(name="a", uid="u1"), pod(name="a", uid="u2")
    async with node(first) as (pods, api, runtime, _):
        pods.compare([])
        pods.update(first)
        await until(lambda: runtime.running == ["u1.main.0"])
        api.pods["a"] = second
        pods.delete(first)
        pods.update(second)
        await until(lambda: runtime.running == ["u2.main.0"])
        assert pods.by_name("default", "a").uid == "u2"


async def test_a_runtime_that_lost_everything_is_compared():
    made = pod(name="a", uid="ua")
    async with node(made) as (pods, api, _, _):
        pods.compare([])
        pods.update(made)
        await until(lambda: api.writes and api.writes[-1]["phase"] == "Running")
        pods.compare([])
        await until(lambda: api.writes[-1]["phase"] == "Failed")


async def test_an_agent_that_waits_for_its_runtime_can_be_told_to_stop(tmp_path):
    paths = {name: tmp_path / name for name in ("folder", "shared", "cert", "key", "ca")}
    paths["folder"].mkdir()
    order = Order(name="n1", number=1, url="https://127.0.0.1:9", **paths)
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, stop.set)
    began = time.monotonic()
    await Agent(order).run(stop)
    assert time.monotonic() - began < 8  # it would wait 10 s for the runtime
