"""The comparator says yes exactly where its rules do, and has an answer to anything."""

from __future__ import annotations

import itertools
import math

import pytest
from builders import integers, numbers, plain_values, scalars
from hypothesis import assume, example, given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.course.comparison import compare, compare_all
from aiinfra_lab.course.conditions import count, each_between, same_items
from aiinfra_lab.course.records import RULES, Record

quick = law(deadline=None, max_examples=30)
moderate = st.floats(-1e6, 1e6) | st.integers(-1000, 1000)
tolerances = st.just(0.0) | st.floats(0, 0.5)


def difference(reference, found, **declaration):
    return compare(Record("x", reference, **declaration), Record("x", found, **declaration))


def agree(reference, found, **declaration):
    return difference(reference, found, **declaration) is None


# --- equal ---------------------------------------------------------------------------------------


@quick
@given(plain_values, tolerances, tolerances)
def test_every_value_equals_itself(value, rel, abs_):
    assert agree(value, value, rel=rel, abs=abs_)


@quick
@given(moderate, st.floats(-3, 3), tolerances, tolerances)
@example(0.0, 1.0, 0.5, 0.0)
@example(100.0, -1.0, 0.25, 0.0)
def test_numbers_agree_exactly_within_the_tolerance(expected, step, rel, abs_):
    tolerance = max(rel * abs(expected), abs_)
    found = expected + step * tolerance
    assert agree(expected, found, rel=rel, abs=abs_) == (abs(found - expected) <= tolerance)


@pytest.mark.parametrize(
    ("found", "rel", "abs_", "verdict"),
    [
        (102.0, 0.02, 0.0, True),
        (98.0, 0.02, 0.0, True),
        (102.1, 0.02, 0.0, False),
        (97.9, 0.02, 0.0, False),
        (102.0, 0.0, 2.0, True),
        (102.1, 0.0, 2.0, False),
        (103.0, 0.03, 2.0, True),  # the larger of the two counts, not their sum
        (104.0, 0.03, 2.0, False),
        (100.0000001, 0.0, 0.0, False),
    ],
)
def test_the_tolerance_is_the_larger_of_rel_times_the_reference_and_abs(found, rel, abs_, verdict):
    assert agree(100.0, found, rel=rel, abs=abs_) is verdict


def test_the_scale_of_rel_is_the_reference_alone():
    assert agree(100.0, 110.0, rel=0.1)
    assert not agree(110.0, 99.0 - 1e-9, rel=0.1)
    assert not agree(0.0, 1e-9, rel=0.5)


@quick
@given(moderate, st.floats(-1, 1), tolerances, tolerances, tolerances, tolerances)
def test_a_wider_tolerance_never_refuses_what_a_narrower_accepts(a, step, rel, abs_, more, most):
    b = a + step * max(rel * abs(a), abs_)
    assume(agree(a, b, rel=rel, abs=abs_))
    assert agree(a, b, rel=rel + more, abs=abs_)
    assert agree(a, b, rel=rel, abs=abs_ + most)


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        (1, True),
        (0, False),
        (1.0, True),
        (True, 1),
        (False, 0.0),
        ([1, 0], [True, 0]),
        ({"a": 1}, {"a": True}),
        (1, "1"),
        ("1", 1),
        (None, False),
        (None, 0),
        ("", None),
        ("a", "A"),
        ([], {}),
        ([], None),
        ([1], 1),
        (1, [1]),
        ({"a": 1}, [1]),
        (True, False),
    ],
)
def test_values_of_different_kinds_differ_however_wide_the_tolerance(expected, found):
    assert not agree(expected, found, rel=1e9, abs=1e9)


@quick
@given(st.floats(allow_nan=False) | integers)
def test_nan_equals_nan_alone(number):
    assert agree(math.nan, math.nan)
    assert not agree(math.nan, number, rel=1e300, abs=1e300)
    assert not agree(number, math.nan, rel=1e300, abs=1e300)


@quick
@given(st.floats(allow_infinity=False) | integers)
def test_an_infinity_equals_itself_alone(number):
    for infinity in (math.inf, -math.inf):
        assert agree(infinity, infinity)
        assert not agree(infinity, -infinity, rel=1e300, abs=1e300)
        assert not agree(1e300, infinity, rel=1e300)
        assert not agree(infinity, number, rel=1.0, abs=1e300)
        assert not agree(number, infinity, rel=1.0, abs=1e300)


def test_whole_numbers_beyond_floats_are_compared_exactly():
    assert agree(2**53 + 1, 2**53 + 1)
    assert not agree(2**53 + 1, 2**53)
    assert agree(10**400, 10**400)
    assert not agree(10**400, 10**400 + 1)
    assert not agree(1.0, 10**400, rel=1e300)


def test_the_tolerance_holds_for_every_number_inside_a_value():
    for expected, near, far in (
        ([100.0, "a"], [102.0, "a"], [106.0, "a"]),
        ({"a": {"b": 100.0}}, {"a": {"b": 102.0}}, {"a": {"b": 106.0}}),
        ([{"a": [100.0]}], [{"a": [98.0]}], [{"a": [94.0]}]),
    ):
        for tolerance in ({"rel": 0.05}, {"abs": 5.0}):
            assert agree(expected, near, **tolerance)
            assert not agree(expected, far, **tolerance)
            assert not agree(expected, near)


def test_an_integer_and_its_float_agree():
    assert agree(3, 3.0)
    assert agree([1.0, {"a": 2.0}], [1, {"a": 2}])


@quick
@given(st.lists(scalars, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_a_list_matters(items, random):
    other = list(items)
    random.shuffle(other)
    same = all(agree(a, b) for a, b in zip(items, other, strict=True))
    assert agree(items, other) == same


@quick
@given(st.lists(plain_values, max_size=5), plain_values)
def test_one_item_more_or_less_differs(items, extra):
    assert not agree(items, [*items, extra])
    assert not agree([*items, extra], items)


@quick
@given(st.dictionaries(st.text(max_size=5), plain_values, min_size=1, max_size=5), plain_values)
def test_a_key_more_less_or_renamed_differs(mapping, value):
    key = next(iter(mapping))
    fewer = {k: v for k, v in mapping.items() if k != key}
    assert not agree(mapping, fewer)
    assert not agree(fewer, mapping)
    assert not agree(mapping, fewer | {key + "!": mapping[key]} | {key + "?": value})
    renamed = key + "!" * 9
    assert not agree(mapping, fewer | {renamed: mapping[key]})


def test_the_order_of_keys_does_not_matter():
    assert agree({"a": 1, "b": 2}, {"b": 2, "a": 1})


@pytest.mark.parametrize(
    ("expected", "found", "where", "words"),
    [
        ([1, [2, 3]], [1, [2, 4]], "[1][1]", ("3", "4")),
        ({"a": {"b": [5]}}, {"a": {"b": [6]}}, "['a']['b'][0]", ("5", "6")),
        ([1, 2], [1], "", ("2 items", "1 items")),
        ({"a": [1]}, {"a": [1, 2]}, "['a']", ("1 items", "2 items")),
        ({"a": 1}, {"b": 1}, "", ("keys ['a']", "keys ['b']")),
        ([{"a": 1}], [{}], "[0]", ("keys ['a']", "keys []")),
        ([1, 9, 9], [1, 2, 3], "[1]", ("9", "2")),
        ("yes", "no", "", ("yes", "no")),
    ],
)
def test_a_difference_says_where_the_first_one_is(expected, found, where, words):
    result = difference(expected, found)
    assert (result.where, (result.expected, result.found)) == (where, words)


@quick
@given(scalars, scalars)
@example(0.12345678, 0.12345679)
@example(1, "1")
@example(True, "True")
@example(None, "None")
def test_the_two_values_of_a_difference_look_different(expected, found):
    assume(not agree(expected, found))
    result = difference(expected, found)
    assert result.expected != result.found


def test_a_difference_reads_as_a_sentence_and_carries_the_references_hint():
    reference = Record("loss", [1.0, 2.0], hint="Divide by n.")
    result = compare(reference, Record("loss", [1.0, 3.0]))
    assert str(result) == "loss at [1]: expected 2, found 3"
    assert result.hint == "Divide by n."
    assert str(difference(1, 2)) == "x: expected 1, found 2"


# --- the declaration -----------------------------------------------------------------------------

FORGERIES = [
    ("name", "y"),
    ("unit", "ms"),
    ("rel", 0.1),
    ("abs", 0.1),
    ("rule", "at_least"),
    ("bound", 2.0),
    ("bound", None),
]


@pytest.mark.parametrize(("field", "forged"), FORGERIES)
def test_a_forged_declaration_differs_even_where_the_value_agrees(field, forged):
    declared = {"name": "x", "unit": "s", "rel": 0.0, "abs": 0.0, "rule": "at_most", "bound": 1.0}
    reference = Record(value=0.5, **declared)
    assert compare(reference, Record(value=0.5, **declared)) is None
    found = Record(value=0.5, **(declared | {field: forged}))
    result = compare(reference, found)
    if field == "name":
        assert (result.record, result.expected, result.found) == ("record", "x", "y")
    else:
        assert result.record == "x"
        assert result.expected.startswith(f"{field} ")


@quick
@given(st.floats(0, 1), st.floats(0, 1))
def test_a_tolerance_is_never_loosened_nor_tightened_by_the_found_record(wanted, forged):
    assume(wanted != forged)
    assert compare(Record("x", 1.0, rel=wanted), Record("x", 1.0, rel=forged)) is not None
    assert compare(Record("x", 1.0, abs=wanted), Record("x", 1.0, abs=forged)) is not None


def test_a_forged_declaration_comes_with_the_references_hint():
    result = compare(Record("x", 1, hint="Think."), Record("x", 1, abs=9.0))
    assert result.hint == "Think."


def test_conditions_of_a_trace_cannot_be_replaced():
    value = {"inputs": 1, "outputs": [1]}
    reference = Record("x", value, rule="trace", bound=[count(1)])
    found = Record("x", value, rule="trace", bound=[each_between(0, 9)])
    assert compare(reference, found).expected.startswith("bound ")


def test_the_hint_is_no_demand():
    assert compare(Record("x", 1, hint="a"), Record("x", 1, hint="b")) is None


# --- at_most, at_least, between ------------------------------------------------------------------


@quick
@given(moderate, st.floats(-3, 3), tolerances, tolerances)
def test_at_most_and_at_least_keep_the_bound_widened_by_the_tolerance(limit, step, rel, abs_):
    slack = max(rel * abs(limit), abs_)
    found = limit + step * (slack or 1.0)
    wide = {"rel": rel, "abs": abs_, "bound": limit}
    assert agree(limit, found, rule="at_most", **wide) == (found <= limit or found - limit <= slack)
    assert agree(limit, found, rule="at_least", **wide) == (
        found >= limit or limit - found <= slack
    )


@pytest.mark.parametrize(
    ("rule", "bound", "verdicts"),
    [
        ("at_most", 10, {-1e9: True, 9: True, 10: True, 11: True, 11.01: False, 1e9: False}),
        ("at_least", 10, {-1e9: False, 8.99: False, 9: True, 10: True, 1e9: True}),
        ("between", [10, 20], {8.9: False, 9: True, 15: True, 21: True, 21.1: False, 30: False}),
    ],
)
def test_the_bounds_are_included_and_widened_by_abs(rule, bound, verdicts):
    for found, verdict in verdicts.items():
        assert agree(15, found, rule=rule, bound=bound, abs=1.0) is verdict, found


def test_an_interval_is_widened_by_rel_at_each_end():
    wide = {"rule": "between", "bound": [100, 1000], "rel": 0.1}
    assert agree(500, 90, **wide)
    assert agree(500, 1100, **wide)
    assert not agree(500, 89.9, **wide)
    assert not agree(500, 1100.1, **wide)


@quick
@given(numbers.filter(lambda number: number == number), st.sampled_from(["at_most", "at_least"]))
def test_without_a_bound_the_references_value_is_the_limit_and_keeps_itself(value, rule):
    assert agree(value, value, rule=rule)


def test_without_a_bound_the_references_value_is_the_limit():
    assert agree(5, 4, rule="at_most")
    assert not agree(5, 6, rule="at_most")
    assert agree(5, 6, rule="at_least")
    assert not agree(5, 4, rule="at_least")


def test_a_bound_counts_and_the_references_value_does_not():
    assert agree(5, 9, rule="at_most", bound=10)
    assert not agree(50, 20, rule="at_most", bound=10)
    assert not agree(50, 20, rule="at_most", bound=0)


@pytest.mark.parametrize(
    ("rule", "bound"),
    [
        ("at_most", 1),
        ("at_most", math.inf),
        ("at_most", None),
        ("at_least", 1),
        ("at_least", -math.inf),
        ("between", [0, 2]),
        ("between", [-math.inf, math.inf]),
    ],
)
def test_nan_keeps_no_bound(rule, bound):
    assert not agree(1, math.nan, rule=rule, bound=bound, abs=1e300)


@pytest.mark.parametrize(
    ("rule", "bound", "inside", "outside"),
    [
        ("at_most", 5, -math.inf, math.inf),
        ("at_least", 5, math.inf, -math.inf),
        ("between", [0, math.inf], math.inf, -math.inf),
        ("between", [-math.inf, 0], -math.inf, math.inf),
        ("at_most", 10**400, 10**400, 10**400 + 1),
        ("between", [-(10**400), 10**400], -(10**400), 10**400 + 1),
    ],
)
def test_bounds_hold_at_the_ends_of_the_number_line(rule, bound, inside, outside):
    assert agree(1, inside, rule=rule, bound=bound, rel=0.5)
    assert not agree(1, outside, rule=rule, bound=bound, rel=0.5)


@pytest.mark.parametrize(
    ("rule", "bound", "words"),
    [
        ("at_most", 3, "at most 3"),
        ("at_least", 8, "at least 8"),
        ("between", [1, 2], "between 1 and 2"),
    ],
)
def test_a_broken_bound_is_told_in_words(rule, bound, words):
    result = difference(2, 5, rule=rule, bound=bound)
    assert (result.expected, result.found, result.where) == (words, "5", "")


# --- multiset ------------------------------------------------------------------------------------


@quick
@given(st.lists(plain_values, max_size=6), st.randoms(use_true_random=False))
def test_a_multiset_agrees_with_each_of_its_permutations(items, random):
    other = list(items)
    random.shuffle(other)
    assert agree(items, other, rule="multiset")


@quick
@given(st.permutations([math.nan, 3, 1.5, math.nan, 10**400, -math.inf]))
def test_a_multiset_of_numbers_with_nan_agrees_with_each_of_its_permutations(items):
    expected = [1.5, math.nan, -math.inf, 3, math.nan, 10**400]
    assert agree(expected, items, rule="multiset", rel=0.1)


@quick
@given(
    st.lists(st.integers(-6, 6), min_size=1, max_size=4),
    st.lists(st.integers(-6, 6), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.25, 0.5]),
    st.sampled_from([0.0, 1.0, 2.0]),
)
def test_a_multiset_of_numbers_agrees_exactly_where_some_pairing_does(expected, found, rel, abs_):
    def close(r, x):
        return abs(x - r) <= max(rel * abs(r), abs_)

    possible = len(expected) == len(found) and any(
        all(map(close, expected, order)) for order in itertools.permutations(found)
    )
    assert agree(expected, found, rule="multiset", rel=rel, abs=abs_) == possible


@pytest.mark.parametrize("tolerance", [{"rel": 0.1}, {"abs": 5.0}])
def test_numbers_of_a_multiset_agree_within_the_tolerance(tolerance):
    assert agree([50.0, 200.0, 100.0], [104.0, 196.0, 46.0], rule="multiset", **tolerance)
    assert not agree([50.0, 200.0, 100.0], [112.0, 196.0, 46.0], rule="multiset", **tolerance)
    assert not agree([50.0, 100.0], [50.5, 100.5], rule="multiset")


@quick
@given(st.permutations([1, True, 0, False, 1.0, -0.0]))
def test_in_a_multiset_truth_and_numbers_stay_apart_in_each_permutation(items):
    assert agree([True, 1, 1, 0, False, 0], items, rule="multiset")
    assert not agree([True, True, 1, 0, False, 0], items, rule="multiset")


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ([1, 1, 2], [1, 2, 2]),
        (["a", "a", "b"], ["a", "b", "b"]),
        ([1, 2], [1, "2"]),
        ([1, 2], [1, 2, 2]),
        (["a", "b"], ["a", "a"]),
        (["a", "b"], ["a"]),
        ([1, 0], [True, 0]),
        ([True], [1]),
        (["1"], [1]),
        ([[1, 2]], [[2, 1]]),
        ([None], [0]),
        (["a", 1], ["a", 2]),
    ],
)
def test_a_multiset_counts_its_items_and_keeps_their_kinds(expected, found):
    assert not agree(expected, found, rule="multiset")
    assert not agree(found, expected, rule="multiset")


def test_within_a_multiset_of_pairs_an_integer_and_its_float_agree():
    assert agree([["a", 1], ["b", 0]], [["b", -0.0], ["a", 1.0]], rule="multiset")


@pytest.mark.parametrize(("expected", "found"), [([3, 1, 2], [1, 2, 4]), (["b", "a"], ["a", "c"])])
def test_a_place_in_a_multiset_is_told_as_one_in_sorted_order(expected, found):
    assert difference(expected, found, rule="multiset").where.startswith("sorted items[")


# --- trace ---------------------------------------------------------------------------------------

KEEP = [count(2), each_between(0, 10)]


def trace(inputs, outputs, **fields):
    value = {"inputs": inputs, "outputs": outputs}
    return Record("x", value, rule="trace", bound=KEEP, **fields)


def test_a_trace_accepts_every_output_that_keeps_the_conditions():
    assert compare(trace([1], [3, 4]), trace([1], [3, 4])) is None
    assert compare(trace([1], [3, 4]), trace([1], [9, 0])) is None


def test_a_trace_answers_the_references_inputs():
    result = compare(trace([1, 2], [3, 4]), trace([1, 5], [3, 4]))
    assert (result.where, result.expected, result.found) == ("inputs[1]", "2", "5")


def test_the_tolerance_of_a_trace_holds_for_its_inputs():
    assert compare(trace([100.0], [3, 4], rel=0.1), trace([109.0], [3, 4], rel=0.1)) is None
    assert compare(trace([100.0], [3, 4], abs=5.0), trace([104.0], [3, 4], abs=5.0)) is None
    assert compare(trace([100.0], [3, 4], rel=0.1), trace([111.0], [3, 4], rel=0.1)) is not None


@pytest.mark.parametrize("outputs", [[3], [3, 11], [3, 4, 5], [3, True], "34", None, {"0": 3}])
def test_a_trace_refuses_outputs_that_break_a_condition(outputs):
    result = compare(trace([1], [3, 4]), trace([1], outputs))
    assert result is not None
    assert result.where == "outputs"


def test_the_conditions_of_a_trace_see_the_references_outputs():
    reference, permuted, other = (
        Record("x", {"inputs": [], "outputs": outputs}, rule="trace", bound=[same_items()])
        for outputs in ([3, 4], [4, 3], [4, 4])
    )
    assert compare(reference, permuted) is None
    assert compare(reference, other) is not None


def test_the_first_broken_condition_is_told():
    result = compare(trace([1], [3, 4]), trace([1], [3, 40]))
    assert (result.expected, result.found) == ("output 1 between 0 and 10", "40")


# --- whatever is found ---------------------------------------------------------------------------

VALID = {
    "equal": (5, None),
    "at_most": (5, None),
    "at_least": (5, 4),
    "between": (5, [4, 6]),
    "multiset": ([5], None),
    "trace": ({"inputs": [5], "outputs": [5]}, [count(1)]),
}


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_a_comparison(rule):
    value, bound = VALID[rule]
    assert agree(value, value, rule=rule, bound=bound)


@quick
@given(plain_values, plain_values, tolerances)
def test_equal_has_a_verdict_on_anything(expected, found, rel):
    result = difference(expected, found, rel=rel)
    assert result is None or str(result).startswith("x")


@quick
@given(numbers, numbers, numbers, st.sampled_from(["at_most", "at_least"]))
def test_bounds_have_a_verdict_on_every_number(value, found, bound, rule):
    result = difference(value, found, rule=rule, bound=bound, rel=0.1)
    assert result is None or str(result).startswith("x")


@quick
@given(st.lists(numbers), st.lists(numbers))
def test_a_multiset_has_a_verdict_on_all_numbers(expected, found):
    result = difference(expected, found, rule="multiset", rel=0.1)
    assert result is None or str(result).startswith("x")


# --- whole cells ---------------------------------------------------------------------------------

A, B, C = Record("a", 1), Record("b", 2), Record("c", 3)


def test_cells_with_the_same_records_in_the_same_order_agree():
    assert compare_all([], []) == []
    assert compare_all([A, B], [A, B]) == []


def test_the_order_of_a_cells_records_matters():
    assert len(compare_all([A, B], [B, A])) == 2


def test_a_missing_record_differs_and_brings_its_hint():
    first, second = compare_all([A, B, Record("c", 3, hint="Go on.")], [A])
    assert (first.record, first.expected, first.found) == ("b", "2", "nothing")
    assert (second.record, second.hint) == ("c", "Go on.")


def test_a_record_too_many_differs():
    (only,) = compare_all([A], [A, C])
    assert (only.record, only.expected, only.found) == ("c", "no such record", "3")


def test_every_difference_of_a_cell_is_told_in_order():
    found = compare_all([A, B, C], [Record("a", 9), B, Record("c", 9)])
    assert [d.record for d in found] == ["a", "c"]


@quick
@given(st.lists(plain_values, max_size=4))
def test_a_cell_agrees_with_itself(values):
    records = [Record(f"r{index}", value) for index, value in enumerate(values)]
    assert compare_all(records, records) == []
