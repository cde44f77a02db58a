"""The four programs of a control plane: how each is told what to do, and when it is ready.

The flags are kubeadm's where it has them. What differs, and why:

- No leader election: there is one of each, and a lease would cost the start 15 s after a crash.
- No endpoint of the ``kubernetes`` Service is kept up: there is no pod network that would use it.
- etcd's peer port is any free one, since it has no peers.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube.ports import HOST
from aiinfra_lab.processes import HttpAnswers
from aiinfra_lab.tls import client_context

ETCD, APISERVER = "etcd", "kube-apiserver"
CONTROLLERS, SCHEDULER = "kube-controller-manager", "kube-scheduler"
#: In the order in which they start; each needs those before it.
COMPONENTS = (ETCD, APISERVER, CONTROLLERS, SCHEDULER)
#: Seconds between TERM and KILL. They bound an orderly stop, and what is left to live when
#: the parent is killed and all four are ended at once: the API server alone would hang 15 s.
GRACE_S = {ETCD: 2.0, APISERVER: 2.0, CONTROLLERS: 1.0, SCHEDULER: 1.0}
SERVICE_RANGE = "10.0.0.0/24"


@dataclass(frozen=True)
class Plan:
    """What the command lines are made of.

    Attributes
    ----------
    pki : Path
        The folder of ``Credentials``.
    state : Path
        The folder in which etcd keeps its data.
    ports : mapping
        Port by component.
    durable : bool
        Whether etcd waits for the disk at each write: only then does a power cut lose nothing.
    flags : mapping
        More flags by component; they come last and win.
    """

    pki: Path
    state: Path
    ports: Mapping[str, int]
    durable: bool = False
    flags: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where the API server answers."""
        return f"https://{HOST}:{self.ports[APISERVER]}"

    def words(self, component: str) -> list[str]:
        """The flags of ``component``."""
        made = {
            ETCD: self._etcd,
            APISERVER: self._apiserver,
            CONTROLLERS: self._controllers,
            SCHEDULER: self._scheduler,
        }[component]()
        words = [f"--{name}={value}" for name, value in made.items()]
        return [*words, *self.flags.get(component, ())]

    def healthy(self, component: str) -> HttpAnswers:
        """The probe that says when ``component`` is ready."""
        port, context = self.ports[component], self._trust(component)
        path = {ETCD: "readyz", APISERVER: "readyz"}.get(component, "healthz")
        return HttpAnswers(f"https://{HOST}:{port}/{path}", tls=context)

    def admin(self) -> ssl.SSLContext:
        """TLS as the administrator."""
        ca = (self.pki / "ca.crt").read_bytes()
        return client_context(ca, cert=self.pki / "admin.crt", key=self.pki / "admin.key")

    def _trust(self, component: str) -> ssl.SSLContext:
        if component != ETCD:
            return client_context((self.pki / "ca.crt").read_bytes())
        ca = (self.pki / "etcd-ca.crt").read_bytes()
        return client_context(
            ca, cert=self.pki / "etcd-client.crt", key=self.pki / "etcd-client.key"
        )

    def _etcd(self) -> dict[str, object]:
        here = f"https://{HOST}:{self.ports[ETCD]}"
        cert, key, ca = (self.pki / name for name in ("etcd.crt", "etcd.key", "etcd-ca.crt"))
        return {
            "data-dir": self.state,
            "listen-client-urls": here,
            "advertise-client-urls": here,
            "listen-peer-urls": f"https://{HOST}:0",
            "client-cert-auth": "true",
            "trusted-ca-file": ca,
            "cert-file": cert,
            "key-file": key,
            "peer-client-cert-auth": "true",
            "peer-trusted-ca-file": ca,
            "peer-cert-file": cert,
            "peer-key-file": key,
            "enable-grpc-gateway": "false",
            "unsafe-no-fsync": "false" if self.durable else "true",
        }

    def _apiserver(self) -> dict[str, object]:
        return {
            "etcd-servers": f"https://{HOST}:{self.ports[ETCD]}",
            "etcd-cafile": self.pki / "etcd-ca.crt",
            "etcd-certfile": self.pki / "etcd-client.crt",
            "etcd-keyfile": self.pki / "etcd-client.key",
            "bind-address": HOST,
            "advertise-address": HOST,  # else a machine without a route cannot start it
            "secure-port": self.ports[APISERVER],
            **self._serving(APISERVER),
            "client-ca-file": self.pki / "ca.crt",
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "service-cluster-ip-range": SERVICE_RANGE,
            "endpoint-reconciler-type": "none",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": self.pki / "sa.pub",
            "service-account-signing-key-file": self.pki / "sa.key",
            "allow-privileged": "true",
            "kubelet-client-certificate": self.pki / "kubelet-client.crt",
            "kubelet-client-key": self.pki / "kubelet-client.key",
            "kubelet-certificate-authority": self.pki / "ca.crt",
            "kubelet-preferred-address-types": "InternalIP,Hostname",
            "profiling": "false",
        }

    def _controllers(self) -> dict[str, object]:
        return {
            **self._client(CONTROLLERS),
            "service-account-private-key-file": self.pki / "sa.key",
            "root-ca-file": self.pki / "ca.crt",
            # Each controller with its own account and rights, as the bootstrap policy has them.
            "use-service-account-credentials": "true",
            # By default 20 a second: 60 accounts and their tokens would take 5 s.
            "kube-api-qps": 1000,
            "kube-api-burst": 2000,
            "enable-hostpath-provisioner": "true",
            "controllers": "*",
        }

    def _scheduler(self) -> dict[str, object]:
        # By default 50 a second, which 500 Jobs at once would wait for.
        return self._client(SCHEDULER) | {"kube-api-qps": 1000, "kube-api-burst": 2000}

    def _client(self, component: str) -> dict[str, object]:
        return {
            "kubeconfig": self.pki / f"{component}.kubeconfig",
            "leader-elect": "false",
            "bind-address": HOST,
            "secure-port": self.ports[component],
            **self._serving(component),
            "profiling": "false",
        }

    def _serving(self, component: str) -> dict[str, object]:
        return {
            "tls-cert-file": self.pki / f"{component}.crt",
            "tls-private-key-file": self.pki / f"{component}.key",
        }


def checked_component(name: str, *others: str) -> str:
    """``name``, or the component that ``apiserver`` and the like are short for.

    Raises
    ------
    InputError
        There is no such component, and it is none of ``others``.
    """
    known = list(dict.fromkeys([*COMPONENTS, *others]))
    for component in known:
        if name in (component, component.removeprefix("kube-")):
            return component
    raise InputError(f"there is no component {name!r}", fix=f"There is: {', '.join(known)}.")
