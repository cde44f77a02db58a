"""Containers that end badly, or cannot begin."""

from __future__ import annotations

from datetime import datetime, timedelta

from .api import Object
from .catalogue import case
from .manifests import (
    FOREVER,
    SHELL,
    condition,
    ended,
    exit_code,
    holds,
    is_running,
    mount,
    phase,
    pod,
    python,
    shell,
    state,
    status,
    volume,
    waits,
)
from .namespace import Namespace


@case()
async def exit_codes(ns: Namespace) -> None:
    """0, 1, and 128 with the number of a signal; one failure makes a failed pod."""
    scripts = {
        "zero": ":",
        "one": "exit 1",
        "killed": "kill -KILL $$; sleep 60",
        "ended": "kill -TERM $$; sleep 60",
    }
    containers = [shell(script, name) for name, script in scripts.items()]
    # A container's first process would be deaf to the signals that it sends itself.
    await ns.create(pod("p", *containers, shareProcessNamespace=True))
    found = await ns.pod("p", ended)
    assert phase(found) == "Failed"
    assert {name: exit_code(found, name) for name in scripts} == {
        "zero": 0,
        "one": 1,
        "killed": 137,
        "ended": 143,
    }
    reasons = [state(found, "terminated", name)["reason"] for name in scripts]
    assert reasons == ["Completed", "Error", "Error", "Error"]
    for name in scripts:
        told = state(found, "terminated", name)
        begin, end = (datetime.fromisoformat(told[key]) for key in ("startedAt", "finishedAt"))
        # A runtime notes the start when it has seen it, and one may have ended by then.
        assert end - begin >= timedelta(seconds=-1)


@case()
async def success(ns: Namespace) -> None:
    """A pod that has done its work: Succeeded, not ready any more, and never touched again."""
    await ns.create(pod("p", shell("echo done"), shell("echo too", "other")))
    found = await ns.pod("p", ended)
    assert phase(found) == "Succeeded"
    assert condition(found, "Ready") | {"reason": "PodCompleted"} == condition(found, "Ready")
    assert not holds(found, "Ready")
    assert holds(found, "Initialized")
    assert holds(found, "PodScheduled")
    for name in ("podIP", "hostIP", "startTime", "qosClass"):
        assert found["status"].get(name), name
    assert found["status"]["podIPs"] == [{"ip": found["status"]["podIP"]}]


@case()
async def one_of_two(ns: Namespace) -> None:
    """While one container runs the pod does, though not ready; then it has failed."""
    script = "until [ -e /both/end ]; do sleep 0.1; done"
    seen = [mount("work", "/both")]
    await ns.create(
        pod(
            "p",
            shell(script, volumeMounts=seen),
            shell("exit 7", "bad"),
            shell(f"{script}; exit 5", "late", volumeMounts=seen),
            volumes=[volume("work")],
        )
    )

    def begun(found: Object) -> bool:  # while one of them has yet to start, the pod is pending
        return is_running(found) and exit_code(found, "bad") == 7 and not waits(found, "late")

    found = await ns.pod("p", begun)
    assert phase(found) == "Running"
    assert not holds(found, "Ready")
    # The container may end before it has told kubectl of the end of what was executed in it.
    await ns.kubectl("exec", "p", "-c", "late", "--", "touch", "/both/end", check=False)
    found = await ns.pod("p", ended)
    assert phase(found) == "Failed"
    assert (exit_code(found), exit_code(found, "bad"), exit_code(found, "late")) == (0, 7, 5)


@case()
async def crash_loop(ns: Namespace) -> None:
    """A container that always fails is restarted after a longer and longer pause."""
    await ns.create(pod("p", shell("exit 9"), restartPolicy="Always"))
    found = await ns.pod("p", lambda found: waits(found) == "CrashLoopBackOff")
    assert phase(found) == "Running"
    assert not holds(found, "Ready")
    assert status(found)["lastState"]["terminated"]["exitCode"] == 9
    assert "back-off" in state(found, "waiting")["message"]
    await ns.event("BackOff", "p")
    again = status(found)["restartCount"] + 1
    await ns.pod("p", lambda found: status(found).get("restartCount", 0) >= again)


@case()
async def always(ns: Namespace) -> None:
    """restartPolicy Always: a container that succeeds is started again, too."""
    script = "echo run >> /both/runs; test $(wc -l < /both/runs) -lt 2 || exec sleep 600"
    container = shell(script, volumeMounts=[mount("work", "/both")])
    await ns.create(pod("p", container, restartPolicy="Always", volumes=[volume("work")]))
    found = await ns.pod("p", lambda found: status(found).get("restartCount") == 1)
    found = await ns.pod("p", lambda found: is_running(found) and status(found)["restartCount"])
    assert status(found)["lastState"]["terminated"]["reason"] == "Completed"


@case()
async def out_of_memory(ns: Namespace) -> None:
    """More memory than its limit: killed, and the reason says so; a neighbour is let live."""
    greedy = "held = []\nwhile True: held.append(bytearray(b'x' * (8 << 20)))"
    limits = {"limits": {"memory": "64Mi"}}
    modest = shell("sleep 2; echo fine", "modest", resources=limits)
    await ns.create(pod("p", python(greedy, resources=limits), modest))
    found = await ns.pod("p", ended)
    assert phase(found) == "Failed"
    told = state(found, "terminated")
    assert told["exitCode"] == 137
    # On kind the runtime misses the kernel's word now and then.
    assert told["reason"] in {"local": {"OOMKilled"}}.get(ns.provider, {"OOMKilled", "Error"})
    assert exit_code(found, "modest") == 0


@case()
async def no_such_image(ns: Namespace) -> None:
    """An image that nobody has: an error, and then a pause before the next try."""
    container = {"name": "main", "image": "nowhere.invalid/nobody:1"}
    await ns.create(pod("p", container))
    found = await ns.pod("p", lambda found: waits(found) == "ErrImagePull")
    assert phase(found) == "Pending"
    assert "nowhere.invalid/nobody:1" in state(found, "waiting")["message"]
    found = await ns.pod("p", lambda found: waits(found) == "ImagePullBackOff")
    assert "Back-off pulling image" in state(found, "waiting")["message"]
    await ns.event("Failed", "p")


@case()
async def no_such_program(ns: Namespace) -> None:
    """The image is there, the program is not."""
    container = {"name": "main", "image": SHELL, "command": ["no-such-program"]}
    await ns.create(pod("p", container))
    found = await ns.pod("p", ended)
    assert phase(found) == "Failed"
    told = state(found, "terminated")
    assert (told["reason"], told["exitCode"]) == ("StartError", 128)
    assert "no-such-program" in told["message"]


@case()
async def pod_deadline(ns: Namespace) -> None:
    """A pod that takes too long fails as a whole."""
    await ns.create(pod("p", shell(FOREVER), activeDeadlineSeconds=1))
    found = await ns.pod("p", ended)
    assert (phase(found), found["status"]["reason"]) == ("Failed", "DeadlineExceeded")
    assert "deletionTimestamp" not in found["metadata"]


@case()
async def failing_first_step(ns: Namespace) -> None:
    """An init container that fails, in a pod that is never restarted: the others never run."""
    first, second = shell("exit 6", "first"), shell(":", "second")
    await ns.create(pod("p", shell("echo never"), initContainers=[first, second]))
    found = await ns.pod("p", ended)
    assert phase(found) == "Failed"
    assert state(found, "terminated", "first", init=True)["exitCode"] == 6
    assert waits(found) == "PodInitializing"
    assert not holds(found, "Initialized")


@case()
async def first_step_again(ns: Namespace) -> None:
    """An init container that fails is tried again where the pod's policy allows it."""
    script = "test -e /both/tried || { touch /both/tried; exit 6; }"
    seen = [mount("work", "/both")]
    first = shell(script, "first", volumeMounts=seen)
    fields: Object = {"restartPolicy": "OnFailure", "volumes": [volume("work")]}
    await ns.create(pod("p", shell(":"), initContainers=[first], **fields))
    found = await ns.pod("p", ended)
    assert phase(found) == "Succeeded"
    assert status(found, "first", init=True)["restartCount"] == 1
    assert status(found)["restartCount"] == 0
