"""Who may do what on a local control plane: two authorities, and a certificate for each part.

As kubeadm does it: the API server knows users by certificates of the cluster's authority, whose
common name is the user and whose organizations are the groups; etcd has an authority of its own,
because whoever reaches it is above all rules. Everything is issued anew at each start, except the
key that signs service account tokens: tokens outlive a restart.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from aiinfra_lab.files import write_bytes
from aiinfra_lab.kube.ports import HOST
from aiinfra_lab.tls import Authority, Certificate

ADMIN_GROUP = "system:masters"  # the group that RBAC lets do everything
API_HOSTS = (
    HOST,
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "10.0.0.1",  # the first address of the service range
)


class Credentials:
    """The certificates, keys and kubeconfigs of one control plane, in one folder.

    Parameters
    ----------
    folder : Path
        Made with mode 0700; keys have mode 0600.
    name : str
        The cluster's name.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.authority = Authority.create(f"{name[:50]} cluster")
        self.etcd_authority = Authority.create(f"{name[:50]} etcd")

    def issue(self) -> None:
        """Write everything that the programs read."""
        self.authority.save(self.folder)
        write_bytes(self.folder / "etcd-ca.crt", self.etcd_authority.cert_pem)
        here = (HOST, "localhost")
        store = self.etcd_authority.issue("etcd", hosts=here, client=True, server=True)
        self._write("etcd", store)
        self._write("etcd-client", self.etcd_authority.issue("kube-apiserver", client=True))
        api = self.authority.issue("kube-apiserver", hosts=API_HOSTS, server=True)
        self._write("kube-apiserver", api)
        for name in ("kube-controller-manager", "kube-scheduler"):
            self._write(name, self.authority.issue(name, hosts=here, server=True))
        kubelet = self.authority.issue(
            "kube-apiserver-kubelet-client", organizations=[ADMIN_GROUP], client=True
        )
        self._write("kubelet-client", kubelet)
        self._write("admin", self.user("admin", ADMIN_GROUP))
        self._token_key()

    def user(self, name: str, *groups: str) -> Certificate:
        """A certificate by which the API server knows the user ``name`` in ``groups``."""
        return self.authority.issue(name, organizations=groups, client=True)

    def node(self, name: str, *hosts: str) -> Certificate:
        """A node's certificate, for its calls to the API server and for what it serves itself."""
        return self.authority.issue(
            f"system:node:{name}",
            organizations=["system:nodes"],
            hosts=hosts or (HOST,),
            client=True,
            server=True,
        )

    def kubeconfig(self, path: Path, url: str, user: str, shown: Certificate) -> Path:
        """Write a kubeconfig (mode 0600) for ``user``, with everything in it, and give its path."""
        import yaml  # type: ignore[import-untyped]

        cluster, context = f"aiinfra-{self.name}", f"aiinfra-{self.name}"
        document: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": cluster,
                    "cluster": {
                        "server": url,
                        "certificate-authority-data": _encoded(self.authority.cert_pem),
                    },
                }
            ],
            "users": [
                {
                    "name": user,
                    "user": {
                        "client-certificate-data": _encoded(shown.cert_pem),
                        "client-key-data": _encoded(shown.key_pem),
                    },
                }
            ],
            "contexts": [{"name": context, "context": {"cluster": cluster, "user": user}}],
            "current-context": context,
        }
        write_bytes(path, yaml.safe_dump(document, sort_keys=False).encode(), mode=0o600)
        return path

    def _write(self, stem: str, certificate: Certificate) -> None:
        certificate.write(self.folder, stem)

    def _token_key(self) -> None:
        """The key that signs service account tokens, once in a cluster's life."""
        private, public = self.folder / "sa.key", self.folder / "sa.pub"
        if private.exists() and public.exists():
            return
        key = ec.generate_private_key(ec.SECP256R1())
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        write_bytes(
            private, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain), mode=0o600
        )
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        write_bytes(public, key.public_key().public_bytes(pem, spki))


def _encoded(pem: bytes) -> str:
    return base64.b64encode(pem).decode("ascii")
