"""Lab 06 finds the mistakes that people make with many ranks, and names them.

Each wrong answer differs from the master in one idea. Its exercise must fail in the record that is
about this idea, so that the first thing the learner reads is the right hint.
"""

from __future__ import annotations

import pytest
from lab06_answers import ALL, ANOTHER_WAY, RAISES, WRONG, Wrong
from tried_answers import edited, marks_of, read_master

from aiinfra_lab.course.checking import Mark

NAME = "06_distributed_training"
MASTER = read_master(NAME)


def _edited(exercise: str, mistake: str, edits: dict[str, str]) -> str:
    return edits[ALL] if ALL in edits else edited(MASTER, exercise, mistake, edits)


def _answers() -> dict[str, tuple[str, str]]:
    """Every answer that is tried: its name, its exercise and its source."""
    wrong = {
        f"{w.exercise}: {w.mistake}": (w.exercise, _edited(w.exercise, w.mistake, w.edits))
        for w in WRONG
    }
    right = {f"{name}: in another way": (name, source) for name, source in ANOTHER_WAY.items()}
    raises = {
        name: (exercise, _edited(exercise, name, edits))
        for name, (exercise, edits, _) in RAISES.items()
    }
    return wrong | right | raises


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


@pytest.mark.parametrize("name", RAISES)
def test_an_error_of_the_learner_is_told_in_its_own_words(
    name: str, marks: dict[str, Mark]
) -> None:
    _, _, words = RAISES[name]

    assert marks[name].status == "not yet"
    for word in words:
        assert word in marks[name].reason
