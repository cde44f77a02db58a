"""A node's two programs, started beside a control plane by the tests themselves."""

import json
import sys
import time
from pathlib import Path

from aiinfra_lab.processes import Child


class NodeHost:
    """Runtime and agent of one node; ``with`` starts and ends them.

    ``agent`` and ``runtime`` are the children; ``restart_agent`` takes a new one after it ended.
    """

    def __init__(self, cluster, folder, name="n1", *, number=1, **order):
        self.cluster, self.folder, self.name = cluster, Path(folder), name
        self.folder.mkdir(parents=True)
        cert, key = cluster.credentials.node(name).write(self.folder, "node")
        self.order = self.folder / "order.json"
        document = {
            "name": name,
            "number": number,
            "folder": str(self.folder),
            "shared": str(self.folder.parent / "shared"),
            "url": cluster.url,
            "cert": str(cert),
            "key": str(key),
            "ca": str(cluster.place.pki / "ca.crt"),
            **order,
        }
        self.order.write_text(json.dumps(document))
        self.runtime = self.agent = None

    def start_runtime(self):
        self.runtime = Child(
            [sys.executable, "-m", "aiinfra_lab.kube.runtime", str(self.folder / "runtime")],
            log=self.folder / "runtime.log",
            name="runtime",
        ).start()

    def start_agent(self):
        self.agent = Child(
            [sys.executable, "-m", "aiinfra_lab.kube.node", str(self.order)],
            log=self.folder / "agent.log",
            name="agent",
        ).start()

    def wait_ready(self, timeout=60.0):
        port = self.folder / "port"
        self.agent.ready(lambda: port.exists() or None, timeout, what="the node's port")

    def __enter__(self):
        self.start_runtime()
        self.start_agent()
        try:
            self.wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for child in (self.agent, self.runtime):
            if child is not None:
                child.stop()


def until(look, timeout=60.0, what=""):
    """Wait until ``look()`` is true, and give it; the limit is only for a test that fails."""
    end = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, what or look
        time.sleep(0.02)
