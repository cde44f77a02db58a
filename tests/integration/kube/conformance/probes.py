"""Who is ready, and who is restarted."""

from __future__ import annotations

from .catalogue import case
from .manifests import (
    FOREVER,
    LOOP,
    field,
    holds,
    is_running,
    mount,
    pod,
    python,
    shell,
    state,
    status,
    volume,
)
from .namespace import Namespace

_WORK = [mount("work", "/both")]


@case()
async def readiness(ns: Namespace) -> None:
    """A container runs, is not ready until its probe says so, and stops being ready."""
    probe = {"exec": {"command": ["cat", "/both/ready"]}, "periodSeconds": 1, "failureThreshold": 1}
    container = shell(FOREVER, readinessProbe=probe, volumeMounts=_WORK)
    await ns.create(pod("p", container, volumes=[volume("work")]))
    await ns.pod("p", is_running)
    await ns.event("Unhealthy", "p")
    assert not any(holds(found, "Ready") for found in ns.versions("Pod", "p"))
    await ns.kubectl("exec", "p", "--", "touch", "/both/ready")
    ready = await ns.pod("p", lambda found: holds(found, "Ready"))
    assert status(ready)["ready"]
    at = int(ready["metadata"]["resourceVersion"])
    await ns.kubectl("exec", "p", "--", "rm", "/both/ready")
    after = await ns.pod(
        "p",
        lambda found: not holds(found, "Ready") and int(found["metadata"]["resourceVersion"]) > at,
    )
    assert is_running(after)
    assert status(after)["restartCount"] == 0


@case()
async def liveness(ns: Namespace) -> None:
    """A container whose probe fails is ended, with its grace, and started again."""
    script = f"trap 'exit 4' TERM; touch /both/run; {LOOP}"
    probe = {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 2}
    container = shell(script, livenessProbe=probe, volumeMounts=_WORK)
    await ns.create(pod("p", container, restartPolicy="Always", volumes=[volume("work")]))
    assert "Liveness probe failed" in await ns.event("Unhealthy", "p")
    await ns.event("Killing", "p")
    found = await ns.pod("p", lambda found: status(found).get("restartCount", 0) >= 1)
    assert status(found)["lastState"]["terminated"]["exitCode"] == 4


@case()
async def over_http(ns: Namespace) -> None:
    """httpGet: a server is asked at the pod's own address; 404 is no health."""
    script = """
import functools, http.server, os
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="/both")
http.server.ThreadingHTTPServer((os.environ["IP"], 8080), handler).serve_forever()
"""
    probe = {
        "httpGet": {"path": "/healthy", "port": "web"},
        "periodSeconds": 1,
        "failureThreshold": 1,
    }
    container = python(
        script,
        env=[{"name": "IP", "valueFrom": field("status.podIP")}],
        ports=[{"name": "web", "containerPort": 8080}],
        readinessProbe=probe,
        volumeMounts=_WORK,
    )
    await ns.create(pod("p", container, volumes=[volume("work")]))
    await ns.pod("p", is_running)
    await ns.until(lambda: any("404" in event["message"] for event in ns.there("Event")))
    assert not any(holds(found, "Ready") for found in ns.versions("Pod", "p"))
    await ns.kubectl("exec", "p", "--", "touch", "/both/healthy")
    await ns.pod("p", lambda found: holds(found, "Ready"))


@case()
async def startup(ns: Namespace) -> None:
    """The other probes wait until the startup probe has succeeded."""
    there = {"exec": {"command": ["cat", "/both/up"]}, "periodSeconds": 1}
    container = shell(
        FOREVER,
        startupProbe={**there, "failureThreshold": 600},
        livenessProbe={**there, "failureThreshold": 1},
        volumeMounts=_WORK,
    )
    await ns.create(pod("p", container, restartPolicy="Always", volumes=[volume("work")]))
    await ns.pod("p", is_running)
    await ns.event("Unhealthy", "p")
    assert not any(status(found).get("started") for found in ns.versions("Pod", "p"))
    await ns.kubectl("exec", "p", "--", "touch", "/both/up")
    found = await ns.pod("p", lambda found: status(found).get("started"))
    assert status(found)["restartCount"] == 0
    await ns.pod("p", lambda found: holds(found, "Ready"))


@case()
async def a_program_that_never_comes_up(ns: Namespace) -> None:
    """A startup probe gives up: the container is ended, and not restarted where that is said."""
    probe = {"tcpSocket": {"port": 8081}, "periodSeconds": 1, "failureThreshold": 2}
    await ns.create(pod("p", shell(FOREVER, startupProbe=probe)))
    found = await ns.pod("p", lambda found: state(found, "terminated"))
    assert status(found)["restartCount"] == 0
    assert "Startup probe failed" in await ns.event("Unhealthy", "p")
