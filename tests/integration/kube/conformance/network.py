"""How the pods of one Job find each other."""

from __future__ import annotations

import asyncio

from .api import Object
from .catalogue import case
from .manifests import field, has_failed, is_complete, job, python, service, spec
from .namespace import Namespace

# Rank 0 listens on all addresses, as torch's store does whatever it is told.
_MEET = """
import os, socket, time
rank, name = int(os.environ["JOB_COMPLETION_INDEX"]), os.environ["JOB"]
port = int(os.environ.get("AIINFRA_JOB_PORT", "29500"))
if rank == 0:
    with socket.create_server(("", port)) as server:
        other, _ = server.accept()
        with other:
            other.sendall(os.environ["OWNER"].encode())
            other.recv(1)
    print("met")
else:
    last = time.monotonic() + 100
    while True:
        try:
            other = socket.create_connection((f"{name}-0.{os.environ['AT']}", port), 5)
            break
        except OSError as error:
            if time.monotonic() > last:
                raise
            time.sleep(0.1)
    with other:
        said = other.recv(100).decode()
    print(said)
    assert said == os.environ["OWNER"], said
"""


def _pair(name: str, at: str = "meet") -> Object:
    """An Indexed Job of two pods; rank 1 looks for rank 0 at ``<job>-0.<at>``."""
    label = "metadata.labels['batch.kubernetes.io/{}']"
    env = [
        {"name": "JOB", "valueFrom": field(label.format("job-name"))},
        {"name": "OWNER", "valueFrom": field(label.format("controller-uid"))},
        {"name": "AT", "value": at},
    ]
    template = spec(python(_MEET, env=env), subdomain="meet")
    both = {"completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimit": 0}
    return job(name, template, labels={"app": "pair"}, **both)


async def _done(ns: Namespace, name: str) -> None:
    found = await ns.job(name, lambda found: is_complete(found) or has_failed(found))
    if not is_complete(found):
        logs = [f"{pod}: {await ns.log(pod)}" for pod in sorted(ns.names())]
        raise AssertionError("\n".join([*logs, ns.story()]))


@case()
async def siblings(ns: Namespace) -> None:
    """The pods of a Job find each other by name through a headless Service."""
    await ns.create(service("meet", app="pair"), _pair("j"))
    await _done(ns, "j")


@case()
async def siblings_by_their_whole_name(ns: Namespace) -> None:
    """As with the short name."""
    at = f"meet.{ns.name}.svc.cluster.local"
    await ns.create(service("meet", app="pair"), _pair("j", at))
    await _done(ns, "j")


@case()
async def three_pairs_of_one_spec(ns: Namespace) -> None:
    """Two Jobs of one spec beside each other, and one of the same name in another namespace."""
    other = await ns.another()
    await ns.create(service("meet", app="pair"), _pair("a"), _pair("b"))
    await other.create(service("meet", app="pair"), _pair("a"))
    await asyncio.gather(_done(ns, "a"), _done(ns, "b"), _done(other, "a"))
