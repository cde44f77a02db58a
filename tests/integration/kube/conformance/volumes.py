"""Data that outlives a pod."""

from __future__ import annotations

from pathlib import Path

from aiinfra_lab.kube.storage import CLAIMS

from .api import path_of
from .catalogue import case
from .manifests import FOREVER, claim, ended, field, is_running, mount, phase, pod, shell, volume
from .namespace import Namespace
from .nodes import two_nodes

_DATA = volume("data", persistentVolumeClaim={"claimName": "c"})
_SEEN = [mount("data", "/data")]
_NODE = {"name": "NODE", "valueFrom": field("spec.nodeName")}


@case()
async def from_pod_to_pod(ns: Namespace) -> None:
    """What one pod writes the next one reads; when the claim goes, so does its volume."""
    await ns.create(
        claim("c"), pod("w", shell("echo kept > /data/f", volumeMounts=_SEEN), volumes=[_DATA])
    )
    await ns.pod("w", lambda found: phase(found) == "Succeeded")
    await ns.delete("Pod", "w")
    await ns.gone("Pod", "w")
    await ns.create(pod("r", shell("cat /data/f", volumeMounts=_SEEN), volumes=[_DATA]))
    await ns.pod("r", ended)
    assert await ns.log("r") == "kept\n"
    found = await ns.get("PersistentVolumeClaim", "c")
    assert found["status"]["phase"] == "Bound"
    await ns.delete("Pod", "r")
    await ns.gone("Pod", "r")
    await ns.delete("PersistentVolumeClaim", "c")
    await ns.gone("PersistentVolumeClaim", "c")
    await ns.api.gone(path_of("PersistentVolume", name=found["spec"]["volumeName"]))


@case(wants=("claims",))
async def from_node_to_node(ns: Namespace) -> None:
    """One node writes, another reads; it lies in one folder of this machine, until the claim goes.

    A claim is there once for all nodes because they see that folder.
    """
    first, second = await two_nodes(ns)
    writer = shell("echo from $NODE > /data/f", volumeMounts=_SEEN, env=[_NODE])
    await ns.create(claim("c"), pod("w", writer, volumes=[_DATA], nodeName=first))
    await ns.pod("w", lambda found: phase(found) == "Succeeded")
    script = "cat /data/f; echo and $NODE >> /data/f"
    reader = shell(script, volumeMounts=_SEEN, env=[_NODE])
    await ns.create(pod("r", reader, volumes=[_DATA], nodeName=second))
    found = await ns.pod("r", ended)
    assert phase(found) == "Succeeded", await ns.log("r")
    assert await ns.log("r") == f"from {first}\n"
    name = (await ns.get("PersistentVolumeClaim", "c"))["spec"]["volumeName"]
    bound = await ns.api.ask("GET", path_of("PersistentVolume", name=name))
    above = ns.api.kubeconfig.parent / "claims" if ns.provider == "kind" else CLAIMS
    folder = above / Path(bound["spec"]["hostPath"]["path"]).name
    assert (folder / "f").read_text() == f"from {first}\nand {second}\n"
    for pod_name in ("w", "r"):
        await ns.delete("Pod", pod_name)
        await ns.gone("Pod", pod_name)
    await ns.delete("PersistentVolumeClaim", "c")
    await ns.api.gone(path_of("PersistentVolume", name=name))
    assert not folder.exists()
    assert above.is_dir()


@case()
async def apart(ns: Namespace) -> None:
    """Two claims are two folders; one path of a claim can be mounted alone."""
    both = [_DATA, volume("other", persistentVolumeClaim={"claimName": "d"})]
    script = "mkdir -p /data/sub; echo one > /data/sub/f; ls -A /other; cat /part/f"
    seen = [*_SEEN, mount("other", "/other"), mount("data", "/part", subPath="sub")]
    await ns.create(
        claim("c"), claim("d"), pod("p", shell(script, volumeMounts=seen), volumes=both)
    )
    found = await ns.pod("p", ended)
    assert phase(found) == "Succeeded", await ns.log("p")
    assert await ns.log("p") == "one\n"


@case()
async def in_use(ns: Namespace) -> None:
    """A claim that a pod uses is deleted only after the pod has gone."""
    await ns.create(claim("c"), pod("p", shell(FOREVER, volumeMounts=_SEEN), volumes=[_DATA]))
    await ns.pod("p", is_running)
    await ns.delete("PersistentVolumeClaim", "c")
    found = await ns.get("PersistentVolumeClaim", "c")
    assert found["metadata"]["deletionTimestamp"]
    await ns.delete("Pod", "p")
    await ns.gone("PersistentVolumeClaim", "c")


@case()
async def a_missing_claim(ns: Namespace) -> None:
    """The scheduler says what a pod waits for; it runs once the claim is there."""
    await ns.create(pod("p", shell("echo here > /data/f", volumeMounts=_SEEN), volumes=[_DATA]))
    message = await ns.event("FailedScheduling", "p")
    assert 'persistentvolumeclaim "c" not found' in message
    await ns.create(claim("c"))
    await ns.pod("p", lambda found: phase(found) == "Succeeded")


@case()
async def a_folder_of_the_node(ns: Namespace) -> None:
    """hostPath: the node's own folder, seen by two pods of one node, read-only where asked."""
    parent = str(ns.scratch) if ns.provider == "local" else "/tmp"
    path = f"{parent}/aiinfra-{ns.name}"
    folder = [volume("host", hostPath={"path": path, "type": "DirectoryOrCreate"})]
    writer = shell("echo x > /host/f", volumeMounts=[mount("host", "/host")])
    await ns.create(pod("w", writer, volumes=folder))
    found = await ns.pod("w", lambda found: phase(found) == "Succeeded")
    node = found["spec"]["nodeName"]
    script = "cat /host/f; rm -f /host/f || true; ls /host; echo end"
    reader = shell(script, volumeMounts=[mount("host", "/host", readOnly=True)])
    await ns.create(pod("r", reader, volumes=folder, nodeName=node))
    await ns.pod("r", ended)
    said = [line for line in (await ns.log("r")).splitlines() if "Read-only" not in line]
    cleaner = shell(f"rm -r /host/aiinfra-{ns.name}", volumeMounts=[mount("host", "/host")])
    above = [volume("host", hostPath={"path": parent, "type": "Directory"})]
    await ns.create(pod("z", cleaner, volumes=above, nodeName=node))
    await ns.pod("z", lambda found: phase(found) == "Succeeded")
    assert said == ["x", "f", "end"]
