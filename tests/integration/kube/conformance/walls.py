"""A packet to nobody: refused in the node, and never on its way out of this machine."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import subprocess
from collections.abc import Callable, Iterator

import psutil

from .api import Object, path_of
from .catalogue import case
from .manifests import ended, env, phase, pod, python
from .namespace import Namespace
from .nodes import two_nodes

# Of those that are kept for documentation. What is sent there shows that the counter counts.
_NOWHERE = "198.51.100.77"
# A packet may be lost, but who has an answer has had it. Of a missing host UDP is told nothing.
_KNOCK = """
import json, os, socket

def tcp(address):
    with socket.create_connection((address, 80), 20):
        return "answered"

def udp(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as to:
        to.settimeout(5)
        to.connect((address, 53))
        for _ in range(4):
            try:
                to.send(b"x")
                to.recv(1)
                return "answered"
            except TimeoutError:
                pass
    return "silence"

def name(ask, address):
    try:
        return ask(address)
    except TimeoutError:
        return "silence"
    except (ConnectionRefusedError, PermissionError):  # the latter where its own machine says so
        return "refused"
    except OSError as error:
        return os.strerror(error.errno)

service, gone = os.environ["SERVICE"], os.environ["GONE"].split()
print(json.dumps([name(tcp, service), name(udp, service), *(name(tcp, one) for one in gone)]))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as to:
    to.sendto(b"x", (os.environ["NOWHERE"], 9))
"""
_NO_HOST = "No route to host"
_TOLD = ["refused", "refused", _NO_HOST, _NO_HOST]


@case(needs=("dockerd",), wants=("containers", "network"))
async def nobody_there(ns: Namespace) -> None:
    """Who asks an address that no Service or pod has is told so at once, by its own node.

    Of what it sends nothing comes to the machine that the nodes are on, which would hand it on.
    """
    _check_that_we_are_the_gateway()
    services = await _range(ns, "service-cluster-ip-range")
    taken = (await ns.api.ask("GET", path_of("Service")))["items"]
    # Of the part that no Service is given unless it asks.
    free = {str(services[number]) for number in range(77, 99)}
    service = min(free - {one["spec"].get("clusterIP") for one in taken})
    # Nodes are given their ranges from the first on: the last one is nobody's.
    stray = str((await _range(ns, "cluster-cidr"))[-10])
    gone = {
        node["metadata"]["name"]: str(ipaddress.IPv4Network(node["spec"]["podCIDR"])[250])
        for node in (await ns.api.ask("GET", path_of("Node")))["items"]
    }
    with _counted(f"TEST-{ns.name}", str(services), stray, *gone.values(), _NOWHERE) as counts:
        pods = []
        for node in await two_nodes(ns):
            told = env(SERVICE=service, GONE=f"{gone[node]} {stray}", NOWHERE=_NOWHERE)
            pods += [await _knocking(ns, node, told, own=own) for own in (False, True)]
        said = {name: await _told(ns, name) for name in pods}
        *reached, control = counts()
    assert control >= len(said) == 4, "the counter does not see what the nodes send"
    assert not any(reached), (reached, said)
    assert list(said.values()) == [_TOLD] * 4, said


async def _knocking(ns: Namespace, node: str, told: list[Object], *, own: bool) -> str:
    """A pod on ``node``, on its ``own`` network if need be, that asks them all."""
    name = f"{'node' if own else 'pod'}-{node}"
    await ns.create(pod(name, python(_KNOCK, env=told), nodeName=node, hostNetwork=own))
    return name


async def _told(ns: Namespace, name: str) -> list[str]:
    """What came of it."""
    found = await ns.pod(name, ended)
    text = await ns.log(name)
    assert phase(found) == "Succeeded", text
    said: list[str] = json.loads(text)
    return said


async def _range(ns: Namespace, option: str) -> ipaddress.IPv4Network:
    """One that the cluster's own programs were told."""
    pods = await ns.api.ask("GET", path_of("Pod", "kube-system"))
    found = re.search(rf"--{option}=([\d./]+)", json.dumps(pods))
    assert found, f"no pod of the cluster's own has --{option}"
    return ipaddress.IPv4Network(found[1])


def _check_that_we_are_the_gateway() -> None:
    """Else the control would be sent to whoever is, and nothing would be counted."""
    words = ("network", "inspect", "kind", "--format", "{{range .IPAM.Config}}{{.Gateway}} {{end}}")
    gateways = set(subprocess.check_output(("docker", *words), text=True).split())
    ours = {one.address for found in psutil.net_if_addrs().values() for one in found}
    assert gateways & ours, f"the nodes' gateway {gateways} is another machine"


@contextlib.contextmanager
def _counted(chain: str, *targets: str) -> Iterator[Callable[[], list[int]]]:
    """Count what comes to this machine for each target, in a chain of its own; none goes on.

    It is dropped, not refused: so a refusal can only be the node's.
    """
    jump = ("PREROUTING", "-j", chain)
    _iptables("-N", chain)
    try:
        for target in targets:
            _iptables("-A", chain, "-d", target, "-j", "DROP")
        _iptables("-I", *jump)
        try:
            yield lambda: _counts(chain)
        finally:
            _iptables("-D", *jump)
    finally:
        _iptables("-F", chain)
        _iptables("-X", chain)


def _counts(chain: str) -> list[int]:
    rows = _iptables("-n", "-v", "-x", "-L", chain).splitlines()[2:]
    return [int(row.split()[0]) for row in rows]


def _iptables(*words: str) -> str:
    command = ("iptables", "-w", "30", "-t", "mangle", *words)
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
