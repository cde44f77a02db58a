"""Conditions of a trace: each holds exactly where its sentence does, whatever a stranger sent."""

from __future__ import annotations

import math
import statistics

import pytest
from builders import plain_values, scalars
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.course import conditions
from aiinfra_lab.course.conditions import (
    ascending,
    broken_condition,
    busiest,
    check_conditions,
    count,
    distinct,
    each_between,
    mean_between,
    relative,
    same_items,
    spread_between,
)
from aiinfra_lab.course.records import plain

quick = law(deadline=None, max_examples=30)
moderate = st.lists(st.integers(-9, 9) | st.floats(-9, 9), max_size=6)
HUGE = 10**400


def keeps(condition, outputs, reference=()):
    # As in a record: conditions have been through plain().
    return broken_condition([plain(condition)], outputs, list(reference)) is None


@quick
@given(st.lists(scalars, max_size=5), st.integers(0, 6))
def test_count_is_the_number_of_outputs(outputs, n):
    assert keeps(count(n), outputs) == (len(outputs) == n)


@quick
@given(moderate, st.integers(-9, 9), st.integers(-9, 9))
def test_each_between_holds_where_every_output_lies_in_the_interval(outputs, low, high):
    expected = all(low <= value <= high for value in outputs)
    assert keeps(each_between(low, high), outputs) == expected


def test_the_limits_of_each_between_may_differ_from_output_to_output():
    assert keeps(each_between(0, (1, 2, 4)), [1, 2, 4])
    assert not keeps(each_between(0, (1, 2, 4)), [1, 2.1, 4])
    assert keeps(each_between([0, 5], 9), [0, 5])
    assert not keeps(each_between([0, 5], 9), [0, 4])
    assert not keeps(each_between([0, 5], [9, 9]), [0, 10])


@pytest.mark.parametrize(("low", "high"), [(0, [1, 1, 1]), ([0, 0, 0], 1), ([0, 0, 0], [1, 1, 1])])
def test_limits_for_each_output_demand_their_number_of_outputs(low, high):
    for outputs in ([1], [1, 1, 1, 1]):
        broken = broken_condition([each_between(low, high)], outputs, [])
        assert broken == ("3 outputs", f"{len(outputs)} outputs")


def test_each_between_names_the_first_output_outside():
    broken = broken_condition([each_between(0, 1)], [0.5, 2.0, 3.0], [])
    assert broken == ("output 1 between 0 and 1", "2")


@pytest.mark.parametrize("value", [True, "1", None, [1], math.nan])
@pytest.mark.parametrize(
    "condition",
    [
        each_between(-9, 9),
        mean_between(-9, 9),
        spread_between(-9, 9),
        busiest(9, 9),
        ascending(),
    ],
)
def test_what_is_no_number_breaks_conditions_on_numbers(condition, value):
    assert keeps(condition, [1, 1, 1])
    assert not keeps(condition, [value])
    assert not keeps(condition, [1, value, 1])


@quick
@given(moderate.filter(bool), st.floats(-9, 9), st.floats(0, 3))
def test_the_mean_lies_between_its_limits(outputs, low, width):
    mean = statistics.fmean(outputs)
    assert keeps(mean_between(low, low + width), outputs) == (low <= mean <= low + width)
    assert keeps(mean_between(mean, mean), outputs)


@quick
@given(moderate.filter(bool), st.floats(0, 5), st.floats(0, 3))
def test_the_spread_is_the_populations_standard_deviation(outputs, low, width):
    spread = statistics.pstdev(outputs)
    assert keeps(spread_between(low, low + width), outputs) == (low <= spread <= low + width)


def test_the_limits_of_a_statistic_are_included():
    assert keeps(mean_between(2, 3), [1, 3])
    assert keeps(mean_between(1, 2), [1, 3])
    assert keeps(spread_between(1, 2), [1, 3])
    assert not keeps(mean_between(2.1, 3), [1, 3])
    assert not keeps(mean_between(1, 1.9), [1, 3])


def test_a_statistic_of_nothing_lies_nowhere():
    assert not keeps(mean_between(-math.inf, math.inf), [])
    assert not keeps(spread_between(-math.inf, math.inf), [])


@pytest.mark.parametrize(
    "outputs",
    [[HUGE], [math.inf], [math.inf, -math.inf], [-HUGE, HUGE], [1, HUGE]],
)
@pytest.mark.parametrize("condition", [mean_between(0, 1), spread_between(0, 1)])
def test_a_statistic_of_numbers_beyond_floats_lies_nowhere(condition, outputs):
    assert not keeps(condition, outputs)


def test_a_mean_whose_sum_is_beyond_floats_lies_nowhere():
    assert not keeps(mean_between(0, math.inf), [1e308, 1e308, 1e308])


def test_a_statistic_that_is_off_is_told():
    assert broken_condition([mean_between(5, 6)], [1, 2], []) == ("a mean between 5 and 6", "1.5")
    expected, found = broken_condition([spread_between(5, 6)], [1, 3], [])
    assert (expected, found) == ("a standard deviation between 5 and 6", "1")


@quick
@given(st.lists(st.sampled_from([1, 1.0, True, "1", [1], None, 2]), max_size=8), st.integers(0, 8))
def test_distinct_counts_outputs_that_differ(outputs, at_least):
    kinds = {(type(v) is bool, repr(1) if v == 1 else repr(v)) for v in outputs}
    assert keeps(distinct(at_least), outputs) == (len(kinds) >= at_least)


@quick
@given(moderate, st.integers(0, 9), st.integers(0, 6))
def test_the_busiest_interval_is_the_fullest_that_begins_at_an_output(outputs, width, at_most):
    most = max((sum(a <= b <= a + width for b in outputs) for a in outputs), default=0)
    assert keeps(busiest(width, at_most), outputs) == (most <= at_most)


def test_the_ends_of_the_busiest_interval_are_included():
    assert keeps(busiest(1, 2), [0, 2, 1])
    assert not keeps(busiest(1, 1), [0, 1])
    assert keeps(busiest(0.9, 1), [0, 1, 2])
    assert not keeps(busiest(0, 2), [5, 5, 5])


def test_a_busy_interval_is_told_with_what_it_holds():
    expected, found = broken_condition([busiest(0.5, 2)], [1, 1.25, 3, 1.5], [])
    assert (expected, found) == ("at most 2 outputs within 0.5", "3 outputs within 0.5")


@pytest.mark.parametrize("outputs", [[HUGE, 0.5], [math.inf, 1], [-HUGE, HUGE]])
def test_numbers_beyond_floats_lie_in_no_interval(outputs):
    assert not keeps(busiest(0.5, 9), outputs)


@quick
@given(moderate)
def test_ascending_holds_where_no_output_is_smaller_than_the_one_before(outputs):
    assert keeps(ascending(), outputs) == (outputs == sorted(outputs))
    assert keeps(ascending(), sorted(outputs))


def test_nan_does_not_hide_a_descent():
    assert not keeps(ascending(), [1, math.nan, 0])
    assert keeps(ascending(), [-math.inf, 0, 0, math.inf])


@quick
@given(st.lists(plain_values, max_size=5), st.randoms(use_true_random=False), plain_values)
def test_same_items_holds_for_each_permutation_and_nothing_else(items, random, extra):
    other = list(items)
    random.shuffle(other)
    assert keeps(same_items(), other, items)
    assert not keeps(same_items(), [*other, extra], items)
    assert not keeps(same_items(), items, [*other, extra])


@pytest.mark.parametrize("outputs", [None, "ab", 5, {"0": 1}, (1, 2)])
def test_outputs_that_are_no_list_break_every_condition(outputs):
    assert broken_condition([distinct(0)], outputs, []) is not None


def test_all_conditions_must_hold_and_the_first_broken_one_is_told():
    keep = [count(3), each_between(0, 9), ascending()]
    assert broken_condition(keep, [1, 2, 3], []) is None
    assert broken_condition(keep, [1, 2], [])[0] == "3 outputs"
    assert broken_condition(keep, [1, 20, 3], [])[0] == "output 1 between 0 and 9"
    assert broken_condition(keep, [1, 3, 2], [])[0] == "output 2 not smaller than the one before"


EVERY = [
    count(2),
    each_between(0, 5),
    each_between([0, 0], [1, 1]),
    mean_between(0, 5),
    spread_between(0, 5),
    distinct(2),
    busiest(0.5, 2),
    ascending(),
    same_items(),
    relative(each_between(0, 1), count(2)),
]


@quick
@given(plain_values, st.lists(scalars, max_size=3))
def test_every_condition_has_a_verdict_on_anything(anything, outputs):
    for condition in EVERY:
        for found in (anything, outputs):
            broken = broken_condition([condition], found, [1, 2])
            assert broken is None or all(isinstance(words, str) for words in broken)


def test_every_condition_that_can_be_made_can_be_evaluated():
    check_conditions(EVERY)
    assert {condition[0] for condition in EVERY} == set(conditions._EVALUATORS)


@quick
@given(st.floats(0.1, 1e6), st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_relative_limits_are_shares_of_the_references_largest(scale, shares):
    outputs = [share * scale for share in shares]
    assert keeps(relative(each_between(0, 1.001)), outputs, [scale / 2, scale])
    assert not keeps(relative(each_between(0, 1)), [*outputs, 1.01 * scale], [scale])
    # The limits themselves, sent back as outputs, are no answer.
    assert not keeps(relative(mean_between(0.4, 0.85)), [0.6] * 3, [600.0])


def test_relative_limits_are_checked_like_others():
    with pytest.raises(ValueError, match="unknown condition 'descending'"):
        check_conditions([relative(["descending", {}])])
    with pytest.raises(ValueError, match="any answer would pass"):
        check_conditions([relative()])
    assert broken_condition([relative(count(1))], [HUGE], [1.0]) is not None


@pytest.mark.parametrize("none", [[], None, ()])
def test_a_trace_without_conditions_is_refused(none):
    with pytest.raises(ValueError, match="any answer would pass"):
        check_conditions(none)


def test_an_unknown_condition_is_refused_by_name():
    with pytest.raises(ValueError, match="unknown condition 'descending'"):
        check_conditions([count(1), ["descending", {}]])
