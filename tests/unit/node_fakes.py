"""A runtime, an API server and a preparation that the node's unit tests have in their hands."""

import asyncio
import copy
import time
from dataclasses import replace
from pathlib import Path

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube.node.api import ApiAway, ApiError
from aiinfra_lab.kube.node.backoff import Backoff
from aiinfra_lab.kube.node.events import Recorder
from aiinfra_lab.kube.node.tools import Tools, Waits
from aiinfra_lab.kube.node.worker import PodWorker
from aiinfra_lab.kube.runtime.spec import ContainerSpec, ContainerState

QUICK = Waits(
    crash=Backoff(first=0.02, longest=0.08, free=1),
    image=Backoff(first=0.06, longest=0.2),
    preparation=Backoff(first=0.02, longest=0.05),
    error_shown=0.02,
    slow_start=0.02,
)


def container(name="main", **fields):
    return {"name": name, "image": "busybox", **fields}


def pod(*containers, uid="u1", name="p", policy="Never", inits=(), status=None, meta=None, **spec):
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": uid,
            "resourceVersion": "1",
            "generation": 1,
            **(meta or {}),
        },
        "spec": {
            "containers": list(containers) or [container()],
            **({"initContainers": list(inits)} if inits else {}),
            "restartPolicy": policy,
            "terminationGracePeriodSeconds": 30,
            **spec,
        },
        "status": status if status is not None else {"phase": "Pending"},
    }


def merged(status, change):
    """The strategic merge of a pod's status, as far as a node uses it."""
    result = copy.deepcopy(status)
    for key, value in change.items():
        if key == "conditions":
            known = {c["type"]: c for c in result.get(key, ())}
            for condition in value:
                new = known.get(condition["type"], {}) | condition
                known[condition["type"]] = {k: v for k, v in new.items() if v is not None}
            result[key] = list(known.values())
        elif isinstance(value, list):
            result[key] = [item for item in value if "$patch" not in item]
        else:
            result[key] = copy.deepcopy(value)
    return result


class FakeApi:
    """It knows pods by name, keeps every write, and can be away."""

    def __init__(self, *pods):
        self.pods = {p["metadata"]["name"]: copy.deepcopy(p) for p in pods}
        self.writes, self.events, self.deleted = [], [], []
        self.away, self.delay = False, 0.0
        self._versions = 100

    async def _reach(self):
        await asyncio.sleep(self.delay)
        if self.away:
            raise ApiAway("nobody answers")

    def _pod(self, path):
        name = path.split("/pods/")[1].split("/")[0]
        if name not in self.pods:
            raise ApiError("not found", status=404, reason="NotFound")
        return self.pods[name]

    async def get(self, path, **params):
        await self._reach()
        return copy.deepcopy(self._pod(path))

    async def create(self, path, body):
        await self._reach()
        self.events.append((body["type"], body["reason"], body["message"]))
        return body

    async def patch(self, path, body, *, strategy="strategic"):
        await self._reach()
        if "/events/" in path:
            return body
        found = self._pod(path)
        if body["metadata"]["uid"] != found["metadata"]["uid"]:
            raise ApiError("another uid", status=409, reason="Conflict")
        found["status"] = merged(found["status"], body["status"])
        self._versions += 1
        found["metadata"]["resourceVersion"] = str(self._versions)
        self.writes.append(copy.deepcopy(found["status"]))
        return copy.deepcopy(found)

    async def delete(self, path, body=None):
        await self._reach()
        found = self._pod(path)
        if body["preconditions"]["uid"] != found["metadata"]["uid"]:
            raise ApiError("another uid", status=409, reason="Conflict")
        self.deleted.append(body)
        return self.pods.pop(found["metadata"]["name"])


class FakeRuntime:
    """Containers that run until a test, or ``stop``, ends them."""

    def __init__(self):
        self.states, self.stops, self.specs, self.removed = {}, [], [], []
        self.stubborn, self.refuses, self.at_once, self.early = set(), set(), {}, {}
        self.listener, self.error, self.immortal = lambda state: None, None, set()

    async def run(self, spec):
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        if spec.id in self.states:
            return self.states[spec.id]
        self.specs.append(spec)
        now = time.time()
        state = ContainerState(
            id=spec.id, status="running", pid=1, started_at=now, labels=spec.labels
        )
        name = spec.labels["container"]
        if name in self.refuses:
            state = replace(
                state, status="exited", exit_code=128, reason="StartError", message="no program"
            )
        self.states[spec.id] = state
        if name in self.early:  # its end is told before its start is answered
            self.finish(spec.id, self.early[name])
        if name in self.at_once:
            asyncio.get_running_loop().call_soon(self.finish, spec.id, self.at_once[name])
        return state

    def finish(self, run, code=0, ran=0.0, reason=""):
        state = self.states[run]
        if state.status == "exited":
            return
        state = replace(
            state,
            status="exited",
            finished_at=state.started_at + ran,
            exit_code=code,
            signal=code - 128 if code > 128 else 0,
            reason=reason or ("Error" if code else "Completed"),
        )
        self.states[run] = state
        self.listener(state)

    async def stop(self, run, grace):
        if self.error is not None:
            raise self.error
        self.stops.append((run, grace))
        name = self.states[run].labels["container"]
        if name not in self.immortal and (grace == 0 or name not in self.stubborn):
            self.finish(run, 137 if grace == 0 else 143)

    async def remove(self, run):
        if run in self.running:
            raise InputError("it runs")
        self.removed.append(run)
        self.states.pop(run, None)

    async def list(self):
        return list(self.states.values())

    @property
    def running(self):
        return sorted(s.id for s in self.states.values() if s.status == "running")


class FakePreparation:
    """It makes the shortest specification, or raises what a test wants."""

    def __init__(self):
        self.pods, self.forgotten, self.problems = [], [], {}
        self.delay, self.volume = 0.0, None

    async def pod(self, pod):
        await asyncio.sleep(self.delay)
        if self.volume is not None:
            raise self.volume
        self.pods.append(pod["metadata"]["uid"])
        return "127.65.0.1"

    async def container(self, pod, container, attempt, *, init=False):
        await asyncio.sleep(self.delay)
        if container["name"] in self.problems:
            raise self.problems[container["name"]]
        uid = pod["metadata"]["uid"]
        return ContainerSpec(
            id=f"{uid}.{container['name']}.{attempt}",
            argv=("true",),
            env={},
            log=self.log(pod, container["name"], attempt),
            labels={
                "uid": uid,
                "namespace": "default",
                "pod": pod["metadata"]["name"],
                "container": container["name"],
                "attempt": str(attempt),
                "ip": "127.65.0.1",
            },
        )

    async def forget(self, pod_uid):
        self.forgotten.append(pod_uid)

    def log(self, pod, container, attempt):
        return Path("pods") / pod["metadata"]["uid"] / container / f"{attempt}.log"


class Node:
    """One pod on a node of fakes; an ``async with`` runs its worker."""

    def __init__(self, pod, *, runtime=None, api=None, **options):
        self.api, self.runtime = api or FakeApi(pod), runtime or FakeRuntime()
        self.preparation, self.released = FakePreparation(), []
        self.name, self._first, self._options = pod["metadata"]["name"], pod, options
        self.recorded = []

    async def __aenter__(self):
        recorder = Recorder(self.api, "n1")
        recorder.record = lambda pod, kind, reason, message, container="": self.recorded.append(
            (reason, message)
        )
        tools = Tools(
            api=self.api,
            runtime=self.runtime,
            preparation=self.preparation,
            recorder=recorder,
            release=self.released.append,
            **({"waits": QUICK} | self._options),
        )
        states = [s for s in self.runtime.states.values() if s.labels["uid"] == self._uid]
        self.worker = PodWorker(tools, copy.deepcopy(self._first), states)
        self.runtime.listener = self.worker.observe
        self.task = asyncio.ensure_future(self.worker.run())
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.wait({self.task})
        if not self.task.cancelled():
            self.task.result()

    @property
    def _uid(self):
        return self._first["metadata"]["uid"]

    @property
    def status(self):
        return self.api.pods[self.name]["status"]

    @property
    def reasons(self):
        return [reason for reason, _ in self.recorded]

    def entry(self, name="main", group="containerStatuses"):
        return next((e for e in self.status.get(group, ()) if e["name"] == name), {"state": {}})

    def state(self, name="main", group="containerStatuses"):
        return next(iter(self.entry(name, group)["state"].items()), ("", {}))

    def change(self, *, spec=None, **meta):
        """Change the pod in the API, and let the watch say so."""
        found = self.api.pods[self.name]
        found["metadata"] |= meta
        found["spec"] |= spec or {}
        self.worker.update(copy.deepcopy(found))

    def delete(self, grace=30):
        self.change(deletionTimestamp="2026-01-01T00:00:00Z", deletionGracePeriodSeconds=grace)

    async def until(self, condition, timeout=5.0):
        """Wait until ``condition()``; the limit is only for a test that fails."""
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, (self.status, self.runtime.states, self.recorded)
            await asyncio.sleep(0.002)

    async def quiet(self, seconds=0.05):
        await asyncio.sleep(seconds)
