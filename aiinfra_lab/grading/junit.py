"""``junit.xml``: a test case for each learner and exercise, for tools that read test reports."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from aiinfra_lab.files import write_bytes
from aiinfra_lab.grading.escapes import cut, visible
from aiinfra_lab.grading.results import BatchResult, ExerciseResult, SubmissionResult
from aiinfra_lab.grading.tables import exercise_names

_MOST_CHARACTERS = 1_000


def write_junit(result: BatchResult, folder: str | Path) -> Path:
    """Write ``junit.xml`` into ``folder``, atomically; the path.

    A learner is a test suite, an exercise a case: passed, ``failure`` (not yet, not started),
    ``skipped`` (pending), ``error`` (missing or unreadable: each exercise of the lab has one). The
    points stand in properties.
    """
    names = exercise_names(result) or ["submission"]
    root = ElementTree.Element("testsuites", name=f"lab {_text(result.lab)}")
    for submission in result.submissions:
        root.append(_suite(result, submission, names))
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in root)))
    root.set("time", f"{sum(s.seconds for s in result.submissions):.3f}")
    ElementTree.indent(root)
    path = Path(folder) / "junit.xml"
    write_bytes(path, ElementTree.tostring(root, "utf-8", xml_declaration=True) + b"\n")
    return path


def _suite(
    result: BatchResult, submission: SubmissionResult, names: list[str]
) -> ElementTree.Element:
    learner = _text(submission.id)
    suite = ElementTree.Element(
        "testsuite",
        name=learner,
        timestamp=result.started.strftime("%Y-%m-%dT%H:%M:%S"),
        time=f"{submission.seconds:.3f}",
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (("points", submission.points), ("of", submission.of)):
        ElementTree.SubElement(properties, "property", name=name, value=f"{value:g}")
    if submission.exercises:
        cases = [_case(submission, exercise) for exercise in submission.exercises]
    else:
        cases = [_absent(submission, name) for name in names]
    suite.extend(cases)
    suite.set("tests", str(len(cases)))
    for key, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(key, str(sum(case.find(kind) is not None for case in cases)))
    return suite


def _case(submission: SubmissionResult, exercise: ExerciseResult) -> ElementTree.Element:
    case = _new_case(submission, exercise.exercise)
    reason = _text(exercise.reason or exercise.status)
    if exercise.status == "pending":
        ElementTree.SubElement(case, "skipped", message=reason)
    elif exercise.status != "passed":
        failure = ElementTree.SubElement(case, "failure", message=reason, type=exercise.status)
        failure.text = "\n".join(
            f"{_text(d.record)}: expected {_text(d.expected)}, found {_text(d.found)}"
            for d in exercise.differences
        )
    return case


def _absent(submission: SubmissionResult, name: str) -> ElementTree.Element:
    """The case of a submission that has no verdicts at all."""
    case = _new_case(submission, name)
    if submission.state == "graded":
        return case
    reason = _text(submission.reason or submission.state)
    ElementTree.SubElement(case, "error", message=reason, type=submission.state)
    return case


def _new_case(submission: SubmissionResult, name: str) -> ElementTree.Element:
    # The run is one for all exercises: its time is the suite's, and a case has none of its own.
    return ElementTree.Element(
        "testcase", classname=_text(submission.id), name=_text(name), time="0"
    )


def _text(text: str) -> str:
    return visible(cut(text, _MOST_CHARACTERS))
