"""kubectl's own logs, exec and port-forward, through a real API server, to our server of a node."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
from pathlib import Path

import pytest

from aiinfra_lab.kube.node.serving.server import DECLARED_FEATURES, NodeServer, waiting_sentence
from aiinfra_lab.kube.programs import find_programs
from aiinfra_lab.tls import server_context

pytestmark = pytest.mark.needs("kube", "kubernetes")
HOST = "127.0.0.1"
POD_IP = "127.77.0.1"
PATIENCE_S = 60.0
NUMBERS = itertools.count(1)


class Program:
    """A child of this test in place of a program in a container."""

    def __init__(self, process):
        self.process, self.chunks = process, asyncio.Queue()
        streams = {"stdout": process.stdout, "stderr": process.stderr}
        self.tasks = [asyncio.create_task(self.pump(*stream)) for stream in streams.items()]

    async def pump(self, name, stream):
        while chunk := await stream.read(1 << 16):
            self.chunks.put_nowait((name, chunk))
        self.chunks.put_nowait(None)

    async def read(self):
        for _ in self.tasks:
            while (chunk := await self.chunks.get()) is not None:
                yield chunk

    async def write(self, data):
        with contextlib.suppress(ConnectionError):
            self.process.stdin.write(data)
            await self.process.stdin.drain()

    async def end_input(self):
        self.process.stdin.close()

    async def resize(self, columns, rows):
        raise AssertionError("there is no terminal")

    async def wait(self):
        return await self.process.wait()

    async def close(self):
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await asyncio.gather(*self.tasks)


class Programs:
    """Runs them, and keeps what it was asked."""

    def __init__(self):
        self.programs = []

    async def attach(self, run, argv, *, stdin, tty):
        assert (run, tty) == ("uid.main.1", False)
        pipe = subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=pipe if stdin else subprocess.DEVNULL, stdout=pipe, stderr=pipe
        )
        self.programs.append(Program(process))
        return self.programs[-1]


class Pods:
    """One pod ``web`` with a container ``main`` that runs, and ``next`` that waits."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run, self.programs = folder, "uid.main.1", Programs()

    def log(self, namespace, pod, container, *, previous):
        return self.folder / f"{int(not previous)}.log" if container == "main" else None

    def running(self, namespace, pod, container):
        return self.run if container == "main" else None

    def waits(self, namespace, pod, container):
        return (
            waiting_sentence(pod, container, "ContainerCreating") if container == "next" else None
        )

    def address(self, namespace, pod):
        return POD_IP


@pytest.fixture
def pods(tmp_path):
    lines = [
        f"2026-05-01T11:00:0{n}.5Z {'stdout' if n % 2 else 'stderr'} F {n}\n" for n in (1, 2, 3)
    ]
    (tmp_path / "1.log").write_text("".join(lines))
    (tmp_path / "0.log").write_text("2026-05-01T10:00:00.5Z stdout F before\n")
    return Pods(tmp_path)


@pytest.fixture
async def node(cluster, pods, tmp_path):
    """A Node whose kubelet is ours, and its name."""
    name = f"served-{next(NUMBERS)}"
    certificate = cluster.credentials.node(name).write(tmp_path, "node")
    context = server_context(*certificate, client_ca=cluster.credentials.authority.cert_pem)
    server = NodeServer(pods, pods.programs, host=HOST, context=context)
    port = await server.start()
    api = cluster.client()
    status = {
        "addresses": [{"type": "InternalIP", "address": HOST}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "conditions": [{"type": "Ready", "status": "True", "reason": "Test", "message": "served"}],
        "declaredFeatures": list(DECLARED_FEATURES),
    }
    try:
        await asyncio.to_thread(api.create_node, {"metadata": {"name": name}})
        await asyncio.to_thread(api.patch_node_status, name, {"status": status})
        yield name
        await asyncio.to_thread(api.delete_node, name)
    finally:
        await server.close()


@pytest.fixture
async def kubectl(cluster, namespace, node):
    """Run kubectl against the pod ``web`` on the node; gives exit code, stdout and stderr."""
    containers = [{"name": name, "image": "busybox"} for name in ("main", "next")]
    pod = {"metadata": {"name": "web"}, "spec": {"nodeName": node, "containers": containers}}
    await asyncio.to_thread(cluster.client().create_namespaced_pod, namespace, pod)
    program = find_programs(["kubectl"])["kubectl"]

    async def start(*words, **streams):
        return await asyncio.create_subprocess_exec(
            str(program),
            *("--kubeconfig", str(cluster.kubeconfig), "-n", namespace, *words),
            stdin=streams.get("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    async def run(*words, given=b""):
        process = await start(*words, stdin=subprocess.PIPE)
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate(given)
        return process.returncode, out.decode(), err.decode()

    run.start = start
    yield run
    with contextlib.suppress(Exception):
        await asyncio.to_thread(
            cluster.client().delete_namespaced_pod, "web", namespace, grace_period_seconds=0
        )


async def test_kubectl_logs(kubectl):
    assert await kubectl("logs", "web", "-c", "main") == (0, "1\n2\n3\n", "")
    assert await kubectl("logs", "web", "-c", "main", "--tail=1") == (0, "3\n", "")
    assert await kubectl("logs", "web", "-c", "main", "--previous") == (0, "before\n", "")
    assert await kubectl("logs", "web", "-c", "main", "--limit-bytes=3") == (0, "1\n2", "")
    since = await kubectl("logs", "web", "-c", "main", "--since-time=2026-05-01T11:00:03Z")
    assert since == (0, "3\n", "")
    stamped = await kubectl("logs", "web", "-c", "main", "--timestamps", "--tail=1")
    assert stamped == (0, "2026-05-01T11:00:03.5Z 3\n", "")


async def test_kubectl_logs_of_a_container_that_waits(kubectl):
    code, out, err = await kubectl("logs", "web", "-c", "next")
    assert (code, out) == (1, "")
    assert err.strip() == (
        "Error from server (BadRequest): "
        'container "next" in pod "web" is waiting to start: ContainerCreating'
    )


async def test_kubectl_logs_follows(kubectl, pods):
    process = await kubectl.start("logs", "-f", "--tail=1", "web", "-c", "main")
    async with asyncio.timeout(PATIENCE_S):
        assert await process.stdout.readline() == b"3\n"
        with (pods.folder / "1.log").open("a") as file:
            file.write("2026-05-01T11:00:04.5Z stdout F more\n")
        assert await process.stdout.readline() == b"more\n"
        with (pods.folder / "1.log").open("a") as file:
            file.write("2026-05-01T11:00:05.5Z stdout F last\n")
        pods.run = None
        assert await process.communicate() == (b"last\n", b"")
    assert process.returncode == 0


EXEC = ("exec", "web", "-c", "main")


async def test_kubectl_exec(kubectl):
    assert await kubectl(*EXEC, "--", "printf", "a b") == (0, "a b", "")
    shell = "echo out; echo err >&2; exit 3"
    assert await kubectl(*EXEC, "--", "sh", "-c", shell) == (
        3,
        "out\n",
        "err\ncommand terminated with exit code 3\n",
    )


async def test_kubectl_exec_with_input(kubectl):
    # More than fits into pipes on the way; wc ends only when its input does.
    data = b"x" * 3_000_000
    code, out, err = await kubectl(*EXEC, "-i", "--", "wc", "-c", given=data)
    assert (code, out.strip(), err) == (0, str(len(data)), "")


async def test_kubectl_exec_with_much_output(kubectl):
    code, out, err = await kubectl(*EXEC, "--", "sh", "-c", "seq 1 300000")
    assert (code, err) == (0, "")
    assert out == "".join(f"{n}\n" for n in range(1, 300_001))


async def test_kubectl_exec_that_is_left_ends_its_program(kubectl, pods):
    process = await kubectl.start(*EXEC, "--", "sh", "-c", "echo begun; exec sleep 600")
    async with asyncio.timeout(PATIENCE_S):
        assert await process.stdout.readline() == b"begun\n"
        process.kill()
        await process.communicate()
        assert await pods.programs.programs[0].process.wait() == -9


async def test_kubectl_exec_into_a_container_that_waits(kubectl):
    code, out, err = await kubectl("exec", "web", "-c", "next", "--", "true")
    assert (code, out) == (1, "")
    assert "is waiting to start: ContainerCreating" in err


@contextlib.asynccontextmanager
async def echo(*, banner=b""):
    """A program of the pod: sends back what it got once its client has nothing more to say."""

    async def serve(reader, writer):
        writer.write(banner)
        writer.write((await reader.read()).upper())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, POD_IP, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def forwarding(kubectl, port):
    """kubectl port-forward to the pod, and its port on this machine."""
    process = await kubectl.start("port-forward", "web", f":{port}")
    try:
        async with asyncio.timeout(PATIENCE_S):
            said = (await process.stdout.readline()).decode()
        yield int(said.partition(" -> ")[0].rpartition(":")[2]), process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def ask(port, data):
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(data)
    writer.write_eof()
    async with asyncio.timeout(PATIENCE_S):
        answer = await reader.read()
    writer.close()
    return answer


@pytest.fixture
async def running(cluster, kubectl, namespace):
    """kubectl forwards only to pods that run."""
    await asyncio.to_thread(
        cluster.client().patch_namespaced_pod_status,
        *("web", namespace, {"status": {"phase": "Running", "podIP": POD_IP}}),
    )


@pytest.mark.usefixtures("running")
async def test_kubectl_port_forward(kubectl):
    async with echo(banner=b"hello ") as port, forwarding(kubectl, port) as (here, _):
        assert await ask(here, b"abc") == b"hello ABC"
        large = b"x" * 3_000_000
        answers = await asyncio.gather(*(ask(here, data) for data in (b"1", large, b"", b"2")))
        assert answers == [b"hello 1", b"hello " + large.upper(), b"hello ", b"hello 2"]


@pytest.mark.usefixtures("running")
async def test_kubectl_port_forward_to_a_port_where_nobody_listens(kubectl):
    async with forwarding(kubectl, 9) as (here, process):
        assert await ask(here, b"abc") == b""
        async with asyncio.timeout(PATIENCE_S):
            _, err = await process.communicate()
        assert b"port 9 of the pod: Connection refused" in err


async def test_without_the_declared_feature_the_reason_is_told(cluster, kubectl, node):
    patch = {"status": {"declaredFeatures": None}}
    await asyncio.to_thread(cluster.client().patch_node_status, node, patch)
    code, out, err = await kubectl(*EXEC, "--", "true")
    assert (code, out) == (1, "")
    assert "ExtendWebSocketsToKubelet" in err
