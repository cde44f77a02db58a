"""Jobs to their end: how many pods, with which numbers, and when."""

from __future__ import annotations

from .api import Object
from .catalogue import case
from .manifests import (
    config,
    ended,
    field,
    has_failed,
    holds,
    is_complete,
    is_running,
    job,
    key,
    phase,
    python,
    shell,
    spec,
)
from .namespace import Namespace


def pods_of(ns: Namespace, name: str) -> list[Object]:
    """The pods of a Job that are there now."""
    label = "batch.kubernetes.io/job-name"
    return [pod for pod in ns.there() if pod["metadata"]["labels"].get(label) == name]


@case()
async def completions_and_parallelism(ns: Namespace) -> None:
    """Five pods, never more than two at once, and all of them complete."""
    await ns.create(job("j", spec(shell("sleep 0.5")), completions=5, parallelism=2))
    found = await ns.job("j", is_complete)
    assert found["status"]["succeeded"] == 5
    assert len(ns.names()) == 5
    assert max(v.get("status", {}).get("active", 0) for v in ns.versions("Job", "j")) == 2
    for pod in ns.names():
        await ns.pod(pod, lambda found: phase(found) == "Succeeded")


@case()
async def indexed(ns: Namespace) -> None:
    """Each index is given once, in the environment, the annotation and the host's name."""
    script = "import os; print(os.environ['JOB_COMPLETION_INDEX'], os.environ['HOSTNAME'])"
    template = spec(python(script))
    await ns.create(job("j", template, completions=3, parallelism=3, completionMode="Indexed"))
    found = await ns.job("j", is_complete)
    assert found["status"]["completedIndexes"] == "0-2"
    said = sorted([await ns.log(pod["metadata"]["name"]) for pod in pods_of(ns, "j")])
    assert said == ["0 j-0\n", "1 j-1\n", "2 j-2\n"]
    label = "batch.kubernetes.io/job-completion-index"
    assert {pod["metadata"]["annotations"][label] for pod in pods_of(ns, "j")} == {"0", "1", "2"}


@case()
async def backoff_limit(ns: Namespace) -> None:
    """One failure may be made good by a second pod; the second failure ends the Job."""
    await ns.create(job("j", spec(shell("exit 1")), backoffLimit=1))
    found = await ns.job("j", has_failed)
    assert failure(found) == "BackoffLimitExceeded"
    assert found["status"]["failed"] == len(ns.names()) == 2


def failure(found: Object) -> str:
    """Why a Job has failed."""
    return str(next(c["reason"] for c in found["status"]["conditions"] if c["type"] == "Failed"))


@case()
async def restart_in_place(ns: Namespace) -> None:
    """OnFailure: the same pod runs its container again, and its emptyDir is still there."""
    script = "test -e /both/tried || { touch /both/tried; exit 3; }"
    container = shell(script, volumeMounts=[{"name": "work", "mountPath": "/both"}])
    volumes = [{"name": "work", "emptyDir": {}}]
    await ns.create(job("j", spec(container, volumes=volumes, restartPolicy="OnFailure")))
    await ns.job("j", is_complete)
    (pod,) = ns.names()
    found = await ns.pod(pod, ended)
    (told,) = found["status"]["containerStatuses"]
    assert told["restartCount"] == 1
    assert told["lastState"]["terminated"]["exitCode"] == 3
    assert told["state"]["terminated"]["exitCode"] == 0


def _policy(action: str, code: int) -> Object:
    codes = {"containerName": "main", "operator": "In", "values": [code]}
    return {"rules": [{"action": action, "onExitCodes": codes}]}


@case()
async def policy_fails_the_job(ns: Namespace) -> None:
    """podFailurePolicy: one exit code ends the Job at once, whatever backoffLimit says."""
    policy = _policy("FailJob", 42)
    await ns.create(job("j", spec(shell("exit 42")), backoffLimit=6, podFailurePolicy=policy))
    found = await ns.job("j", has_failed)
    assert failure(found) == "PodFailurePolicy"
    assert len(ns.names()) == 1


@case()
async def policy_ignores_a_failure(ns: Namespace) -> None:
    """podFailurePolicy: an exit code that does not count against a backoffLimit of 0."""
    container = shell("exit $CODE", env=[{"name": "CODE", "valueFrom": key("configMap", "c", "n")}])
    policy = _policy("Ignore", 43)
    template = job("j", spec(container), backoffLimit=0, podFailurePolicy=policy)
    await ns.create(config("c", n="43"), template)
    await ns.until(lambda: [pod for pod in ns.there() if phase(pod) == "Failed"])
    await ns.patch("ConfigMap", "c", {"data": {"n": "0"}})
    found = await ns.job("j", is_complete)
    assert len(ns.names()) >= 2
    assert not found["status"].get("failed")


@case()
async def active_deadline(ns: Namespace) -> None:
    """A Job that takes too long fails, and its pods are ended."""
    await ns.create(job("j", spec(shell("exec sleep 600")), activeDeadlineSeconds=1))
    assert failure(await ns.job("j", has_failed)) == "DeadlineExceeded"
    await ns.until(lambda: not pods_of(ns, "j"))
    assert ns.names()


@case()
async def time_to_live(ns: Namespace) -> None:
    """ttlSecondsAfterFinished: the Job goes by itself, and its pods with it."""
    await ns.create(job("j", spec(shell("true")), ttlSecondsAfterFinished=1))
    await ns.job("j", is_complete)
    await ns.gone("Job", "j")
    await ns.until(lambda: not ns.there())


@case()
async def suspend_and_resume(ns: Namespace) -> None:
    """A suspended Job has no pods, loses those it has, and goes on when it is resumed."""
    seconds = {"name": "SECONDS_TO_SLEEP", "valueFrom": key("configMap", "c", "s")}
    container = shell('exec sleep "$SECONDS_TO_SLEEP"', env=[seconds])
    await ns.create(config("c", s="600"), job("j", spec(container), suspend=True))
    await ns.job("j", lambda found: holds(found, "Suspended"))
    assert not ns.names()
    await ns.patch("Job", "j", {"spec": {"suspend": False}})
    await ns.until(lambda: [pod for pod in ns.there() if is_running(pod)])
    await ns.patch("Job", "j", {"spec": {"suspend": True}})
    await ns.until(lambda: not ns.there())
    await ns.patch("ConfigMap", "c", {"data": {"s": "0"}})
    await ns.patch("Job", "j", {"spec": {"suspend": False}})
    found = await ns.job("j", is_complete)
    assert found["status"]["succeeded"] == 1
    assert len(ns.names()) == 2


@case()
async def a_pod_that_is_taken_away(ns: Namespace) -> None:
    """A pod of a Job is deleted by hand: the Job makes another one, and counts no success."""
    code = {"name": "N", "valueFrom": key("configMap", "c", "s")}
    container = shell('exec sleep "$N"', env=[code, {"name": "ME", "valueFrom": _NAME}])
    await ns.create(config("c", s="600"), job("j", spec(container)))
    (first,) = await ns.until(lambda: [pod for pod in ns.there() if is_running(pod)])
    await ns.patch("ConfigMap", "c", {"data": {"s": "0"}})
    await ns.delete("Pod", first["metadata"]["name"])
    found = await ns.job("j", is_complete)
    assert found["status"]["succeeded"] == 1
    assert len(ns.names()) == 2


_NAME = field("metadata.name")
