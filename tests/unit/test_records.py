"""Typed records: what is declared is checked, and what is written is read back."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections import deque, namedtuple
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
from builders import json_values, plain_values, printed, scalars, shown
from hypothesis import example, given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.course import records
from aiinfra_lab.course.comparison import compare
from aiinfra_lab.course.conditions import count
from aiinfra_lab.course.records import (
    EXERCISE_MIME,
    RECORD_MIME,
    Record,
    canonical,
    decode,
    encode,
    format_value,
    holds_records,
    is_number,
    plain,
    records_in,
    show,
)

quick = law(deadline=None, max_examples=30)


def through_json(record):
    # allow_nan=False: a record must survive every JSON reader.
    return Record.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False)))


# --- what a record may declare -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "  ", "\n"])
def test_a_record_needs_a_name(name):
    with pytest.raises(ValueError, match="needs a name"):
        Record(name, 1)


def test_an_unknown_rule_is_refused_by_the_list_of_those_there_are():
    with pytest.raises(ValueError, match=r"equal, at_most.*trace, found 'about'"):
        Record("x", 1, rule="about")


@pytest.mark.parametrize("field", ["rel", "abs"])
@pytest.mark.parametrize("tolerance", [-0.1, math.nan, math.inf, "0.1", None, True])
def test_a_tolerance_is_a_finite_number_that_is_not_negative(field, tolerance):
    with pytest.raises(ValueError, match=f"{field} of record 'x' must be a number >= 0"):
        Record("x", 1, **{field: tolerance})


@pytest.mark.parametrize("rule", ["at_most", "at_least"])
def test_a_bound_is_set_to_a_number_and_is_one(rule):
    with pytest.raises(ValueError, match="needs a number as value"):
        Record("x", "5", rule=rule)
    with pytest.raises(ValueError, match="needs a number as value"):
        Record("x", True, rule=rule)
    with pytest.raises(ValueError, match="needs a number as bound"):
        Record("x", 5, rule=rule, bound="6")
    assert Record("x", 5, rule=rule).bound is None


@pytest.mark.parametrize(
    "bound", [None, 5, [5], [1, 2, 3], [2, 1], ["1", "2"], [math.nan, 1], [0, True], {"low": 1}]
)
def test_an_interval_is_two_numbers_in_order(bound):
    with pytest.raises(ValueError, match="between needs bound="):
        Record("x", 5, rule="between", bound=bound)


def test_between_needs_a_number():
    with pytest.raises(ValueError, match="needs a number as value"):
        Record("x", [5], rule="between", bound=[1, 9])
    assert Record("x", 5, rule="between", bound=[5, 5]).bound == [5, 5]


@pytest.mark.parametrize("value", ["ab", 5, {"a": 1}, None])
def test_a_multiset_is_a_list(value):
    with pytest.raises(ValueError, match="multiset compares lists"):
        Record("x", value, rule="multiset")


@pytest.mark.parametrize("field", ["rel", "abs"])
def test_a_multiset_with_a_tolerance_holds_numbers(field):
    with pytest.raises(ValueError, match="holds numbers"):
        Record("x", [[1.0, 2.0]], rule="multiset", **{field: 0.1})
    assert Record("x", [1.0], rule="multiset", **{field: 0.1}).value == [1.0]
    assert Record("x", [["a"]], rule="multiset").value == [["a"]]


@pytest.mark.parametrize("value", [5, [1, 2], {"inputs": 1}, {"inputs": 1, "outputs": 2, "x": 3}])
def test_a_trace_has_inputs_and_outputs(value):
    with pytest.raises(ValueError, match="needs inputs and outputs"):
        Record("x", value, rule="trace", bound=[count(1)])


@pytest.mark.parametrize("bound", [None, [], "count", 5])
def test_a_trace_has_conditions(bound):
    with pytest.raises(ValueError, match="needs a list of conditions"):
        Record("x", {"inputs": 1, "outputs": [1]}, rule="trace", bound=bound)


def test_the_declaration_is_everything_but_the_value():
    assert Record("x", 1, "s", 0.1, 0.2, "at_most", 3, "Think.").declaration == {
        "name": "x",
        "unit": "s",
        "rel": 0.1,
        "abs": 0.2,
        "rule": "at_most",
        "bound": 3,
        "hint": "Think.",
    }


# --- JSON ----------------------------------------------------------------------------------------


@quick
@given(plain_values)
@example([math.nan, {"a": [math.inf, -math.inf]}])
@example({"$float": "nan", "other": 1})
@example(10**400)
@example(-0.0)
def test_every_plain_value_survives_json(value):
    record = Record("x", value)
    again = through_json(record)
    assert compare(record, again) is None
    assert repr(again.value) == repr(value)


@quick
@given(
    st.text(min_size=1, max_size=5).filter(str.strip),
    st.text(max_size=5),
    st.floats(0, 1e9),
    st.floats(0, 1e9),
    st.floats(allow_nan=False),
    st.text(max_size=5),
)
def test_every_declaration_survives_json(name, unit, rel, abs_, bound, hint):
    record = Record(name, 1, unit, rel, abs_, "at_most", bound, hint)
    assert through_json(record) == record


def test_infinite_limits_survive_json():
    record = Record("x", 1, rule="between", bound=[-math.inf, math.inf])
    assert through_json(record) == record


def test_a_record_says_its_version():
    assert Record("x", 1).to_json()["v"] == records.VERSION == 1


def reads_or_refuses(data):
    try:
        return Record.from_json(data)
    except ValueError:
        return None


@quick
@given(json_values)
def test_whatever_json_is_no_record_is_a_value_error(data):
    assert reads_or_refuses(data) is None


@quick
@given(
    st.dictionaries(
        st.sampled_from(["name", "value", "unit", "rel", "abs", "rule", "bound", "hint", "more"]),
        json_values
        | st.sampled_from([*records.RULES, {"$float": "nan"}, {"$float": []}, {"$float": "x"}]),
    )
)
def test_a_forged_field_gives_a_sound_record_or_a_value_error(fields):
    record = reads_or_refuses({"v": 1, "name": "x", "value": 1} | fields)
    if record is not None:
        assert through_json(record).declaration.keys() == record.declaration.keys()


def test_json_nested_beyond_all_measure_is_a_value_error():
    value = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="not a record"):
        Record.from_json({"v": 1, "name": "x", "value": value})
    while value:  # taken apart by hand: Python's own way is recursive
        value = value[0]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (None, "version 1"),
        ([], "version 1"),
        ({"name": "x", "value": 1}, "version 1"),
        ({"v": 2, "name": "x", "value": 1}, "version 1"),
        ({"v": 1, "value": 1}, "name"),
        ({"v": 1, "name": "x"}, "value"),
        ({"v": 1, "name": "x", "value": 1, "tolerance": 5}, "no field 'tolerance'"),
        ({"v": 1, "name": 5, "value": 1}, "are text"),
        ({"v": 1, "name": "x", "value": 1, "unit": None}, "are text"),
        ({"v": 1, "name": "x", "value": 1, "rule": ["equal"]}, "are text"),
        ({"v": 1, "name": "x", "value": 1, "hint": 1}, "are text"),
        ({"v": 1, "name": "x", "value": {"$float": "1e5"}}, "1e5"),
        ({"v": 1, "name": "x", "value": 1, "rel": -1}, "rel"),
    ],
)
def test_what_is_wrong_with_a_record_is_named(data, sentence):
    with pytest.raises(ValueError, match=sentence):
        Record.from_json(data)


@quick
@given(plain_values)
def test_decode_is_the_inverse_of_encode(value):
    assert repr(decode(encode(value))) == repr(value)


# --- plain ---------------------------------------------------------------------------------------


@quick
@given(plain_values)
def test_a_plain_value_stays_as_it_is(value):
    assert repr(plain(value)) == repr(value)


@dataclasses.dataclass
class Point:
    x: object
    y: object


Pair = namedtuple("Pair", "left right")
Level = enum.IntEnum("Level", {"LOW": 1})
Word = enum.StrEnum("Word", {"YES": "yes"})


class Seconds(float):
    pass


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array(3), 3),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array([True, False]), [True, False]),
        (np.array([]), []),
        ([np.float64(1), (np.int8(2),)], [1.0, [2]]),
        (Point(1, np.array([2])), {"x": 1, "y": [2]}),
        ([Point(1, Point(2, None))], [{"x": 1, "y": {"x": 2, "y": None}}]),
        (Pair(1, "b"), [1, "b"]),
        ((1, (2, 3)), [1, [2, 3]]),
        (range(3), [0, 1, 2]),
        (deque([1, 2]), [1, 2]),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset("ba"), ["a", "b"]),
        (set(), []),
        (Level.LOW, 1),
        (Word.YES, "yes"),
        (Seconds(1.5), 1.5),
        ({1: 0, 2.5: 0, np.int64(3): 0, "k": 0}, {"1": 0, "2.5": 0, "3": 0, "k": 0}),
        (MappingProxyType({"a": (1,)}), {"a": [1]}),
        ({"a": {"b": {1}}}, {"a": {"b": [1]}}),
    ],
)  # fmt: skip
def test_plain_turns_pythons_and_numpys_values_into_jsons(value, expected):
    found = plain(value)
    assert found == expected
    assert type(found) is type(expected)
    assert json.loads(json.dumps(encode(found))) == expected


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (object(), "object"),
        (1 + 2j, "complex"),
        (iter([1]), "list_iterator"),
        (Point, "type"),
        ([{"a": SimpleNamespace()}], "SimpleNamespace"),
        ({(1, 2): 3}, "tuple"),
        ({None: 1}, "NoneType"),
        (np.datetime64("2026-01-01"), "date"),
        (enum.Enum("Colour", "RED").RED, "Colour"),
    ],
)
def test_what_has_no_plain_form_is_refused_by_its_type(value, kind):
    with pytest.raises(TypeError, match=f"found {kind}"):
        plain(value)


def test_two_keys_that_become_one_text_are_refused():
    with pytest.raises(TypeError, match="the same text"):
        plain({1: "a", "1": "b"})


def test_the_key_of_special_floats_is_refused():
    with pytest.raises(TypeError, match="special float"):
        plain({"$float": "nan"})


@quick
@given(st.sets(scalars.filter(lambda v: v == v), max_size=6))
def test_a_set_has_one_plain_form_however_it_was_filled(items):
    one, other = set(), set()
    for item in items:
        one.add(item)
    for item in sorted(items, key=repr, reverse=True):
        other.add(item)
    assert plain(one) == plain(other)
    assert len(plain(one)) == len(items)


# --- canonical, is_number, format_value ----------------------------------------------------------


@quick
@given(plain_values, plain_values)
@example(1, True)
@example(0.0, -0.0)
@example(1, 1.0)
@example("1", 1)
@example([1], [1.0])
@example({"a": 0.5}, {"a": 0.25})
@example({"a": 1, "b": 2}, {"b": 2.0, "a": 1.0})
def test_canonical_texts_are_the_same_exactly_for_equal_values(a, b):
    equal = compare(Record("x", a), Record("x", b)) is None
    assert (canonical(a) == canonical(b)) == equal


@pytest.mark.parametrize("value", [1, 1.5, math.nan, 10**400])
def test_numbers_are_numbers(value):
    assert is_number(value)


@pytest.mark.parametrize("value", [True, False, "1", None, [1], 1j])
def test_a_truth_value_is_no_number(value):
    assert not is_number(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456789, "0.123457"),
        (1e-9, "1e-09"),
        (3, "3"),
        (True, "True"),
        (None, "None"),
        ("a b", "a b"),
        ([1.0, "a", None], "[1, a, None]"),
        ({"k": [0.5]}, "{k: [0.5]}"),
        (math.nan, "nan"),
    ],
)
def test_values_are_written_for_people(value, text):
    assert format_value(value) == text


@quick
@given(st.text(min_size=161), st.integers(20, 160))
def test_a_long_value_is_cut_in_the_middle(value, width):
    text = format_value(value, width)
    half = (width - 3) // 2
    assert len(text) <= width
    assert text == f"{value[:half]} … {value[-half:]}"
    assert format_value(value[:width], width) == value[:width]


# --- text and show -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (Record("accuracy", 0.972222222), "accuracy: 0.972222"),
        (Record("p95", 12.5, "ms"), "p95: 12.5 ms"),
        (
            Record("p95", 12.5, "ms", rule="at_most", bound=20),
            "p95: 12.5 ms  (expected at most 20 ms)",
        ),
        (Record("n", 5, rule="at_least", bound=3), "n: 5  (expected at least 3)"),
        (Record("n", 5, rule="at_least"), "n: 5"),
        (
            Record("p", 1, "s", rule="between", bound=[0.5, 2]),
            "p: 1 s  (expected between 0.5 and 2 s)",
        ),
        (Record("items", ["b", "a"], rule="multiset"), "items: [b, a]"),
    ],
)
def test_a_record_reads_as_one_line(record, text):
    assert record.text() == text


def test_show_displays_the_record_beside_its_text(monkeypatch):
    bundles = []
    monkeypatch.setattr(records, "display_bundle", bundles.append)
    show("share", np.float64(0.5), unit="%", rel=0.1, abs=0.2, rule="between", bound=(0, 1))
    (bundle,) = bundles
    assert bundle["text/plain"] == "share: 0.5 %  (expected between 0 and 1 %)"
    assert Record.from_json(bundle[RECORD_MIME]) == Record(
        "share", 0.5, "%", 0.1, 0.2, "between", [0, 1]
    )


def test_outside_a_notebook_show_prints(capsys):
    show("accuracy", 0.9722, abs=0.02)
    assert capsys.readouterr().out == "accuracy: 0.9722\n"


# --- records in outputs --------------------------------------------------------------------------


def exercise_output(*items):
    data = {"v": 1, "exercise": "e", "records": list(items), "raised": None}
    return {"output_type": "display_data", "metadata": {}, "data": {EXERCISE_MIME: data}}


A, B, C = Record("a", 1), Record("b", [math.nan]), Record("c", "z")


def test_records_are_found_in_order_among_other_outputs():
    outputs = [
        printed("hello"),
        *shown(A),
        {"output_type": "display_data", "data": {"text/plain": "x"}},
        exercise_output(B.to_json(), C.to_json()),
        *shown(A),
        {"output_type": "error", "ename": "E"},
        {"output_type": "display_data", "data": "no mapping"},
    ]
    assert [record.name for record in records_in(outputs)] == ["a", "b", "c", "a"]


@pytest.mark.parametrize(
    "output",
    [
        {"data": {RECORD_MIME: {"v": 1}}},
        {"data": {RECORD_MIME: None}},
        {"data": {EXERCISE_MIME: None}},
        {"data": {EXERCISE_MIME: []}},
        {"data": {EXERCISE_MIME: {}}},
        {"data": {EXERCISE_MIME: {"records": {}}}},
        exercise_output({"v": 9}),
    ],
)
def test_an_output_that_claims_to_be_a_record_and_is_none_is_a_value_error(output):
    with pytest.raises(ValueError, match="not a"):
        records_in([output])


def test_an_output_with_a_record_or_an_exercise_holds_records_and_no_other():
    assert holds_records(shown(A)[0])
    assert holds_records(exercise_output())
    assert not holds_records(printed("a: 1"))
    assert not holds_records({"data": {"text/plain": "a: 1"}})
    assert not holds_records({"data": None})
