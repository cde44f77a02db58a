"""Pods on two nodes: each reaches the other by its address, by a Service, and by a name."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

from .api import Object, path_of
from .catalogue import case
from .manifests import ended, env, holds, phase, pod, python, service
from .namespace import Namespace

PORT = 8000
# Says its name, and from which address it was asked.
_SERVE = """
import os, socketserver
class Say(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(f"{os.environ['HOSTNAME']} {self.client_address[0]}".encode())
socketserver.ThreadingTCPServer(("", 8000), Say).serve_forever()
"""


async def two_nodes(ns: Namespace) -> list[str]:
    """The names of two nodes."""
    nodes = (await ns.api.ask("GET", path_of("Node")))["items"]
    names = sorted(node["metadata"]["name"] for node in nodes)
    assert len(names) >= 2, names
    return names[:2]


async def _servers(ns: Namespace, nodes: list[str]) -> dict[str, str]:
    """A server on each node; their addresses by their names."""
    ready = {"tcpSocket": {"port": PORT}, "periodSeconds": 1}
    names = [f"server-{number}" for number in range(len(nodes))]
    for name, node in zip(names, nodes, strict=True):
        container = python(_SERVE, readinessProbe=ready)
        fields: Object = {"nodeName": node, "hostname": name, "subdomain": "all"}
        await ns.create(pod(name, container, labels={"app": "server"}, **fields))
    found = [await ns.pod(name, lambda found: holds(found, "Ready")) for name in names]
    assert [one["spec"]["nodeName"] for one in found] == nodes
    return {one["metadata"]["name"]: one["status"]["podIP"] for one in found}


async def ask_from(ns: Namespace, node: str, script: str, **values: str) -> tuple[Any, str]:
    """What a script prints as JSON in a pod on ``node``, and that pod's address."""
    name = f"asks-from-{node}"
    await ns.create(pod(name, python(script, env=env(**values)), nodeName=node))
    found = await ns.pod(name, ended)
    text = await ns.log(name)
    assert phase(found) == "Succeeded", text
    return json.loads(text.splitlines()[-1]), found["status"]["podIP"]


_ASK_ADDRESSES = """
import json, os, socket
said = []
for address in os.environ["ADDRESSES"].split():
    with socket.create_connection((address, 8000), 60) as to:
        said.append(to.recv(100).decode())
print(json.dumps(said))
"""


@case(wants=("network",))
async def by_address(ns: Namespace) -> None:
    """A pod reaches those of its own and of another node, and is seen under its own address."""
    nodes = await two_nodes(ns)
    servers = await _servers(ns, nodes)
    assert len(set(servers.values())) == 2
    for node in nodes:
        said, own = await ask_from(ns, node, _ASK_ADDRESSES, ADDRESSES=" ".join(servers.values()))
        assert said == [f"{name} {own}" for name in servers]


# A Service is known in each node some time after its pods are ready.
_ASK_SERVICE = """
import json, os, socket, time
last, said = time.monotonic() + 100, {}
for target in os.environ["TARGETS"].split():
    seen, address = set(), ""
    while len(seen) < 2 and time.monotonic() < last:
        try:
            address = socket.gethostbyname(target)
            with socket.create_connection((target, 80), 10) as to:
                seen.add(to.recv(100).decode().split()[0])
        except OSError as error:
            print(target, error)
            time.sleep(0.2)
    said[target] = [address, sorted(seen)]
print(json.dumps(said))
"""


@case(wants=("network",))
async def by_service(ns: Namespace) -> None:
    """By its address and its names a Service leads to both of its pods, from each node."""
    nodes = await two_nodes(ns)
    ports = [{"port": 80, "targetPort": PORT}]
    wanted = {"selector": {"app": "server"}, "ports": ports}
    await ns.create({"kind": "Service", "metadata": {"name": "web"}, "spec": wanted})
    address = (await ns.get("Service", "web"))["spec"]["clusterIP"]
    assert ipaddress.ip_address(address)
    both = sorted(await _servers(ns, nodes))
    names = ["web", f"web.{ns.name}", f"web.{ns.name}.svc.cluster.local"]
    targets = [address, *names]
    for node in nodes:
        said, _ = await ask_from(ns, node, _ASK_SERVICE, TARGETS=" ".join(targets))
        assert said == {target: [address, both] for target in targets}


# CoreDNS remembers for a while that a name was not there.
_ASK_NAMES = """
import json, os, socket, time
last, wanted = time.monotonic() + 100, json.loads(os.environ["WANTED"])
def look(name):
    try:
        return sorted({found[4][0] for found in socket.getaddrinfo(name, 0, socket.AF_INET)})
    except OSError as error:
        return str(error)
while (said := {name: look(name) for name in wanted}) != wanted and time.monotonic() < last:
    time.sleep(0.5)
print(json.dumps(said))
"""


@case(wants=("network",))
async def by_headless_names(ns: Namespace) -> None:
    """A Service without an address names all of its pods, and each one of them."""
    nodes = await two_nodes(ns)
    await ns.create(service("all", app="server"))
    servers = await _servers(ns, nodes)
    wanted = {"all": sorted(servers.values())}
    wanted |= {f"{name}.all": [address] for name, address in servers.items()}
    for name in servers:
        wanted[f"{name}.all.{ns.name}.svc.cluster.local"] = [servers[name]]
    for node in nodes:
        said, _ = await ask_from(ns, node, _ASK_NAMES, WANTED=json.dumps(wanted))
        assert said == wanted
