"""Everything that a pod needs before its containers start: what the kubelet makes, in one place.

A pod gets an address, names, and folders for its volumes; a container an image's stand-in, its
environment, command, mounts, devices and user. All of it lies below the node's folder,
``pods/<uid>/`` with the rights 0700, and the next agent takes it up again. What a pod may ask for,
what is ignored and what is refused, is said in ``security``; in what volumes are simpler than
elsewhere, in ``volumes``.

Where containers have no mount namespace they get no mounts: ``AIINFRA_VOLUME_<NAME>`` names the
folder of each volume, ``AIINFRA_HOSTS`` the hosts file, ``AIINFRA_SERVICE_ACCOUNT`` the folder
with the token.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiinfra_lab.kube.node.provision.devices import GPU, Devices, device_env, within
from aiinfra_lab.kube.node.provision.environment import Environment, expand
from aiinfra_lab.kube.node.provision.images import ImageTable
from aiinfra_lab.kube.node.provision.mounting import folder_variables, mounts, working_folder
from aiinfra_lab.kube.node.provision.network import Addresses, Neighbours
from aiinfra_lab.kube.node.provision.payload import Payload
from aiinfra_lab.kube.node.provision.quantity import parse_quantity, whole
from aiinfra_lab.kube.node.provision.records import Records
from aiinfra_lab.kube.node.provision.security import check, owner_of, user_of
from aiinfra_lab.kube.node.provision.sources import ApiCalls, Sources
from aiinfra_lab.kube.node.provision.tokens import Tokens
from aiinfra_lab.kube.node.provision.volumes import Volume, Volumes
from aiinfra_lab.kube.node.registration import Capacity
from aiinfra_lab.kube.ports import job_port
from aiinfra_lab.kube.runtime.spec import ContainerSpec, Mount

Object = dict[str, Any]
_HOSTS = "/etc/hosts"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NodeFacts:
    """One node: its name and number, its folder, the one common to all nodes, and its cluster."""

    name: str
    number: int
    folder: Path
    shared: Path
    api_host: str
    api_port: int
    isolated: bool
    ca_pem: str


class Preparation:
    """Prepares the pods of one node.

    Parameters
    ----------
    facts : NodeFacts
        The node.
    api : ApiCalls
        The API server, as the node's own user.
    images : ImageTable
        What stands for which image.
    devices : Devices
        The node's GPUs.
    """

    def __init__(
        self, facts: NodeFacts, api: ApiCalls, images: ImageTable, devices: Devices
    ) -> None:
        self._facts, self._images = facts, images
        self._pods = facts.folder / "pods"
        for folder in (facts.folder, self._pods, facts.shared):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._may_change_user = os.geteuid() == 0 and facts.isolated
        self._records = Records(
            self._pods, Addresses(facts.number), Neighbours(facts.shared, facts.name), devices
        )
        self._sources, self._tokens = Sources(api, facts.ca_pem), Tokens(api)
        machine = Capacity.of_this_machine(facts.folder, pods=0, gpus=None)
        self._capacity = machine.to_json()
        payload = Payload(self._sources, self._tokens, self._capacity)
        self._volumes = Volumes(api, payload, facts.shared / "volumes.txt")
        self._filled: dict[str, dict[str, Volume]] = {}

    def uids(self) -> list[str]:
        """The pods that have something on this disk; ``forget`` those that the API has not."""
        return self._records.uids()

    async def pod(self, pod: Object) -> str:
        """Prepare what the containers of a pod have in common; may be called again.

        Returns
        -------
        str
            The pod's address.

        Raises
        ------
        VolumeProblem
            A volume cannot be had now.
        """
        record = self._records.take(pod)
        self._records.introduce(pod)
        owner = owner_of(pod, may_change=self._may_change_user)
        volumes = await self._volumes.fill(pod, self._folder(pod) / "volumes", owner)
        self._filled[record.name.uid] = volumes
        return record.name.ip

    async def container(
        self, pod: Object, container: Object, attempt: int, *, init: bool = False
    ) -> ContainerSpec:
        """Say what one run of a container of a prepared pod is to be.

        Raises
        ------
        ConfigProblem
            Its environment, command, mounts, devices or user name something that is not there.
        ImageProblem
            Nothing stands for its image.
        """
        uid, name = pod["metadata"]["uid"], container["name"]
        check(pod, container)
        image = self._images.find(container.get("image") or "")
        user = user_of(pod, container, may_change=self._may_change_user)
        if uid not in self._filled:
            await self.pod(pod)
        called, volumes = self._records.take(pod).name, self._filled[uid]
        gpus = self._gpus(pod, container, init=init)
        environment = Environment(self._sources, self._capacity, pod, called.ip)
        variables = await environment.variables(container, self._given(pod, volumes))
        if "CUDA_VISIBLE_DEVICES" in variables:
            variables["CUDA_VISIBLE_DEVICES"] = within(variables["CUDA_VISIBLE_DEVICES"], gpus)
        seen = list(mounts(container, volumes, variables))
        if not self._facts.isolated:
            variables |= folder_variables(seen)
        words = (*(container.get("command") or ()), *(container.get("args") or ()))
        home = self._folder(pod) / "home" / name
        log = self.log(pod, name, attempt)
        for folder in (home, log.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        base = {
            "PATH": image.search_path,
            # Another user's way to the folder is barred; Docker gives a user without a name "/".
            "HOME": str(home) if user.user in (None, os.geteuid()) else "/",
            "HOSTNAME": called.hostname,
            "LANG": os.environ.get("LANG") or "C.UTF-8",
            **({"TZ": os.environ["TZ"]} if "TZ" in os.environ else {}),
            **image.env,
            **device_env(gpus),
        }
        limits = (container.get("resources") or {}).get("limits") or {}
        wished = container.get("workingDir") or "/"
        return ContainerSpec(
            id=f"{uid}.{name}.{attempt}",
            argv=tuple(expand(word, variables) for word in words) or image.command,
            env=base | variables,
            log=log,
            cwd=wished if self._facts.isolated else working_folder(wished, seen, home),
            mounts=self._all_mounts(pod, seen),
            memory=whole(limits.get("memory", "0")) or None,
            cpus=float(parse_quantity(limits.get("cpu", "0"))) or None,
            user=user.user,
            group=user.group,
            labels={
                "uid": uid,
                "namespace": called.namespace,
                "pod": pod["metadata"]["name"],
                "container": name,
                "attempt": str(attempt),
                "init": str(init).lower(),
                "ip": called.ip,
                "gpus": ",".join(str(index) for index in gpus),
            },
        )

    async def refresh(self, pod: Object) -> None:
        """Give a pod's files their present contents, and new tokens before the old expire.

        What cannot be read now keeps its contents.
        """
        if pod["metadata"]["uid"] in self._filled:
            owner = owner_of(pod, may_change=self._may_change_user)
            folder = self._folder(pod) / "volumes"
            for problem in await self._volumes.refresh(pod, folder, owner):
                _log.warning("pod %s: %s", pod["metadata"]["name"], problem)

    async def siblings(self) -> None:
        """Bring the hosts files of pods with a subdomain up to date."""
        self._records.update_hosts()

    def ended(self, pod_uid: str) -> None:
        """Take back what a pod that will not run again was lent: its devices and its names."""
        self._records.end(pod_uid)
        self._tokens.forget(pod_uid)
        self._filled.pop(pod_uid, None)

    async def forget(self, pod_uid: str) -> None:
        """Remove everything of a pod from this disk but the data of its claims."""
        self.ended(pod_uid)
        await self._records.remove(pod_uid)

    def log(self, pod: Object, container: str, attempt: int) -> Path:
        """The file for the output of one run of a container."""
        return self._folder(pod) / "logs" / container / f"{attempt}.log"

    def _folder(self, pod: Object) -> Path:
        return self._pods / str(pod["metadata"]["uid"])

    def _gpus(self, pod: Object, container: Object, *, init: bool) -> tuple[int, ...]:
        limits = (container.get("resources") or {}).get("limits") or {}
        name, n = container["name"], whole(limits.get(GPU, "0"))
        passing = init and container.get("restartPolicy") != "Always"
        return self._records.assign(pod, name, n, passing=passing)

    def _given(self, pod: Object, volumes: dict[str, Volume]) -> dict[str, str]:
        """The variables of every container of a pod that its author may refer to."""
        port = str(self._facts.api_port)
        given = {
            "KUBERNETES_SERVICE_HOST": self._facts.api_host,
            "KUBERNETES_SERVICE_PORT": port,
            "KUBERNETES_SERVICE_PORT_HTTPS": port,
        }
        for owner in pod["metadata"].get("ownerReferences") or ():
            if owner.get("kind") == "Job":
                given["AIINFRA_JOB_PORT"] = str(job_port(owner["uid"]))
        if not self._facts.isolated:
            given["AIINFRA_HOSTS"] = str(self._folder(pod) / "hosts")
            folders = ((name, Mount(source=v.path, target="/")) for name, v in volumes.items())
            given |= folder_variables(folders)
        return given

    def _all_mounts(self, pod: Object, seen: list[tuple[str, Mount]]) -> tuple[Mount, ...]:
        if not self._facts.isolated:
            return ()
        own = [mount for _, mount in seen]
        if all(mount.target != _HOSTS for mount in own):
            own.append(Mount(source=self._folder(pod) / "hosts", target=_HOSTS))
        return tuple(own)
