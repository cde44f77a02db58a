"""kubectl against a pod on a real node of ours: exec with a terminal, probes, logs, ports."""

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import subprocess
import termios

import pytest
from node_host import NodeHost

from aiinfra_lab.kube.programs import find_programs

pytestmark = pytest.mark.needs("kube", "kubernetes")
PATIENCE_S = 90.0


@pytest.fixture(scope="module")
def node(cluster, tmp_path_factory):
    with NodeHost(cluster, tmp_path_factory.mktemp("node") / "n", "kubectl-node", number=7) as host:
        yield host.name


def pod(name, node, script, **container):
    words = {"name": "main", "image": "busybox", "command": ["sh", "-c", script], **container}
    spec = {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [words]}
    return {"metadata": {"name": name}, "spec": spec}


class Kubectl:
    def __init__(self, cluster, namespace):
        program = find_programs(["kubectl"])["kubectl"]
        self.words = [str(program), "--kubeconfig", str(cluster.kubeconfig), "-n", namespace]
        self.api, self.namespace = cluster.client(), namespace

    async def start(self, *words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE):
        return await asyncio.create_subprocess_exec(
            *self.words, *words, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE
        )

    async def run(self, *words, given=b""):
        process = await self.start(*words, stdin=subprocess.PIPE)
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate(given)
        return process.returncode, out.decode(), err.decode()

    async def ready(self, pod):
        """Create a pod and wait until it is ready."""
        await asyncio.to_thread(self.api.create_namespaced_pod, self.namespace, pod)
        name = pod["metadata"]["name"]
        code, _, err = await self.run(
            "wait", f"pod/{name}", "--for=condition=Ready", f"--timeout={PATIENCE_S:g}s"
        )
        assert code == 0, err
        return name


@pytest.fixture
def kubectl(cluster, namespace):
    return Kubectl(cluster, namespace)


async def test_exec_runs_in_the_container(kubectl, node):
    env = [{"name": "WHO", "value": "me"}]
    name = await kubectl.ready(pod("web", node, "exec sleep 600", env=env, workingDir="/tmp"))
    shell = "echo $WHO; pwd; echo oops >&2; exit 7"
    assert await kubectl.run("exec", name, "--", "sh", "-c", shell) == (
        7,
        "me\n/tmp\n",
        "oops\ncommand terminated with exit code 7\n",
    )
    data = b"x" * 1_000_000
    code, out, err = await kubectl.run("exec", "-i", name, "--", "wc", "-c", given=data)
    assert (code, out.strip(), err) == (0, str(len(data)), "")
    code, out, err = await kubectl.run("exec", name, "--", "nonesuch")
    assert code != 0
    assert "nonesuch" in err


async def test_exec_with_a_terminal(kubectl, node):
    name = await kubectl.ready(pod("web", node, "exec sleep 600"))
    ours, theirs = os.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    try:
        process = await kubectl.start("exec", "-it", name, "--", "sh", stdin=theirs, stdout=theirs)
        os.close(theirs)
        seen = b""

        async def until(text):
            nonlocal seen
            async with asyncio.timeout(PATIENCE_S):
                while text not in seen:
                    await asyncio.sleep(0.01)
                    with contextlib.suppress(BlockingIOError):
                        seen += os.read(ours, 1 << 16)

        os.set_blocking(ours, False)
        # What the terminal echoes is not what the shell answers.
        os.write(ours, b"stty size; test -t 0 && echo is a $((1+1))tty\n")
        await until(b"is a 2tty")
        assert b"33 101" in seen
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 102, 0, 0))
        # It is not kubectl's controlling terminal, so no signal comes from it.
        process.send_signal(signal.SIGWINCH)
        for _ in range(100):
            os.write(ours, b"stty size\n")
            await asyncio.sleep(0.1)
            with contextlib.suppress(BlockingIOError):
                seen += os.read(ours, 1 << 16)
            if b"44 102" in seen:
                break
        assert b"44 102" in seen
        os.write(ours, b"exit 5\n")
        async with asyncio.timeout(PATIENCE_S):
            assert await process.wait() == 5
            await process.communicate()
    finally:
        os.close(ours)


async def test_probes_and_hooks_of_a_pod(kubectl, node):
    there = {"exec": {"command": ["test", "-e", "ready"]}, "periodSeconds": 1}
    lifecycle = {"postStart": {"exec": {"command": ["touch", "started"]}}}
    volume = {"name": "work", "mountPath": "/work"}
    spec = pod(
        *("web", node, "exec sleep 600"),
        readinessProbe=there,
        lifecycle=lifecycle,
        volumeMounts=[volume],
        workingDir="/work",
    )
    spec["spec"]["volumes"] = [{"name": "work", "emptyDir": {}}]
    await asyncio.to_thread(kubectl.api.create_namespaced_pod, kubectl.namespace, spec)
    code, _, _ = await kubectl.run("wait", "pod/web", "--for=jsonpath={.status.phase}=Running")
    assert code == 0
    assert await kubectl.run("exec", "web", "--", "ls") == (0, "started\n", "")
    field = "jsonpath={.status.containerStatuses[0].ready}"
    assert await kubectl.run("get", "pod", "web", "-o", field) == (0, "false", "")
    assert (await kubectl.run("exec", "web", "--", "touch", "ready"))[0] == 0
    code, _, err = await kubectl.run("wait", "pod/web", "--for=condition=Ready", "--timeout=60s")
    assert code == 0, err


async def test_logs_and_ports_of_a_pod(kubectl, node):
    script = (
        "import os, socketserver\n"
        "class Handler(socketserver.StreamRequestHandler):\n"
        "    def handle(self):\n"
        "        line = self.rfile.readline()\n"
        "        print('heard', line.decode().strip(), flush=True)\n"
        "        self.wfile.write(line.upper())\n"
        "server = socketserver.TCPServer((os.environ['POD_IP'], 0), Handler)\n"
        "print('port', server.server_address[1], flush=True)\n"
        "server.serve_forever()\n"
    )
    ip = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    command = ["python", "-c", script]
    name = await kubectl.ready(pod("web", node, "", image="python:3", command=command, env=[ip]))
    logs = await kubectl.start("logs", "-f", name)
    async with asyncio.timeout(PATIENCE_S):
        port = (await logs.stdout.readline()).split()[1].decode()
        forward = await kubectl.start("port-forward", name, f":{port}")
        said = (await forward.stdout.readline()).decode()
        here = int(said.partition(" -> ")[0].rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", here)
        writer.write(b"hello\n")
        assert await reader.read() == b"HELLO\n"
        writer.close()
        assert await logs.stdout.readline() == b"heard hello\n"
        forward.terminate()
        await forward.communicate()
        assert (await kubectl.run("delete", "pod", name))[0] == 0
        await logs.communicate()
    assert logs.returncode == 0
