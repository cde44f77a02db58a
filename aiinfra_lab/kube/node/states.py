"""One container of a pod: what is known of it, and its entry in the status, written and read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from aiinfra_lab.kube.runtime.spec import ContainerState

Object = dict[str, Any]

SCHEME = "process://"
UNKNOWN = "ContainerStatusUnknown"


@dataclass(frozen=True, kw_only=True)
class ContainerView:
    """What is known of one container of a pod.

    Attributes
    ----------
    attempt : int
        How often it was started again.
    now, before : ContainerState, optional
        Its newest run and the one before.
    waiting : tuple of str, optional
        Reason and message, while it waits to be started, for the first time or again.
    started, ready : bool
        What its probes say of the run ``now``.
    """

    attempt: int = 0
    now: ContainerState | None = None
    before: ContainerState | None = None
    waiting: tuple[str, str] | None = None
    started: bool = False
    ready: bool = False

    @property
    def running(self) -> bool:
        """Whether it runs and is shown so."""
        return self.now is not None and self.now.status == "running" and self.waiting is None

    @property
    def ended(self) -> ContainerState | None:
        """The end of its newest run, if that has ended."""
        return self.now if self.now is not None and self.now.status == "exited" else None

    @property
    def succeeded(self) -> bool:
        """Whether its newest run has ended well."""
        return self.ended is not None and self.ended.exit_code == 0


def is_sidecar(container: Object) -> bool:
    """Whether an init container runs beside the containers proper, until they have ended."""
    return bool(container.get("restartPolicy") == "Always")


def container_entry(spec: Object, view: ContainerView, *, over: bool, blank: str) -> Object:
    """The entry of a pod's ``containerStatuses`` for one container.

    Parameters
    ----------
    spec : dict
        The container in the pod's specification.
    view : ContainerView
        What is known of it.
    over : bool
        Whether nothing in the pod will be started any more.
    blank : str
        Why it waits, where nothing was tried yet: ContainerCreating or PodInitializing.
    """
    entry: Object = {
        "name": spec["name"],
        "image": spec.get("image", ""),
        "imageID": spec.get("image", "") if view.now is not None else "",
        "restartCount": view.attempt,
        "started": view.running and view.started,
        "ready": view.running and view.ready,
    }
    if view.now is not None:
        entry["containerID"] = SCHEME + view.now.id
    last = view.before
    if view.waiting is not None and not over:
        reason, message = view.waiting
        entry["state"] = {"waiting": compact({"reason": reason, "message": message or None})}
        last = view.ended or last
    elif view.now is None and over and blank != "PodInitializing":
        entry["state"] = {"terminated": _NEVER_RAN}
    elif view.now is None:
        entry["state"] = {"waiting": {"reason": blank}}
    elif view.now.status == "running":
        entry["state"] = {"running": {"startedAt": timestamp(view.now.started_at)}}
    else:
        entry["state"] = {"terminated": _terminated(view.now)}
    entry["lastState"] = {"terminated": _terminated(last)} if last is not None else {}
    return entry


def recover(pod: Object) -> dict[str, ContainerView]:
    """What the API server knows of the containers: an agent begins with it after its restart."""
    status = pod.get("status") or {}
    entries = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]
    return {entry["name"]: _view(entry) for entry in entries}


def vanished(state: ContainerState, now: datetime) -> ContainerState:
    """The end of a run that the runtime does not know: when and how it ended, nobody can say."""
    return replace(
        state,
        status="exited",
        pid=0,
        finished_at=now.timestamp(),
        exit_code=137,
        reason=UNKNOWN,
        message="The container was gone when the node looked for it.",
    )


def timestamp(moment: datetime | float) -> str:
    """RFC 3339 in UTC, to the second, as the API has it."""
    if not isinstance(moment, datetime):
        moment = datetime.fromtimestamp(moment, UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str | None) -> float:
    """Seconds since the epoch of such a timestamp; 0 for none."""
    return datetime.fromisoformat(text).timestamp() if text else 0.0


def compact(value: Any) -> Any:
    """Without what is None: the server answers with nulls where nothing was said."""
    if isinstance(value, dict):
        return {key: compact(item) for key, item in value.items() if item is not None}
    return [compact(item) for item in value] if isinstance(value, list) else value


_NEVER_RAN: Object = {
    "exitCode": 137,
    "reason": UNKNOWN,
    "message": "The pod was ended before this container had started.",
}


def _terminated(state: ContainerState) -> Object:
    found: Object = compact(
        {
            "exitCode": state.exit_code,
            "signal": state.signal or None,
            "reason": state.reason or ("Error" if state.exit_code else "Completed"),
            "message": state.message or None,
            "startedAt": timestamp(state.started_at) if state.started_at else None,
            "finishedAt": timestamp(state.finished_at) if state.finished_at else None,
            "containerID": SCHEME + state.id,
        }
    )
    return found


def _view(entry: Object) -> ContainerView:
    state, last = entry.get("state") or {}, entry.get("lastState") or {}
    before = _run(last.get("terminated"), "exited")
    attempt = entry.get("restartCount", 0)
    if state.get("running") is not None:
        return ContainerView(
            attempt=attempt,
            now=_run(state["running"] | {"containerID": entry.get("containerID")}, "running"),
            before=before,
            started=bool(entry.get("started")),
            ready=bool(entry.get("ready")),
        )
    if state.get("terminated") is not None:
        ended = _run(state["terminated"], "exited")
        return ContainerView(attempt=attempt, now=ended, before=before)
    # It waits to be started again: its newest run is the last one.
    return ContainerView(attempt=attempt, now=before)


def _run(found: Object | None, status: Literal["running", "exited"]) -> ContainerState | None:
    identity = (found or {}).get("containerID") or ""
    if found is None or not identity.startswith(SCHEME):
        return None
    return ContainerState(
        id=identity.removeprefix(SCHEME),
        status=status,
        pid=0,
        started_at=seconds(found.get("startedAt")),
        finished_at=seconds(found.get("finishedAt")),
        exit_code=found.get("exitCode") or 0,
        signal=found.get("signal") or 0,
        reason=found.get("reason") or "",
        message=found.get("message") or "",
    )
