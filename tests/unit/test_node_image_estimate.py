"""How long a build still takes: by what is usual, and by what was measured."""

from __future__ import annotations

from itertools import pairwise

import pytest

from aiinfra_lab.clock import ManualClock
from aiinfra_lab.kube.kind.node_image.estimate import Estimate, Meter, Task, duration

TASKS = [
    Task("a", "compile", 100.0),
    Task("b", "compile", 50.0),
    Task("c", "step", 60.0),
]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_before_anything_is_measured_it_is_the_usual_time(clock):
    assert Estimate(TASKS, clock).left_s == 210.0
    assert Estimate([], clock).left_s == 0.0


def test_as_fast_as_usual_the_time_runs_down_evenly(clock):
    estimate = Estimate(TASKS, clock)
    for task in TASKS:
        estimate.begin(task.name)
        clock.advance(task.seconds / 2)
        assert estimate.left_s == pytest.approx(210.0 - clock.monotonic())
        clock.advance(task.seconds / 2)
        assert estimate.end() == pytest.approx(task.seconds)
    assert estimate.left_s == 0.0
    assert estimate.share == 1.0


@pytest.mark.parametrize("pace", [0.1, 0.5, 2.0, 5.0])
def test_what_was_measured_corrects_what_is_left_of_its_kind_alone(clock, pace):
    estimate = Estimate(TASKS, clock)
    estimate.begin("a")
    clock.advance(100.0 * pace)
    estimate.end()
    compiling = estimate.left_s - 60.0  # the step has not been measured
    between = sorted((50.0, 50.0 * pace))
    assert between[0] < compiling < between[1]
    # A long measurement counts more than what is usual.
    assert abs(compiling - 50.0 * pace) < abs(compiling - 50.0)


def test_a_task_that_takes_too_long_does_not_end_soon_and_slows_the_others(clock):
    estimate = Estimate(TASKS, clock)
    estimate.begin("a")
    clock.advance(99.0)
    before = estimate.left_s
    clock.advance(200.0)
    assert estimate.left_s > before
    estimate.end()
    assert estimate.left_s > 50.0 + 60.0


def test_the_share_of_the_time_never_falls_and_ends_whole(clock):
    estimate, shares = Estimate(TASKS, clock), [0.0]
    for task, seconds in zip(TASKS, (400, 5, 90), strict=True):
        estimate.begin(task.name)
        for _ in range(seconds):
            clock.advance(1.0)
            shares.append(estimate.share)
        estimate.end()
    assert all(before <= after for before, after in pairwise(shares))
    assert shares[-1] < 1.0
    assert estimate.share == 1.0


def test_a_task_that_nobody_counted_costs_nothing(clock):
    estimate = Estimate(TASKS, clock)
    estimate.begin("known to nobody")
    clock.advance(500.0)
    assert estimate.end() == 500.0
    assert estimate.left_s == 210.0


def test_the_meter_shows_the_time_that_the_estimate_has(clock, capsys):
    with Meter(TASKS, "made", clock) as meter:
        with meter.task("a", "compiling a"):
            clock.advance(50.0)
            meter.tick()
            state = meter._bar.state
            assert (state.step, state.total) == (50, 210)
            assert state.eta_s == pytest.approx(160.0)
        with meter.task("c"):
            meter.say("a step")
    said = capsys.readouterr().err
    assert "aiinfra: compiling a; about 4 minutes left" in said
    assert "aiinfra: a step; about 2 minutes left" in said
    assert meter._bar.state.percent == 100.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (3.0, "a few seconds"),
        (30.0, "about half a minute"),
        (45.0, "about 1 minute"),
        (89.0, "about 1 minute"),
        (95.0, "about 2 minutes"),
        (510.0, "about 8 minutes"),
    ],
)
def test_a_duration_is_as_exact_as_an_estimate(seconds, words):
    assert duration(seconds) == words
