"""The report on a class for its instructor: one page, from the walls down to every row."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from aiinfra_lab.files import write_text
from aiinfra_lab.grading.charts import histogram, shares
from aiinfra_lab.grading.feedback import SIGNS, feedback_name
from aiinfra_lab.grading.pages import number, page, when
from aiinfra_lab.grading.results import BatchResult, ExerciseResult, Status, SubmissionResult
from aiinfra_lab.grading.similarity import SimilarPair
from aiinfra_lab.grading.tables import exercise_names

_MOST_PAIRS = 100
_STATUSES: tuple[Status, ...] = get_args(Status)
_TONES = {"pending": "pending", "missing": "not-started", "unreadable": "not-yet"}


def write_report(
    result: BatchResult, folder: str | Path, *, similar: Sequence[SimilarPair] = ()
) -> Path:
    """Write ``report.html`` into ``folder``, atomically; the path.

    The page needs nothing beside it (its links lead to ``feedback/``), runs no script and shows
    what came from a submission as text. It holds the seed: it is the instructor's.

    Examples
    --------
    >>> write_report(result, "graded", similar=similar_pairs(answers, given))  # doctest: +SKIP
    """
    path = Path(folder) / "report.html"
    write_text(path, page("report.html", **_values(result, similar)))
    return path


def _values(result: BatchResult, similar: Sequence[SimilarPair]) -> dict[str, Any]:
    submissions = sorted(result.submissions, key=lambda s: ((s.name or s.id).casefold(), s.id))
    judged = [s for s in submissions if s.state in ("graded", "pending")]
    seen = {e.status for s in judged for e in s.exercises}
    return {
        "result": result,
        "when": when(result.started),
        "took": _duration((result.ended - result.started).total_seconds()),
        "master": result.master.removeprefix("sha256:")[:12],
        "missing": [wall for wall in result.walls if not wall.stood],
        "standing": [wall for wall in result.walls if wall.stood],
        "tiles": _tiles(submissions, judged),
        "judged": judged,
        "left_out": len(submissions) - len(judged),
        "waiting": any(s.state == "pending" for s in judged),
        "points_chart": histogram(
            [s.points for s in judged], top=result.of, unit="points", noun="submissions"
        ),
        "exercises": _exercises(judged),
        "statuses": [status for status in _STATUSES if status in seen],
        "pending": [
            (s.name or s.id, [e.exercise for e in s.exercises if e.status == "pending"])
            for s in judged
            if s.state == "pending"
        ],
        "pairs": similar[:_MOST_PAIRS],
        "names": {s.id: s.name for s in submissions if s.name},
        "more_pairs": max(0, len(similar) - _MOST_PAIRS),
        "order": exercise_names(result),
        "rows": [_row(s) for s in submissions],
        "times": _times(submissions),
    }


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{number(seconds)} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def _tiles(
    submissions: Sequence[SubmissionResult], judged: Sequence[SubmissionResult]
) -> list[tuple[str, str]]:
    tiles = [(str(len(submissions)), _plural("submission", submissions))]
    if judged:
        points = [s.points for s in judged]
        tiles += [
            (number(statistics.fmean(points)), "points, mean"),
            (number(statistics.median(points)), "points, median"),
            (str(sum(s.points == s.of for s in judged)), "with all points"),
            (str(sum(s.points == 0 for s in judged)), "with none"),
        ]
    states = Counter(s.state for s in submissions)
    counted = {
        "pending": states["pending"],
        "without a file": states["missing"],
        "unreadable": states["unreadable"],
        "ended by a limit": sum(bool(s.limit) for s in submissions),
        "identical to another": sum(bool(s.same_as) for s in submissions),
    }
    return tiles + [(str(count), label) for label, count in counted.items() if count]


def _exercises(judged: Sequence[SubmissionResult]) -> list[dict[str, Any]]:
    """Of every exercise how it went; the one that fewest passed first."""
    by_name: dict[str, list[ExerciseResult]] = {}
    for submission in judged:
        for exercise in submission.exercises:
            by_name.setdefault(exercise.exercise, []).append(exercise)
    found = []
    for name, marks in by_name.items():
        counts = Counter(mark.status for mark in marks)
        firsts = Counter(first for mark in marks if (first := _first(mark)))
        first, first_count = firsts.most_common(1)[0] if firsts else ("", 0)
        found.append(
            {
                "name": name,
                "points": marks[0].points,
                "passed": counts["passed"],
                "failed": counts["not yet"],
                "total": len(marks) - counts["pending"],
                "pending": counts["pending"],
                "chart": shares({status: counts[status] for status in _STATUSES}),
                "first": first,
                "first_count": first_count,
            }
        )
    # Stable: exercises that are equally hard keep the order of the lab. How hard one is that nobody
    # has marked yet is not known.
    return sorted(found, key=lambda e: e["passed"] / e["total"] if e["total"] else 2)


def _first(mark: ExerciseResult) -> str:
    """What differs first in an exercise that was tried and did not pass."""
    if mark.status != "not yet":
        return ""
    return mark.differences[0].record if mark.differences else mark.reason


def _row(submission: SubmissionResult) -> dict[str, Any]:
    left = [e for e in submission.exercises if e.status != "passed"]
    reasons = [submission.reason] if submission.reason else []
    if submission.limit:
        reasons.append(f"ended by a limit: {submission.limit}")
    if submission.same_as:
        reasons.append(f"the same file as {submission.same_as}")
    parts = []
    if lost := [e for e in left if e.status != "pending"]:
        parts.append(f"{len(lost)} of {len(submission.exercises)} not passed")
    if waiting := len(left) - len(lost):
        parts.append(f"{waiting} pending")
    if submission.notes:
        parts.append(f"{len(submission.notes)} {_plural('note', submission.notes)}")
    return {
        "label": submission.name or submission.id,
        "also": submission.id if submission.name else "",
        "file": feedback_name(submission.id),
        "state": submission.state,
        "tone": _TONES.get(submission.state, ""),
        "points": submission.points,
        "of": submission.of,
        "chart": _points_bar(submission),
        "marks": [
            {"exercise": e.exercise, "status": e.status, "sign": SIGNS[e.status]}
            for e in submission.exercises
        ],
        "seconds": submission.seconds,
        "reasons": reasons,
        "summary": ", ".join(parts),
        "details": [
            *(f"{e.exercise}: {e.reason or e.status}" for e in left),
            *submission.notes,
        ],
    }


def _plural(noun: str, things: Sequence[object]) -> str:
    return noun if len(things) == 1 else f"{noun}s"


def _points_bar(submission: SubmissionResult) -> Any:
    # In hundredths of a point: shares takes whole numbers.
    pending = sum(e.points for e in submission.exercises if e.status == "pending")
    rest = max(0.0, submission.of - submission.points - pending)
    parts = {"passed": submission.points, "pending": pending, "rest": rest}
    return shares({name: round(100 * points) for name, points in parts.items()}, height=7)


def _times(submissions: Sequence[SubmissionResult]) -> dict[str, Any] | None:
    run = [s for s in submissions if s.seconds > 0 and not s.same_as]
    if not run:
        return None
    longest = max(run, key=lambda s: s.seconds)
    return {
        "chart": histogram(
            [s.seconds for s in run], top=longest.seconds, unit="seconds", noun="submissions"
        ),
        "median": statistics.median(s.seconds for s in run),
        "longest": longest.seconds,
        "who": longest.name or longest.id,
        "cpu": sum(s.cpu_s for s in run),
        "same": sum(bool(s.same_as) for s in submissions),
    }
