"""The laws of a pod's status, over whatever its containers do; and single cases by hand."""

import copy
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st
from node_fakes import container, merged, pod

from aiinfra_lab.kube.node.states import (
    ContainerView,
    recover,
    seconds,
    timestamp,
    vanished,
)
from aiinfra_lab.kube.node.status import PodView, pod_status, restarts, status_patch
from aiinfra_lab.kube.runtime.spec import ContainerState

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NAMES = ("i", "s", "a", "b")


def run(name="main", attempt=0, code=None, **fields):
    state = ContainerState(
        id=f"u1.{name}.{attempt}", status="running", pid=7, started_at=NOW.timestamp()
    )
    if code is not None:
        ended = NOW.timestamp() + 5
        state = replace(state, status="exited", pid=0, exit_code=code, finished_at=ended)
        state = replace(state, reason="Error" if code else "Completed")
    return replace(state, **fields)


@st.composite
def views(draw, name):
    attempt = draw(st.integers(0, 3))
    code = draw(st.sampled_from([None, 0, 1, 137]))
    now = draw(st.sampled_from([None, run(name, attempt, code)]))
    before = run(name, attempt - 1, 1) if attempt else None
    waiting = None
    if now is None or now.status == "exited":
        waiting = draw(st.sampled_from([None, ("CrashLoopBackOff", "later"), ("ErrImagePull", "")]))
    if now is None:
        attempt, before = 0, None
    started = draw(st.booleans())
    return ContainerView(
        attempt=attempt,
        now=now,
        before=before,
        waiting=waiting,
        started=started,
        ready=started and draw(st.booleans()),
    )


@st.composite
def pod_views(draw):
    found = {name: draw(views(name)) for name in NAMES}
    alive = any(v.now is not None and v.now.status == "running" for v in found.values())
    return PodView(
        containers=found,
        over=not alive and draw(st.booleans()),
        ip=draw(st.sampled_from(["", "127.65.0.9"])),
        failure=draw(st.sampled_from([None, ("DeadlineExceeded", "too long")])),
    )


policies = st.sampled_from(["Always", "OnFailure", "Never"])


def made(policy="Never", **fields):
    inits = [container("i"), container("s", restartPolicy="Always")]
    return pod(container("a"), container("b"), inits=inits, policy=policy, **fields)


def applied(found, view, now=NOW):
    """The pod after what the node would write."""
    result = copy.deepcopy(found)
    change = status_patch(found, pod_status(found, view, now))
    if change is not None:
        # As the server has it: through JSON, with nulls where nothing was said.
        result["status"] = merged(result["status"], json.loads(json.dumps(change["status"])))
        for entry in result["status"]["containerStatuses"]:
            for state in entry["state"].values():
                state.setdefault("startedAt", None)
    return result


def conditions(found):
    return {c["type"]: c for c in found["status"]["conditions"]}


@law(deadline=None, max_examples=60)
@given(policies, pod_views())
def test_what_was_written_is_not_written_again(policy, view):
    once = applied(made(policy), view)
    later = NOW + timedelta(hours=1)
    assert status_patch(once, pod_status(once, view, later)) is None


@law(deadline=None, max_examples=60)
@given(policies, st.lists(pod_views(), min_size=2, max_size=5))
def test_a_terminal_phase_is_never_left_and_nothing_is_written_after_it(policy, seen):
    found, terminal = made(policy), None
    for view in seen:
        after = applied(found, view)
        if terminal is not None:
            assert after == terminal
        elif after["status"]["phase"] in ("Succeeded", "Failed"):
            assert view.over
            terminal = after
        found = after


@law(deadline=None, max_examples=60)
@given(policies, pod_views())
def test_the_conditions_agree_with_each_other(policy, view):
    after = applied(made(policy), view)
    found = {kind: c["status"] for kind, c in conditions(after).items()}
    status = after["status"]
    assert found["Ready"] == found["ContainersReady"]
    if found["Ready"] == "True":
        assert found["Initialized"] == "True"
        assert all(entry["ready"] for entry in status["containerStatuses"])
        assert status["phase"] == "Running"
    if status["phase"] == "Succeeded":
        ends = [entry["state"]["terminated"] for entry in status["containerStatuses"]]
        assert all(end["exitCode"] == 0 for end in ends)
        assert view.failure is None
    for entry in [*status["containerStatuses"], *status["initContainerStatuses"]]:
        assert len(entry["state"]) == 1
        assert entry["started"] or not entry["ready"] or entry["name"] == "i"


@law(deadline=None, max_examples=60)
@given(policies, pod_views(), pod_views())
def test_a_condition_keeps_its_time_until_it_changes(policy, first, second):
    once = applied(made(policy), first)
    twice = applied(once, second, NOW + timedelta(minutes=5))
    for kind, before in conditions(once).items():
        after = conditions(twice)[kind]
        same = before["status"] == after["status"]
        assert (before["lastTransitionTime"] == after["lastTransitionTime"]) == same


@law(deadline=None, max_examples=60)
@given(policies, pod_views())
def test_an_agent_recovers_what_was_written(policy, view):
    after = applied(made(policy), view)
    known = recover(after)
    for name, was in view.containers.items():
        assert known[name].attempt == was.attempt
        if was.now is not None:
            assert known[name].now.id == was.now.id
            assert known[name].now.status == was.now.status
            assert known[name].now.exit_code == was.now.exit_code
    # And would write the same again, but for what only the runtime knows: the waiting.
    same = {
        name: replace(known[name], waiting=was.waiting) for name, was in view.containers.items()
    }
    again = replace(view, containers=same)
    if all(v.waiting is None or v.now is None for v in view.containers.values()):
        assert status_patch(after, pod_status(after, again, NOW)) is None


def test_conditions_of_others_are_left_alone():
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "x"}
    after = applied(
        pod(status={"phase": "Pending", "conditions": [scheduled]}),
        PodView(containers={"main": ContainerView(now=run(), started=True, ready=True)}),
    )
    assert conditions(after)["PodScheduled"] == scheduled
    assert set(conditions(after)) == {
        "PodScheduled",
        "PodReadyToStartContainers",
        "Initialized",
        "ContainersReady",
        "Ready",
    }


def test_a_readiness_gate_keeps_a_ready_pod_from_being_ready():
    gated = pod(readinessGates=[{"conditionType": "example.com/gate"}])
    view = PodView(containers={"main": ContainerView(now=run(), started=True, ready=True)})
    after = applied(gated, view)
    assert conditions(after)["Ready"]["reason"] == "ReadinessGatesNotReady"
    after["status"]["conditions"].append({"type": "example.com/gate", "status": "True"})
    after = applied(after, view)
    assert conditions(after)["Ready"]["status"] == "True"
    assert "reason" not in conditions(after)["Ready"]


def test_another_address_replaces_the_first():
    view = PodView(containers={}, ip="127.65.0.1")
    after = applied(pod(), view)
    change = status_patch(after, pod_status(after, replace(view, ip="127.65.0.2"), NOW))
    assert change["status"]["podIPs"] == [{"$patch": "replace"}, {"ip": "127.65.0.2"}]
    assert change["metadata"] == {"uid": "u1"}


def test_a_pod_that_ended_before_it_began_is_unknown_to_the_end():
    after = applied(pod(), PodView(containers={}, over=True))
    assert after["status"]["phase"] == "Failed"
    ended = after["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("ContainerStatusUnknown", 137)


def test_the_generation_is_named_where_the_api_has_one():
    view = PodView(containers={})
    assert applied(pod(), view)["status"]["observedGeneration"] == 1
    old = pod(meta={"generation": None})
    assert "observedGeneration" not in applied(old, view)["status"]
    assert "observedGeneration" not in conditions(applied(old, view))["Ready"]


@pytest.mark.parametrize(
    ("policy", "name", "code", "again"),
    [
        ("Always", "a", 0, True),
        ("OnFailure", "a", 0, False),
        ("OnFailure", "a", 1, True),
        ("Never", "a", 1, False),
        ("Always", "i", 0, False),
        ("Always", "i", 1, True),
        ("Never", "i", 1, False),
        ("Never", "s", 0, True),
    ],
)
def test_who_is_started_again(policy, name, code, again):
    found = made(policy)
    specs = {c["name"]: c for c in found["spec"]["initContainers"] + found["spec"]["containers"]}
    assert restarts(found, specs[name], code) is again


def test_a_vanished_run_ends_with_137_and_keeps_what_is_known():
    ended = vanished(run("a", 2, labels={"uid": "u1"}), NOW)
    assert (ended.status, ended.exit_code, ended.reason) == (
        "exited",
        137,
        "ContainerStatusUnknown",
    )
    assert (ended.id, ended.labels, ended.started_at) == ("u1.a.2", {"uid": "u1"}, NOW.timestamp())


def test_times_are_utc_to_the_second_and_come_back():
    assert timestamp(NOW) == "2026-01-02T03:04:05Z"
    assert seconds(timestamp(NOW)) == NOW.timestamp()
    assert seconds(None) == 0.0
