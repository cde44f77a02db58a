"""One pod on a node of fakes: what it starts, what it writes, and how it ends."""

import asyncio
import copy

import pytest
from node_fakes import FakeApi, FakeRuntime, Node, container, pod

from aiinfra_lab.errors import AIInfraLabError, InputError
from aiinfra_lab.kube.node.backoff import Backoff
from aiinfra_lab.kube.node.problems import ConfigProblem, ImageProblem, VolumeProblem
from aiinfra_lab.kube.node.tools import Waits


def phases(node):
    found = []
    for status in node.api.writes:
        if not found or found[-1] != status["phase"]:
            found.append(status["phase"])
    return found


def condition(status, kind):
    return next(c for c in status["conditions"] if c["type"] == kind)


async def test_a_pod_runs_and_succeeds_in_two_writes():
    async with Node(pod()) as node:
        await node.until(lambda: node.state()[0] == "running")
        assert node.entry()["ready"]
        assert node.status["podIP"] == "127.65.0.1"
        assert condition(node.status, "Ready")["status"] == "True"
        node.runtime.finish("u1.main.0")
        await node.until(lambda: node.status["phase"] == "Succeeded")
        await node.quiet()
        assert len(node.api.writes) == 2
        assert node.state()[1]["exitCode"] == 0
        assert condition(node.status, "Ready")["reason"] == "PodCompleted"
        assert node.reasons == ["Pulled", "Created", "Started"]
        assert node.released == ["u1"]
        assert node.runtime.removed == ["u1.main.0"]


async def test_an_end_that_is_told_before_the_start_is_answered_is_not_lost():
    async with Node(pod(policy="OnFailure")) as node:
        node.runtime.early = {"main": 0}
        await node.until(lambda: node.status["phase"] == "Succeeded")


async def test_a_failure_under_never_is_final():
    async with Node(pod()) as node:
        node.runtime.at_once = {"main": 3}
        await node.until(lambda: node.status["phase"] == "Failed")
        assert node.state()[1]["exitCode"] == 3
        await node.quiet()
        assert len(node.runtime.specs) == 1


async def test_a_program_that_is_not_there_is_a_start_error():
    async with Node(pod()) as node:
        node.runtime.refuses = {"main"}
        await node.until(lambda: node.status["phase"] == "Failed")
        assert node.state()[1]["reason"] == "StartError"
        assert "Failed" in node.reasons
        assert "Started" not in node.reasons


@pytest.mark.parametrize(
    ("policy", "code", "runs"),
    [("Always", 0, 2), ("Always", 1, 2), ("OnFailure", 1, 2), ("OnFailure", 0, 1), ("Never", 1, 1)],
)
async def test_the_restart_policy_decides_and_the_first_restart_is_at_once(policy, code, runs):
    waits = Waits(crash=Backoff(first=60, longest=300, free=1))
    async with Node(pod(policy=policy), waits=waits) as node:
        await node.until(lambda: node.runtime.running)
        node.runtime.finish("u1.main.0", code)
        await node.until(lambda: len(node.runtime.specs) == runs)
        await node.quiet()
        assert len(node.runtime.specs) == runs
        if runs == 2:
            await node.until(lambda: node.entry()["restartCount"] == 1)
            assert node.entry()["lastState"]["terminated"]["exitCode"] == code
            assert node.status["phase"] == "Running"


async def test_a_container_that_crashes_waits_longer_and_longer():
    async with Node(pod(policy="Always")) as node:
        node.runtime.at_once = {"main": 1}
        await node.until(lambda: node.state()[1].get("reason") == "CrashLoopBackOff")
        assert "back-off 0.02s" in node.state()[1]["message"]
        assert node.entry()["lastState"]["terminated"]["exitCode"] == 1
        assert node.status["phase"] == "Running"
        await node.until(lambda: "back-off 0.08s" in node.state()[1].get("message", ""))
        assert "BackOff" in node.reasons
        # Only the newest runs are kept in the runtime.
        assert len(node.runtime.states) <= 3


async def test_ten_minutes_of_running_forgive():
    waits = Waits(crash=Backoff(first=60, longest=300, free=1))
    async with Node(pod(policy="Always"), waits=waits) as node:
        await node.until(lambda: node.runtime.running)
        node.runtime.finish("u1.main.0", 1)
        await node.until(lambda: node.runtime.running == ["u1.main.1"])
        node.runtime.finish("u1.main.1", 1, ran=700.0)
        await node.until(lambda: node.runtime.running == ["u1.main.2"])
        node.runtime.finish("u1.main.2", 1, ran=10.0)
        await node.until(lambda: node.state()[1].get("reason") == "CrashLoopBackOff")
        assert not node.runtime.running


async def test_init_containers_run_one_after_the_other_and_then_all_the_others():
    made = pod(container("a"), container("b"), inits=[container("i"), container("j")])
    async with Node(made) as node:
        await node.until(lambda: node.runtime.running == ["u1.i.0"])
        await node.until(lambda: node.state("a")[1].get("reason") == "PodInitializing")
        assert condition(node.status, "Initialized")["status"] == "False"
        node.runtime.finish("u1.i.0")
        await node.until(lambda: node.runtime.running == ["u1.j.0"])
        assert node.status["phase"] == "Pending"
        node.runtime.finish("u1.j.0")
        await node.until(lambda: node.runtime.running == ["u1.a.0", "u1.b.0"])
        await node.until(lambda: node.status["phase"] == "Running")
        assert condition(node.status, "Initialized")["status"] == "True"
        node.runtime.finish("u1.a.0")
        await node.until(lambda: node.state("a")[0] == "terminated")
        assert node.status["phase"] == "Running"
        assert condition(node.status, "ContainersReady")["status"] == "False"
        node.runtime.finish("u1.b.0", 2)
        await node.until(lambda: node.status["phase"] == "Failed")


async def test_an_init_container_that_fails_under_never_fails_the_pod():
    async with Node(pod(inits=[container("i")])) as node:
        node.runtime.at_once = {"i": 1}
        await node.until(lambda: node.status["phase"] == "Failed")
        assert node.state() == ("waiting", {"reason": "PodInitializing"})
        assert [spec.id for spec in node.runtime.specs] == ["u1.i.0"]


async def test_an_init_container_that_succeeds_under_always_is_done():
    async with Node(pod(inits=[container("i")], policy="Always")) as node:
        node.runtime.at_once = {"i": 0}
        await node.until(lambda: node.runtime.running == ["u1.main.0"])
        await node.quiet()
        assert [spec.id for spec in node.runtime.specs] == ["u1.i.0", "u1.main.0"]


async def test_a_sidecar_runs_beside_and_ends_after():
    sidecar = container("s", restartPolicy="Always")
    async with Node(pod(inits=[sidecar])) as node:
        await node.until(lambda: node.runtime.running == ["u1.main.0", "u1.s.0"])
        node.runtime.finish("u1.s.0", 1)
        await node.until(lambda: node.runtime.running == ["u1.main.0", "u1.s.1"])
        assert node.status["phase"] != "Pending"
        node.runtime.finish("u1.main.0")
        await node.until(lambda: node.status["phase"] == "Succeeded")
        assert node.runtime.stops == [("u1.s.1", pytest.approx(30, abs=1))]


async def test_deletion_ends_tells_and_deletes_by_uid():
    waits = Waits(crash=Backoff(first=60, longest=300))
    async with Node(pod(policy="Always"), waits=waits) as node:
        node.runtime.stubborn = {"main"}
        await node.until(lambda: node.runtime.running)
        node.delete(grace=7)
        await node.until(lambda: node.runtime.stops == [("u1.main.0", pytest.approx(7, abs=0.5))])
        node.delete(grace=7)  # asked for twice
        await node.quiet()
        assert len(node.runtime.stops) == 1
        assert not node.api.deleted
        node.runtime.finish("u1.main.0", 143)
        await node.until(lambda: node.api.deleted)
        assert node.api.deleted == [{"gracePeriodSeconds": 0, "preconditions": {"uid": "u1"}}]
        assert node.api.writes[-1]["phase"] == "Failed"
        assert node.api.writes[-1]["containerStatuses"][0]["state"]["terminated"]["signal"] == 15
        assert len(node.runtime.specs) == 1  # not started again
        assert "BackOff" not in node.reasons
        node.worker.gone()
        await node.until(lambda: node.task.done())
        assert node.preparation.forgotten == ["u1"]
        assert not node.runtime.states


async def test_a_later_deletion_with_less_grace_shortens_it():
    async with Node(pod()) as node:
        node.runtime.stubborn = {"main"}
        await node.until(lambda: node.runtime.running)
        node.delete(grace=30)
        await node.until(lambda: len(node.runtime.stops) == 1)
        node.delete(grace=60)  # longer: not heard
        node.delete(grace=2)
        await node.until(lambda: len(node.runtime.stops) == 2)
        assert [grace for _, grace in node.runtime.stops] == pytest.approx([30, 2], abs=0.5)


async def test_a_pod_that_is_gone_is_killed_at_once():
    async with Node(pod()) as node:
        node.runtime.stubborn = {"main"}
        await node.until(lambda: node.state()[0] == "running")
        writes = len(node.api.writes)
        node.worker.gone()
        await node.until(lambda: node.task.done())
        assert node.runtime.stops == [("u1.main.0", 0.0)]
        assert node.preparation.forgotten == ["u1"]
        assert len(node.api.writes) == writes


async def test_nothing_is_removed_under_a_process_that_lives():
    async with Node(pod()) as node:
        node.runtime.immortal = {"main"}  # in the kernel, for a moment
        await node.until(lambda: node.state()[0] == "running")
        node.worker.gone()
        await node.until(lambda: node.runtime.stops)
        await node.quiet()
        assert not node.preparation.forgotten
        node.runtime.finish("u1.main.0", 137)
        await node.until(lambda: node.task.done())
        assert node.preparation.forgotten == ["u1"]


async def test_a_deleted_pods_sidecars_end_last_and_in_reverse():
    sidecars = [container(name, restartPolicy="Always") for name in ("s", "t")]
    async with Node(pod(inits=sidecars)) as node:
        node.runtime.stubborn = {"main", "s", "t"}
        await node.until(lambda: len(node.runtime.running) == 3)
        node.delete()
        for n, name in enumerate(("main", "t", "s")):
            await node.until(lambda n=n: len(node.runtime.stops) == n + 1)
            await node.quiet(0.01)
            assert node.runtime.stops[n:] == [(f"u1.{name}.0", pytest.approx(30, abs=5))]
            node.runtime.finish(f"u1.{name}.0", 143)
        await node.until(lambda: node.api.deleted)


async def test_a_watch_that_lags_changes_nothing():
    first = pod()
    async with Node(first) as node:
        await node.until(lambda: node.state()[0] == "running")
        node.worker.update(copy.deepcopy(first))  # as it was before our own write
        await node.quiet()
        assert len(node.api.writes) == 1


@pytest.mark.parametrize("forced", [False, True])
async def test_deletion_during_creation_starts_nothing(forced):
    async with Node(pod(container("a"), container("b"))) as node:
        node.preparation.delay = 60.0
        await node.until(lambda: node.status.get("containerStatuses"))  # slow: it says so
        assert node.state("a")[1]["reason"] == "ContainerCreating"
        if not forced:
            node.delete()
            await node.until(lambda: node.api.deleted)
            assert node.api.writes[-1]["phase"] == "Failed"
        node.worker.gone()
        await node.until(lambda: node.task.done())
        assert not node.runtime.specs
        assert node.preparation.forgotten == ["u1"]


async def test_a_pod_with_a_finalizer_is_deleted_once():
    async with Node(pod()) as node:
        await node.until(lambda: node.runtime.running)
        kept = node.api.pods["p"]
        node.delete()
        await node.until(lambda: node.api.deleted)
        node.api.pods["p"] = kept  # its finalizer holds it
        node.change(deletionGracePeriodSeconds=0)
        await node.quiet()
        assert len(node.api.deleted) == 1


async def test_the_deadline_fails_the_pod_once_all_has_ended():
    made = pod(policy="Always", activeDeadlineSeconds=0.05)
    async with Node(made) as node:
        node.runtime.stubborn = {"main"}
        await node.until(lambda: node.runtime.stops)
        assert node.status["phase"] == "Running"
        node.runtime.finish("u1.main.0", 143)
        await node.until(lambda: node.status["phase"] == "Failed")
        assert node.status["reason"] == "DeadlineExceeded"


async def test_a_deadline_counts_from_the_start_that_the_api_knows():
    status = {"phase": "Running", "startTime": "2020-01-01T00:00:00Z"}
    async with Node(pod(activeDeadlineSeconds=3600, status=status)) as node:
        await node.until(lambda: node.status["phase"] == "Failed")
        assert node.status["reason"] == "DeadlineExceeded"
        assert not node.runtime.specs


async def test_an_image_that_is_not_there_backs_off_and_is_tried_again():
    async with Node(pod()) as node:
        node.preparation.problems = {"main": ImageProblem("no image busybox")}
        await node.until(lambda: node.state()[1].get("reason") == "ErrImagePull")
        assert "no image busybox" in node.state()[1]["message"]
        await node.until(lambda: node.state()[1].get("reason") == "ImagePullBackOff")
        assert node.status["phase"] == "Pending"
        assert {"Failed", "BackOff"} <= set(node.reasons)
        node.preparation.problems = {}
        await node.until(lambda: node.state()[0] == "running")


async def test_a_missing_key_is_a_config_error_until_it_is_there():
    async with Node(pod()) as node:
        node.preparation.problems = {"main": ConfigProblem("no key a in ConfigMap c")}
        await node.until(lambda: node.state()[1].get("reason") == "CreateContainerConfigError")
        assert "no key a" in node.state()[1]["message"]
        node.preparation.problems = {}
        await node.until(lambda: node.state()[0] == "running")


async def test_a_volume_that_is_not_there_is_told_and_tried_again():
    async with Node(pod()) as node:
        node.preparation.volume = VolumeProblem("no ConfigMap c")
        await node.until(lambda: "FailedMount" in node.reasons)
        assert "no ConfigMap c" in node.worker.problem
        node.preparation.volume = None
        await node.until(lambda: node.state()[0] == "running")


async def test_nothing_is_written_when_nothing_changes_or_all_is_over():
    async with Node(pod()) as node:
        await node.until(lambda: node.state()[0] == "running")
        for n in range(5):
            node.change(labels={"n": str(n)})
            await node.quiet(0.01)
        assert len(node.api.writes) == 1
        node.runtime.finish("u1.main.0")
        await node.until(lambda: node.status["phase"] == "Succeeded")
        writes = len(node.api.writes)
        node.change(generation=9)
        await node.quiet()
        assert len(node.api.writes) == writes


async def test_states_that_follow_quickly_are_one_write():
    api = FakeApi(pod())
    api.delay = 0.03
    async with Node(pod(inits=[container("i"), container("j")]), api=api) as node:
        node.runtime.at_once = {"i": 0, "j": 0, "main": 0}
        await node.until(lambda: node.status["phase"] == "Succeeded")
        assert len(api.writes) <= 2


async def test_while_the_api_is_away_containers_go_on_and_the_truth_comes_later():
    async with Node(pod(policy="OnFailure")) as node:
        await node.until(lambda: node.state()[0] == "running")
        node.api.away = True
        node.runtime.finish("u1.main.0", 1)
        await node.until(lambda: node.runtime.running == ["u1.main.1"])
        node.runtime.finish("u1.main.1", 0)
        await node.quiet()
        assert node.entry()["restartCount"] == 0
        node.api.away = False
        await node.until(lambda: node.status["phase"] == "Succeeded")
        assert node.entry()["restartCount"] == 1
        assert phases(node) == ["Running", "Succeeded"]


async def test_a_namesake_is_left_alone():
    async with Node(pod()) as node:
        await node.until(lambda: node.state()[0] == "running")
        node.api.pods["p"]["metadata"]["uid"] = "u2"
        node.runtime.finish("u1.main.0")
        await node.quiet()
        assert node.state()[0] == "running"
        node.worker.gone()  # as the watch says a little later
        await node.until(lambda: node.task.done())
        assert node.preparation.forgotten == ["u1"]


async def test_a_spec_that_the_runtime_refuses_is_shown():
    async with Node(pod()) as node:
        node.runtime.error = InputError("the log cannot be written")
        await node.until(lambda: node.state()[1].get("reason") == "CreateContainerError")
        node.runtime.error = None
        await node.until(lambda: node.state()[0] == "running")


async def test_a_runtime_that_is_away_when_it_should_stop_is_asked_again():
    async with Node(pod()) as node:
        await node.until(lambda: node.runtime.running)
        node.runtime.error = AIInfraLabError("the runtime is gone")
        node.delete()
        await node.quiet()
        node.runtime.error = None
        await node.until(lambda: node.api.deleted)


async def test_old_logs_go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pods" / "u1" / "main"
    folder.mkdir(parents=True)
    for name in ("0.log", "0.log.1", "1.log", "10.log"):
        (folder / name).touch()
    async with Node(pod(policy="Always")) as node:
        for attempt in (0, 1):
            await node.until(lambda n=attempt: node.runtime.running == [f"u1.main.{n}"])
            node.runtime.finish(f"u1.main.{attempt}", 1)
        await node.until(lambda: node.runtime.running == ["u1.main.2"])
        assert sorted(path.name for path in folder.iterdir()) == ["1.log", "10.log"]


async def restarted(node):
    """A second agent with what the first one left."""
    return Node(node.api.pods["p"], runtime=node.runtime, api=node.api)


async def test_an_agent_that_restarts_adopts_and_doubles_nothing():
    async with Node(pod(policy="Always")) as first:
        await first.until(lambda: first.state()[0] == "running")
    assert first.runtime.running == ["u1.main.0"]
    async with await restarted(first) as node:
        await node.quiet()
        assert node.runtime.running == ["u1.main.0"]
        assert len(node.runtime.specs) == 1
        assert len(node.api.writes) == 1  # all was written already
        node.runtime.finish("u1.main.0", 1)
        await node.until(lambda: node.entry()["restartCount"] == 1)


async def test_what_ended_while_no_agent_was_there_is_found():
    async with Node(pod()) as first:
        await first.until(lambda: first.state()[0] == "running")
    first.runtime.finish("u1.main.0", 5)
    async with await restarted(first) as node:
        await node.until(lambda: node.status["phase"] == "Failed")
        assert node.state()[1]["exitCode"] == 5


async def test_a_run_that_was_never_written_is_adopted_too():
    first = FakeRuntime()
    async with Node(pod(), runtime=first) as node:
        node.api.away = True
        await node.until(lambda: first.running)
    node.api.away = False
    assert "containerStatuses" not in node.status
    async with Node(pod(), runtime=first, api=node.api) as second:
        await second.until(lambda: second.state()[0] == "running")
        assert len(first.specs) == 1


@pytest.mark.parametrize(("policy", "phase"), [("Never", "Failed"), ("Always", "Running")])
async def test_a_container_that_vanished_is_unknown(policy, phase):
    async with Node(pod(policy=policy)) as first:
        await first.until(lambda: first.state()[0] == "running")
    first.runtime.states.clear()  # the runtime was started again, too
    async with await restarted(first) as node:
        if policy == "Never":
            await node.until(lambda: node.status["phase"] == phase)
            found = node.state()[1]
        else:
            await node.until(lambda: node.runtime.running == ["u1.main.1"])
            await node.until(lambda: node.entry()["restartCount"] == 1)
            found = node.entry()["lastState"]["terminated"]
            assert node.status["phase"] == phase
        assert (found["reason"], found["exitCode"]) == ("ContainerStatusUnknown", 137)


async def test_a_runtime_that_comes_back_empty_is_noticed_while_the_agent_runs():
    async with Node(pod()) as node:
        await node.until(lambda: node.state()[0] == "running")
        node.worker.lose({})
        await node.until(lambda: node.status["phase"] == "Failed")
        assert node.state()[1]["reason"] == "ContainerStatusUnknown"


async def test_a_terminal_pod_that_is_deleted_is_only_deleted():
    done = {"phase": "Succeeded", "conditions": []}
    async with Node(pod(status=done)) as node:
        await node.quiet(0.02)
        node.delete()
        await node.until(lambda: node.api.deleted)
        assert not node.api.writes
        assert not node.runtime.specs


async def test_a_liveness_probe_that_gives_up_has_the_container_started_again():
    class Prober:
        started, ready, must_restart, grace = True, False, "", None

        def __init__(self, container, run, ip, changed, unhealthy, age):
            self.changed, self.run = changed, run
            probers.append(self)

        def begin(self):
            pass

        async def close(self):
            closed.append(self.run)

    probers, closed = [], []
    probed = container(livenessProbe={"exec": {"command": ["true"]}})
    async with Node(pod(probed, policy="Always"), prober=Prober) as node:
        await node.until(lambda: node.state()[0] == "running")
        assert not node.entry()["ready"]
        probers[0].ready = True
        probers[0].changed()
        await node.until(lambda: node.entry()["ready"])
        probers[0].must_restart = "Liveness probe failed"
        probers[0].changed()
        await node.until(lambda: node.runtime.running == ["u1.main.1"])
        assert node.runtime.stops[0][0] == "u1.main.0"
        assert "Killing" in node.reasons
        assert closed == ["u1.main.0"]
    assert closed == ["u1.main.0", "u1.main.1"]


async def test_a_deletion_does_not_lengthen_the_end_that_a_probe_ordered():
    class Prober:
        started, ready, must_restart, grace = True, True, "it hangs", 3.0

        def __init__(self, *_):
            pass

        def begin(self):
            pass

        async def close(self):
            pass

    probed = container(livenessProbe={"exec": {"command": ["true"]}})
    async with Node(pod(probed, policy="Always"), prober=Prober) as node:
        node.runtime.stubborn = {"main"}
        await node.until(lambda: node.runtime.stops)
        node.delete(grace=30)
        await node.quiet()
        assert node.runtime.stops == [("u1.main.0", 3.0)]
        node.delete(grace=1)
        await node.until(lambda: len(node.runtime.stops) == 2)


async def test_hooks_come_after_the_start_and_before_the_end():
    gate, calls = asyncio.Event(), []

    async def hook(handler, container, run, ip, timeout):
        calls.append((handler["kind"], timeout))
        if handler["kind"] == "post":
            await gate.wait()
        return ""

    life = {"postStart": {"kind": "post"}, "preStop": {"kind": "pre"}}
    async with Node(pod(container(lifecycle=life)), hook=hook) as node:
        await node.until(lambda: calls)
        await node.until(lambda: node.status.get("containerStatuses"))
        assert node.state()[1]["reason"] == "ContainerCreating"
        gate.set()
        await node.until(lambda: node.state()[0] == "running")
        node.delete(grace=9)
        await node.until(lambda: node.runtime.stops)
        assert calls[1] == ("pre", pytest.approx(9, abs=0.5))


async def test_a_post_start_hook_that_fails_ends_the_container():
    async def hook(*_):
        return "it said no"

    life = {"postStart": {"exec": {}}}
    async with Node(pod(container(lifecycle=life)), hook=hook) as node:
        await node.until(lambda: node.status["phase"] == "Failed")
        assert ("FailedPostStartHook", "it said no") in node.recorded
