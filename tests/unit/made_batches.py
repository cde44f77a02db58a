"""Results of grading that were made up, for the tests of what is written about them."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from aiinfra_lab.grading.results import (
    BatchResult,
    ExerciseResult,
    ShownDifference,
    SubmissionResult,
    Wall,
)

SEED = "9f3c5a7e11d04b2288c0ffee12345678"
LAB = {"window": 5, "probes": 6, "late-answers": 6, "slow-calls": 5, "predicates": 5, "jitter": 5}
WALLS = (
    Wall(name="network", stood=True, detail="own network namespace, loopback only"),
    Wall(name="files", stood=True, detail="read-only root, nothing of the course in it"),
    Wall(name="memory", stood=True, detail="cgroup v2, 2 GiB"),
    Wall(name="processes", stood=True, detail="at most 64"),
)
BROKEN_WALLS = (
    *WALLS[:2],
    Wall(
        name="memory", stood=False, detail="no cgroup may be made here; resident memory is watched"
    ),
    Wall(name="processes", stood=False, detail="a submission may start as many as you may"),
)
RECORDS = {
    "window": "rate, as failures come and go",
    "probes": "let through, of 200 more after three probes were cancelled",
    "late-answers": "states, half-open, failures of the closed state come in",
    "slow-calls": "rates in the silence after two calls",
    "predicates": "pauses of what is no Retry-After",
    "jitter": "waits after a week",
}


def difference(record: str = "rate", **fields: str) -> ShownDifference:
    chosen = {
        "where": "[3]",
        "expected": "0.25",
        "found": "0.5",
        "hint": "The oldest call leaves first.",
    }
    return ShownDifference(record=record, **(chosen | fields))


def mark(exercise: str, status: str = "passed", points: float = 5, **fields: Any) -> ExerciseResult:
    earned = points if status == "passed" else 0
    return ExerciseResult(exercise=exercise, points=points, earned=earned, status=status, **fields)


def missed(exercise: str, points: float = 5) -> ExerciseResult:
    """An exercise in which the record that is hardest differs."""
    record = RECORDS[exercise]
    reason = f"{record} at [3]: expected 0.25, found 0.5. The oldest call leaves first."
    return mark(exercise, "not yet", points, reason=reason, differences=(difference(record),))


def submission(learner: str, *marks: ExerciseResult, **fields: Any) -> SubmissionResult:
    state = "pending" if any(m.status == "pending" for m in marks) else "graded"
    chosen = {
        "state": state,
        "files": (f"{learner}.ipynb",),
        "digest": "sha256:" + "ab" * 32,
        "points": sum(m.earned for m in marks),
        "of": sum(m.points for m in marks),
        "exercises": marks,
        "seconds": 0.42,
        "cpu_s": 0.31,
    }
    return SubmissionResult(id=learner, **(chosen | fields))


def absent(learner: str, state: str = "missing", of: float = 32, **fields: Any) -> SubmissionResult:
    reason = {"missing": "on the roster, but there is no file", "unreadable": "it is no notebook"}
    chosen = {"reason": reason[state], "points": 0, "of": of}
    return SubmissionResult(id=learner, state=state, **(chosen | fields))


def batch(*submissions: SubmissionResult, **fields: Any) -> BatchResult:
    started = datetime(2026, 11, 24, 13, 5, tzinfo=UTC)
    chosen = {
        "lab": "03",
        "title": "Build the parts of a circuit breaker",
        "course_version": "0.1.0",
        "master": "sha256:" + "5e" * 32,
        "seed": SEED,
        "started": started,
        "ended": started + timedelta(seconds=38.4),
        "walls": WALLS,
        "of": 32,
        "submissions": submissions,
    }
    return BatchResult(**(chosen | fields))


def crowd(size: int, *, seed: int = 3, **fields: Any) -> BatchResult:
    """A class of ``size``: most of it good, some of it not, a few without a file."""
    draw = random.Random(seed)
    first = ["Ada", "Grace", "Kazuko", "Edsger", "Barbara", "Leslie", "Tony", "Frances", "Jim"]
    last = ["Lovelace", "Hopper", "Sato", "Liskov", "Lamport", "Hoare", "Allen", "Gray", "Müller"]
    ease = dict(zip(LAB, (0.9, 0.62, 0.7, 0.55, 0.35, 0.8), strict=True))
    rows = []
    for number in range(size):
        learner = f"s{number:04d}"
        name = f"{draw.choice(first)} {draw.choice(last)}"
        chance = draw.random()
        if size > 5 and chance < 0.04:
            rows.append(absent(learner, name=name))
            continue
        if size > 5 and chance < 0.06:
            rows.append(absent(learner, "unreadable", name=name, files=(f"{learner}.ipynb",)))
            continue
        skill = draw.choice((0.25, 0, 0, -0.3))
        marks = []
        for exercise, points in LAB.items():
            if draw.random() < ease[exercise] + skill:
                marks.append(mark(exercise, points=points))
            elif draw.random() < 0.25:
                marks.append(
                    mark(exercise, "not started", points, reason="fill in the answer cell")
                )
            else:
                marks.append(missed(exercise, points))
        seconds = 0.25 + draw.expovariate(6)
        extra: dict[str, Any] = {}
        if chance > 0.97:
            extra = {
                "limit": "processor time, 30 s",
                "notes": ("cell 'window' stands there twice",),
            }
            seconds = 4.2
        rows.append(
            submission(learner, *marks, name=name, seconds=seconds, cpu_s=seconds * 0.8, **extra)
        )
    return batch(*rows, **fields)
