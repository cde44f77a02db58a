"""Draws: the same seed gives the same data, another seed or exercise gives other data."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import example, given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.course.draws import Draws

quick = law(deadline=None, max_examples=25)
seeds = st.integers(0, 2**32)
names = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8)

METHODS = {
    "outcomes": lambda draw: draw.outcomes(0.5, 80),
    "integer": lambda draw: draw.integer(0, 2**60),
    "integers": lambda draw: draw.integers(0, 10**6, 20),
    "number": lambda draw: draw.number(0, 1),
    "uniform": lambda draw: draw.uniform(0, 1, 5),
    "normal": lambda draw: draw.normal(0, 1, 5),
    "exponential": lambda draw: draw.exponential(1, 5),
    "lognormal": lambda draw: draw.lognormal(12, 0.2, 5),
    "sample": lambda draw: draw.sample(range(1000), 20),
    "choices": lambda draw: draw.choices(range(1000), 20),
    "shuffled": lambda draw: draw.shuffled(list(range(100))),
}


@pytest.mark.parametrize("method", METHODS)
def test_data_depend_on_the_seed_and_the_exercise_alone(method):
    data = METHODS[method](Draws(3, "e"))
    assert METHODS[method](Draws(3, "e")) == data
    assert METHODS[method](Draws(4, "e")) != data
    assert METHODS[method](Draws(3, "f")) != data


@quick
@given(seeds, seeds, names, names)
@example(1, 11, "1e", "e")
@example(0, 0, "e", "")
def test_two_streams_agree_exactly_where_seed_and_exercise_do(seed, other, name, another):
    same = (seed, name) == (other, another)
    draws = [Draws(s, n).integers(0, 2**40, 3) for s, n in ((seed, name), (other, another))]
    assert (draws[0] == draws[1]) == same


def test_what_one_draw_takes_the_next_does_not_get():
    draw = Draws(3, "e")
    assert draw.uniform(0, 1, 5) != draw.uniform(0, 1, 5)


@pytest.mark.parametrize("method", METHODS)
def test_a_learner_meets_pythons_own_types(method):
    data = METHODS[method](Draws(3, "e"))
    for item in data if isinstance(data, list) else [data]:
        assert type(item) in (bool, int, float)


@quick
@given(seeds, st.integers(-50, 50), st.integers(0, 3), st.integers(0, 30))
def test_whole_numbers_lie_between_their_limits(seed, low, width, n):
    draw = Draws(seed, "e")
    assert low <= draw.integer(low, low + width) <= low + width
    drawn = draw.integers(low, low + width, n)
    assert len(drawn) == n
    assert all(low <= number <= low + width for number in drawn)


def test_both_limits_of_whole_numbers_are_drawn():
    draw = Draws(0, "e")
    assert {draw.integer(1, 3) for _ in range(100)} == {1, 2, 3}
    assert set(draw.integers(1, 3, 100)) == {1, 2, 3}


@quick
@given(seeds, st.floats(-9, 9), st.floats(0.1, 9), st.integers(0, 30))
def test_numbers_lie_between_their_limits(seed, low, width, n):
    draw = Draws(seed, "e")
    assert low <= draw.number(low, low + width) <= low + width
    drawn = draw.uniform(low, low + width, n)
    assert len(drawn) == n
    assert all(low <= number <= low + width for number in drawn)


def test_the_parameters_of_each_distribution_are_its_own():
    draw, n = Draws(1, "e"), 4000
    normal = draw.normal(10, 2, n)
    assert statistics.fmean(normal) == pytest.approx(10, abs=0.2)
    assert statistics.pstdev(normal) == pytest.approx(2, abs=0.2)
    assert statistics.fmean(draw.exponential(5, n)) == pytest.approx(5, abs=0.5)
    latencies = draw.lognormal(12, 0.5, n)
    assert statistics.median(latencies) == pytest.approx(12, rel=0.05)
    assert min(latencies) > 0
    assert statistics.fmean(latencies) > 12.5  # the long tail
    assert sum(draw.outcomes(0.2, n)) / n == pytest.approx(0.2, abs=0.03)
    assert not any(draw.outcomes(0, 100))
    assert all(draw.outcomes(1, 100))


@quick
@given(seeds, st.lists(st.integers(), max_size=12), st.data())
def test_a_sample_takes_each_item_at_most_once(seed, items, data):
    n = data.draw(st.integers(0, len(items)))
    sample = Draws(seed, "e").sample(items, n)
    assert len(sample) == n
    left = list(items)
    for item in sample:
        left.remove(item)


def test_a_sample_of_more_than_there_is_is_refused():
    with pytest.raises(ValueError, match="only 3 items, 4 were asked for"):
        Draws(0, "e").sample("abc", 4)


@quick
@given(seeds, st.lists(st.integers(), max_size=12))
def test_shuffling_keeps_every_item(seed, items):
    before = list(items)
    assert sorted(Draws(seed, "e").shuffled(items)) == sorted(items)
    assert items == before


def test_choices_come_from_all_items_and_come_again():
    assert set(Draws(0, "e").choices("abc", 100)) == {"a", "b", "c"}
    assert len(Draws(0, "e").choices("abc", 100)) == 100
