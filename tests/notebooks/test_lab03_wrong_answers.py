"""Lab 03 finds the mistakes that people make with breakers, and names them.

Each wrong answer differs from the master in one idea. Its exercise must fail in the record that is
about this idea, so that the first thing the learner reads is the right hint.
"""

from __future__ import annotations

import pytest
from lab03_answers import ANOTHER_WAY, OVERFLOWS, WRONG, Wrong
from tried_answers import edited, marks_of, read_master

from aiinfra_lab.course.checking import Mark

NAME = "03_circuit_breaker"
MASTER = read_master(NAME)


def _edited(wrong: Wrong) -> str:
    return edited(MASTER, wrong.exercise, wrong.mistake, wrong.edits)


def _answers() -> dict[str, tuple[str, str]]:
    """Every answer that is tried: its name, its exercise and its source."""
    wrong = {f"{w.exercise}: {w.mistake}": (w.exercise, _edited(w)) for w in WRONG}
    right = {f"{name}: in another way": (name, source) for name, source in ANOTHER_WAY.items()}
    return wrong | right | {"jitter: overflows": ("jitter", OVERFLOWS)}


@pytest.fixture(scope="module")
def marks() -> dict[str, Mark]:
    """The mark of every answer, by its name."""
    return marks_of(NAME, MASTER, _answers())


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: f"{w.exercise}: {w.mistake}")
def test_a_mistake_fails_in_the_record_that_is_about_it(
    wrong: Wrong, marks: dict[str, Mark]
) -> None:
    mark = marks[f"{wrong.exercise}: {wrong.mistake}"]

    assert mark.status == "not yet"
    assert mark.differences, mark.reason
    first = mark.differences[0]
    assert (first.record, mark.reason) == (wrong.record, mark.reason)
    assert first.hint
    assert mark.reason.endswith(first.hint)


@pytest.mark.parametrize("exercise", ANOTHER_WAY)
def test_another_right_answer_passes(exercise: str, marks: dict[str, Mark]) -> None:
    mark = marks[f"{exercise}: in another way"]

    assert (mark.status, mark.reason) == ("passed", "")


def test_a_wait_that_overflows_is_told_as_the_learners_own_error(marks: dict[str, Mark]) -> None:
    mark = marks["jitter: overflows"]

    assert mark.status == "not yet"
    assert "OverflowError" in mark.reason
    assert "multiplier**attempt" in mark.reason
