"""kubectl logs, exec and port-forward, as people use them."""

from __future__ import annotations

import asyncio
import re
import socket
from datetime import UTC, datetime

import pytest

from .api import Refused
from .catalogue import case
from .manifests import (
    LOOP,
    ended,
    field,
    is_running,
    mount,
    phase,
    pod,
    python,
    shell,
    status,
    volume,
    waits,
)
from .namespace import Namespace


@case()
async def of_a_finished_pod(ns: Namespace) -> None:
    """The whole, the last lines, the first bytes, with times; both streams."""
    # A moment apart: nobody promises the order of two streams.
    script = "echo one; sleep 1; echo two >&2; sleep 1; echo three; printf four"
    await ns.create(pod("p", shell(script)))
    found = await ns.pod("p", lambda found: phase(found) == "Succeeded")
    assert await ns.kubectl("logs", "p") == "one\ntwo\nthree\nfour"
    assert await ns.kubectl("logs", "pod/p", "--tail=2") == "three\nfour"
    assert await ns.kubectl("logs", "p", "--tail=0") == ""
    assert await ns.kubectl("logs", "p", "--limit-bytes=5") == "one\nt"
    lines = (await ns.kubectl("logs", "p", "--timestamps")).splitlines()
    stamps = [line.split(" ", 1)[0] for line in lines]
    assert [line.split(" ", 1)[1] for line in lines] == ["one", "two", "three", "four"]
    assert stamps == sorted(stamps)
    # Nanoseconds are more than Python reads.
    first = datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", stamps[0]))
    made = datetime.fromisoformat(found["metadata"]["creationTimestamp"])
    assert -5 < (first - made).total_seconds() < 120
    assert first.tzinfo is not None
    assert (datetime.now(UTC) - first).total_seconds() < 600


@case()
async def followed(ns: Namespace) -> None:
    """-f shows lines as they are written and ends with the container."""
    script = f"trap 'echo two; sleep 0.3; echo three; exit 0' TERM; echo one; {LOOP}"
    await ns.create(pod("p", shell(script)))
    await ns.pod("p", is_running)
    lines = []
    async for line in ns.follow("p"):
        lines.append(line)
        if line == "one\n":  # else it would go on for ever
            await ns.delete("Pod", "p")
    assert lines == ["one\n", "two\n", "three\n"]
    await ns.create(pod("q", shell("echo one; sleep 0.3; echo two")))
    await ns.pod("q", lambda found: is_running(found) or ended(found))
    assert await ns.kubectl("logs", "-f", "q") == "one\ntwo\n"


@case()
async def long_lines_and_bytes(ns: Namespace) -> None:
    """A line longer than the log's own pieces comes back whole, and so does what is no text."""
    script = """
import sys
print("x" * 40_000)
print("grüße")
sys.stdout.flush()
sys.stdout.buffer.write(b"\\xff\\x00\\n")
"""
    await ns.create(pod("p", python(script, env=[{"name": "PYTHONUTF8", "value": "1"}])))
    found = await ns.pod("p", ended)
    assert phase(found) == "Succeeded"
    first, second, rest = (await ns.log("p")).split("\n", 2)
    assert (len(first), second) == (40_000, "grüße")
    assert rest.endswith("\x00\n")


@case()
async def of_the_run_before(ns: Namespace) -> None:
    """--previous shows the run that ended; there is none before the first restart."""
    script = "n=$(cat /both/n || echo 0); echo run $n; echo $((n + 1)) > /both/n; test $n -gt 0"
    script = f"exec 2>&1; {script} && exec sleep 600"
    container = shell(script, volumeMounts=[mount("work", "/both")])
    await ns.create(pod("p", container, restartPolicy="OnFailure", volumes=[volume("work")]))
    await ns.pod("p", lambda found: is_running(found) and status(found)["restartCount"] == 1)
    assert (await ns.kubectl("logs", "p", "--previous")).endswith("run 0\n")
    async for line in ns.follow("p"):
        assert line == "run 1\n"
        break
    other = pod("q", shell("echo only"))
    await ns.create(other)
    await ns.pod("q", ended)
    said = await ns.kubectl("logs", "q", "--previous", check=False)
    assert "previous terminated container" in said
    assert "not found" in said


@case()
async def of_one_that_waits(ns: Namespace) -> None:
    """A container that has not started has no log, and the sentence says why."""
    source = volume("s", secret={"secretName": "nobody"})
    container = shell("true", volumeMounts=[mount("s", "/s")])
    await ns.create(pod("p", container, volumes=[source]))
    await ns.pod("p", lambda found: waits(found) == "ContainerCreating")
    said = await ns.kubectl("logs", "p", check=False)
    assert 'container "main" in pod "p" is waiting to start: ContainerCreating' in said


@case()
async def of_two_containers(ns: Namespace) -> None:
    """All of a pod's containers, each line with its origin; an unknown one is refused."""
    await ns.create(pod("p", shell("echo a", "a"), shell("echo b", "b")))
    await ns.pod("p", ended)
    said = await ns.kubectl("logs", "p", "--all-containers", "--prefix")
    assert sorted(said.splitlines()) == ["[pod/p/a] a", "[pod/p/b] b"]
    with pytest.raises(Refused, match="400 container nobody is not valid for pod p"):
        await ns.log("p", "nobody")


@case()
async def execute(ns: Namespace) -> None:
    """A command in a running container: its folder, its input, its output, its exit code."""
    script = "echo here > /both/f; touch /both/up; exec sleep 600"
    container = shell(script, volumeMounts=[mount("work", "/both")], workingDir="/tmp")
    await ns.create(pod("p", container, volumes=[volume("work")]))
    await ns.pod("p", is_running)
    words = (
        "exec",
        "p",
        "--",
        "sh",
        "-c",
        "until [ -e /both/up ]; do sleep 0.1; done; cat /both/f; pwd",
    )
    assert await ns.kubectl(*words) == "here\n/tmp\n"
    assert await ns.kubectl("exec", "-i", "p", "--", "cat", stdin="to and fro") == "to and fro"
    said = await ns.kubectl("exec", "p", "--", "sh", "-c", "echo no >&2; exit 3", check=False)
    assert "no\n" in said
    assert "exit code 3" in said


@case()
async def forward_a_port(ns: Namespace) -> None:
    """kubectl port-forward brings a pod's port here.

    It leads to localhost of the pod's own network. Pods of ``local`` share this machine's, where
    that would be everybody's: there it leads to the pod's address.
    """
    script = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"hello")
http.server.ThreadingHTTPServer((os.environ["IP"], 8082), Handler).serve_forever()
"""
    at = {"valueFrom": field("status.podIP")} if ns.provider == "local" else {"value": "0.0.0.0"}
    env = [{"name": "IP", **at}]
    probe = {"tcpSocket": {"port": 8082}, "periodSeconds": 1}
    await ns.create(pod("p", python(script, env=env, readinessProbe=probe)))
    await ns.kubectl("wait", "pod/p", "--for=condition=Ready", "--timeout=140s")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    task = asyncio.create_task(ns.kubectl("port-forward", "pod/p", f"{port}:8082", check=False))
    try:
        async with asyncio.timeout(60):
            while not (said := await _fetch(port)):
                assert not task.done(), task.result()
                await asyncio.sleep(0.1)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert said.endswith("hello")


async def _fetch(port: int) -> str:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return ""
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    return text
