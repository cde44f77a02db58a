"""A node's server with pods that a test makes up, and the API server's client of it."""

from contextlib import asynccontextmanager

import aiohttp

from aiinfra_lab.kube.node.serving.server import API_SERVER, NodeServer
from aiinfra_lab.tls import Authority, client_context, server_context

HOST = "127.0.0.1"


class Pods:
    """What the server asks about the pods of its node."""

    def __init__(self):
        self.logs, self.runs, self.waiting, self.addresses = {}, {}, {}, {}

    def log(self, namespace, pod, container, *, previous):
        return self.logs.get((namespace, pod, container, previous))

    def running(self, namespace, pod, container):
        return self.runs.get((namespace, pod, container))

    def waits(self, namespace, pod, container):
        return self.waiting.get((namespace, pod, container))

    def address(self, namespace, pod):
        return self.addresses.get((namespace, pod))


class Endpoint:
    """An authority, a node's server, and clients of both."""

    def __init__(self, folder, pods=None, runtime=None):
        self.authority, self.folder = Authority.create("test cluster"), folder
        shown = self.authority.issue("system:node:n", hosts=(HOST,), client=True, server=True)
        self.certificate = shown.write(folder, "node")
        context = server_context(*self.certificate, client_ca=self.authority.cert_pem)
        self.pods = pods or Pods()
        self.server = NodeServer(self.pods, runtime, host=HOST, context=context)
        self.url = ""

    async def __aenter__(self):
        self.url = f"https://{HOST}:{await self.server.start()}"
        return self

    async def __aexit__(self, *_):
        await self.server.close()

    @asynccontextmanager
    async def client(self, name=API_SERVER, *, issuer=None, groups=()):
        """A session that shows a certificate of that name; of nobody's where it is empty."""
        if name:
            shown = (issuer or self.authority).issue(name, organizations=groups, client=True)
            cert, key = shown.write(self.folder, "client")
            context = client_context(self.authority.cert_pem, cert=cert, key=key)
        else:
            context = client_context(self.authority.cert_pem)
        async with aiohttp.ClientSession(
            self.url, connector=aiohttp.TCPConnector(ssl=context)
        ) as session:
            yield session
