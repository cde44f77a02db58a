"""A node's own objects: made, taken over, kept, made again; and the order of its program."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube.node import registration
from aiinfra_lab.kube.node.__main__ import main
from aiinfra_lab.kube.node.api import ApiAway, ApiError
from aiinfra_lab.kube.node.order import Order
from aiinfra_lab.kube.node.registration import Capacity, Registration

HAS = Capacity(cpus=2, memory=4 << 30, disk=10 << 30, pods=100, gpus=2)
NODE = "/api/v1/nodes/n1"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1"


class FakeApi:
    """Objects by path; every write is kept."""

    def __init__(self):
        self.objects, self.writes, self.away, self.uids = {}, [], False, 0

    def _reach(self):
        if self.away:
            raise ApiAway("nobody answers")

    async def get(self, path, **params):
        self._reach()
        if path not in self.objects:
            raise ApiError("not found", status=404)
        return self.objects[path]

    async def create(self, path, body):
        self._reach()
        path = f"{path}/{body['metadata']['name']}"
        if path in self.objects:
            raise ApiError("it is there", status=409)
        self.uids += 1
        made = json.loads(json.dumps(body))
        made["metadata"]["uid"] = f"uid-{self.uids}"
        self.objects[path] = made
        self.writes.append(("create", path, body))
        return made

    async def patch(self, path, body, *, strategy="strategic"):
        self._reach()
        found = await self.get(path.removesuffix("/status"))
        self.writes.append(("patch", path, body))
        for key, value in body.items():
            found[key] = found.get(key, {}) | value if isinstance(value, dict) else value
        return found

    def count(self, verb, path):
        return sum((verb, path) == write[:2] for write in self.writes)


def node(api, **options):
    options = {"renew_s": 0.01, "status_s": 0.03, "labels": {"zone": "a"}, **options}
    return Registration(api, "n1", HAS, 1234, "v1.36.2", **options)


@pytest.fixture
def api():
    return FakeApi()


async def kept(registered, until, timeout=10.0):
    task = asyncio.ensure_future(registered.keep())
    try:
        async with asyncio.timeout(timeout):
            while not until():
                await asyncio.sleep(0.002)
                assert not task.done()
    finally:
        task.cancel()


async def test_a_new_node_has_all_that_the_api_asks_for(api):
    await node(api, features=("B", "A")).register()
    made = api.objects[NODE]
    assert made["metadata"]["labels"]["kubernetes.io/hostname"] == "n1"
    assert made["metadata"]["labels"]["zone"] == "a"
    status = made["status"]
    assert status["capacity"] == status["allocatable"]
    assert status["capacity"] == {
        "cpu": "2",
        "memory": "4194304Ki",
        "ephemeral-storage": "10485760Ki",
        "pods": "100",
        "nvidia.com/gpu": "2",
    }
    assert status["daemonEndpoints"] == {"kubeletEndpoint": {"Port": 1234}}
    assert status["declaredFeatures"] == ["A", "B"]
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "Ready": "True",
        "MemoryPressure": "False",
        "DiskPressure": "False",
        "PIDPressure": "False",
    }
    assert all(isinstance(value, str) for value in status["nodeInfo"].values())
    lease = api.objects[LEASE]
    assert lease["spec"]["leaseDurationSeconds"] == 40
    assert lease["metadata"]["ownerReferences"][0]["uid"] == "uid-1"


async def test_a_node_that_is_there_is_taken_over(api):
    await node(api).register()
    second = Registration(api, "n1", HAS, 4321, "v1.36.2")
    await second.register()
    assert api.count("create", NODE) == 1
    assert api.objects[NODE]["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] == 4321


async def test_the_lease_beats_faster_than_the_status(api):
    made = node(api)
    await made.register()
    await kept(made, lambda: api.count("patch", f"{NODE}/status") >= 2)
    assert api.count("patch", LEASE) > 4


async def test_a_clock_that_jumps_does_not_stop_the_heart(api, monkeypatch):
    made = node(api)
    await made.register()
    jumps = iter([timedelta(days=-400), timedelta(days=9000)] * 10_000)
    monkeypatch.setattr(
        registration, "_now", lambda: datetime(2026, 1, 1, tzinfo=UTC) + next(jumps)
    )
    await kept(made, lambda: api.count("patch", LEASE) >= 5)
    times = {body["spec"]["renewTime"][:4] for _, path, body in api.writes if path == LEASE}
    assert {"2024", "2050"} <= times


async def test_a_node_that_was_deleted_is_made_again(api):
    made = node(api)
    await made.register()
    api.objects.clear()
    await kept(made, lambda: api.count("create", NODE) == 2)
    await kept(made, lambda: LEASE in api.objects)
    owner = api.objects[LEASE]["metadata"]["ownerReferences"][0]["uid"]
    assert owner == api.objects[NODE]["metadata"]["uid"]


async def test_a_node_whose_api_is_away_goes_on_when_it_is_back(api):
    made = node(api)
    await made.register()
    api.away = True
    task = asyncio.ensure_future(made.keep())
    await asyncio.sleep(0.05)
    api.away, before = False, len(api.writes)
    async with asyncio.timeout(10):
        while len(api.writes) == before:
            await asyncio.sleep(0.005)
    task.cancel()


async def test_a_change_is_reported_at_once(api):
    made = node(api, renew_s=60, status_s=60)
    await made.register()
    task = asyncio.ensure_future(made.keep())
    await asyncio.sleep(0.01)
    made.change(Capacity(cpus=2, memory=1 << 30, disk=1 << 30, pods=5))
    async with asyncio.timeout(10):
        while not api.count("patch", f"{NODE}/status"):
            await asyncio.sleep(0.002)
    task.cancel()
    assert api.objects[NODE]["status"]["capacity"]["pods"] == "5"
    assert "nvidia.com/gpu" not in api.objects[NODE]["status"]["capacity"]


def test_this_machine_has_something(tmp_path):
    found = Capacity.of_this_machine(tmp_path, pods=10, gpus=None)
    assert found.cpus >= 1
    assert min(found.memory, found.disk) > 1 << 20


ORDER = {
    "name": "n1",
    "number": 1,
    "folder": "/n",
    "shared": "/s",
    "url": "https://127.0.0.1:6443",
    "cert": "/c",
    "key": "/k",
    "ca": "/a",
}


def test_an_order_is_read_from_its_file(tmp_path):
    path = tmp_path / "order.json"
    path.write_text(json.dumps(ORDER | {"gpus": 2, "labels": {"a": "b"}, "images": None}))
    order = Order.read(path)
    assert (order.name, order.gpus, order.pods) == ("n1", 2, 1000)
    assert order.folder.name == "n"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"nam": "x"}, "nam"),
        ({"number": "one"}, "number"),
        ({"gpus": True}, "gpus"),
        ({"folder": 3}, "folder"),
    ],
)
def test_a_wrong_order_is_refused_in_a_sentence(change, says):
    with pytest.raises(InputError, match=says):
        Order.from_json(ORDER | change)


def test_an_order_that_lacks_something_says_what():
    with pytest.raises(InputError, match="lacks ca, key"):
        Order.from_json({k: v for k, v in ORDER.items() if k not in ("ca", "key")})


def test_the_program_says_what_is_wrong_without_a_trace(tmp_path, capsys):
    assert main([]) == 2
    assert main([str(tmp_path / "none.json")]) == 2
    said = capsys.readouterr().err
    assert "order" in said
    assert "Traceback" not in said
