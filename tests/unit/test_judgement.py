"""The verdict on one cell: what a stranger's kernel sent is judged, never believed."""

from __future__ import annotations

import json

import pytest
from builders import answer, check, code, json_values, printed, shown
from hypothesis import given
from hypothesis import settings as law

from aiinfra_lab.course.exercises import Raised
from aiinfra_lab.course.judgement import differences_in, exercise_output, is_check, raised_in
from aiinfra_lab.course.records import EXERCISE_MIME, RECORD_MIME, Record

A, B = Record("a", 1.0, rel=0.1), Record("b", [2])


def emitted(*records, name="e", raised=None):
    output = exercise_output(name, [record.to_json() for record in records], "text")
    output["data"][EXERCISE_MIME]["raised"] = raised
    return output


STUB = {"type": "NotImplementedError", "message": "", "name": None, "where": ""}


def test_two_executions_with_agreeing_records_do_not_differ():
    assert differences_in([emitted(A, B)], [emitted(Record("a", 1.05, rel=0.1), B)]) == []
    assert differences_in(shown(A, B), shown(A, B)) == []
    assert differences_in([], []) == []
    assert differences_in([printed("1")], [printed("2")]) == []  # nbval's to compare


def test_what_is_printed_beside_the_records_does_not_matter():
    assert differences_in([emitted(A)], [printed("x"), emitted(A), printed("y")]) == []


def test_outputs_are_read_once_and_may_be_iterators():
    assert differences_in([emitted(A)], iter([emitted(A)])) == []
    assert differences_in(iter([emitted(A)]), [emitted(A)]) == []


def test_every_record_that_differs_is_told():
    found = differences_in([emitted(A, B)], [emitted(Record("a", 9.0, rel=0.1), Record("b", [3]))])
    assert [d.record for d in found] == ["a", "b"]


def test_a_check_that_emits_nothing_differs_in_everything():
    found = differences_in([emitted(A)], [])
    assert [(d.record, d.found) for d in found] == [("a", "nothing"), ("exercise", "none")]


def test_the_records_of_another_exercise_differ():
    (only,) = differences_in([emitted(A, name="mine")], [emitted(A, name="yours")])
    assert (only.record, only.expected, only.found) == ("exercise", "mine", "yours")


def test_an_exercise_that_is_emitted_twice_differs():
    assert differences_in([emitted(A)], [emitted(A), emitted()]) != []


def test_an_error_differs_even_where_all_records_agree_and_is_told_first():
    first, *_ = differences_in([emitted(A, B)], [emitted(A, raised={**STUB, "type": "KeyError"})])
    assert (first.record, first.expected, first.found) == ("check", "no error", "KeyError")
    assert len(differences_in([emitted(A)], [emitted(A, raised=STUB)])) == 1


def test_an_error_that_the_reference_has_too_does_not_differ():
    assert differences_in([emitted(A, raised=STUB)], [emitted(A, raised=STUB)]) == []


def test_the_error_that_ended_an_exercise_is_read():
    raised = {"type": "NameError", "message": "no f", "name": "f", "where": "line 1"}
    assert raised_in([printed("x"), emitted(A), emitted(A, raised=raised)]) == Raised(**raised)
    assert raised_in([printed("x"), emitted(A), {"data": "text"}]) is None


UNREADABLE = [
    5,
    [],
    "KeyError",
    {},
    {"type": "KeyError"},
    {**STUB, "more": "x"},
    {**STUB, "name": ["f"]},
    {**STUB, "message": {"a": 1}},
    {**STUB, "type": 5},
]


@pytest.mark.parametrize("raised", UNREADABLE)
def test_a_description_of_an_error_that_cannot_be_read_is_a_difference(raised):
    with pytest.raises(ValueError, match="cannot be read"):
        raised_in([emitted(raised=raised)])
    (only,) = differences_in([emitted(A)], [emitted(A, raised=raised)])
    assert "cannot be read" in only.found


@law(deadline=None, max_examples=60)
@given(json_values, json_values, json_values)
def test_whatever_a_stranger_sends_gets_a_verdict(record, exercise, raised):
    forged = {"v": 1, "exercise": "e", "records": [A.to_json()], "raised": raised}
    for data in (
        {RECORD_MIME: record},
        {EXERCISE_MIME: exercise},
        {EXERCISE_MIME: forged},
        {EXERCISE_MIME: forged | {"records": exercise, "exercise": record}},
        exercise,
    ):
        found = differences_in([emitted(A)], [{"data": data}])
        assert found or (data.get(EXERCISE_MIME) == forged and raised is None)


@pytest.mark.parametrize("depth", [200, 400, 900])
def test_json_as_deep_as_can_be_read_is_a_difference(depth):
    value = json.loads("[" * depth + "]" * depth)
    data = {**Record("a", 1).to_json(), "value": value}
    assert differences_in(shown(Record("a", 1)), [{"data": {RECORD_MIME: data}}])
    forged = emitted(A, name=value)
    assert differences_in([emitted(A)], [forged])


def test_a_check_is_a_graded_cell_that_is_no_answer():
    assert is_check(check("double"))
    assert not is_check(answer("double"))
    assert not is_check(code("try"))
    both = check("double")
    both["metadata"]["nbgrader"]["solution"] = True
    assert not is_check(both)
