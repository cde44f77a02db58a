"""Conditions on the outputs of a task that has more than one right answer.

A condition is data, ``[name, arguments]``, so that it can travel in a record and be evaluated
where the submission does not run. A check cell makes it with the functions of the same name::

    ex.trace("delays", inputs=failures, outputs=delays, keep=[each_between(0, 8), distinct(900)])

To add one, write a maker and an evaluator below and enter both in ``_EVALUATORS``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from aiinfra_lab.course.records import canonical, format_value, is_number

Condition = list[Any]
Broken = tuple[str, str]  # what was demanded, what was found


def count(n: int) -> Condition:
    """There are exactly ``n`` outputs."""
    return ["count", {"n": n}]


def each_between(low: float | Sequence[float], high: float | Sequence[float]) -> Condition:
    """Every output is a number in ``[low, high]``; limits may differ from output to output."""
    return ["each_between", {"low": low, "high": high}]


def mean_between(low: float, high: float) -> Condition:
    """The mean of the outputs lies in ``[low, high]``."""
    return ["mean_between", {"low": low, "high": high}]


def spread_between(low: float, high: float) -> Condition:
    """The standard deviation (of the population) of the outputs lies in ``[low, high]``."""
    return ["spread_between", {"low": low, "high": high}]


def distinct(at_least: int) -> Condition:
    """At least so many outputs differ from one another."""
    return ["distinct", {"at_least": at_least}]


def busiest(width: float, at_most: int) -> Condition:
    """No interval of length ``width``, ends included, holds more than ``at_most`` outputs."""
    return ["busiest", {"width": width, "at_most": at_most}]


def ascending() -> Condition:
    """No output is smaller than the one before it."""
    return ["ascending", {}]


def same_items() -> Condition:
    """The outputs are the reference's outputs in any order."""
    return ["same_items", {}]


def relative(*keep: Condition) -> Condition:
    """The outputs, divided by the reference's largest, keep these conditions.

    For limits that are the answer, or nearly: a check cell that works them out shows them to
    whoever looks at its frames. The scale is known only where the submission does not run.
    """
    return ["relative", {"keep": list(keep)}]


def broken_condition(conditions: Any, outputs: Any, reference_outputs: Any) -> Broken | None:
    """The first of ``conditions`` that ``outputs`` break; None where all hold.

    ``outputs`` may be anything a stranger sent; the conditions are the author's.
    """
    if not isinstance(outputs, list):
        return "a list of outputs", format_value(outputs)
    for name, arguments in conditions:
        broken = _EVALUATORS[name](outputs, reference_outputs, **arguments)
        if broken:
            return broken
    return None


def check_conditions(conditions: Any) -> None:
    """Refuse a condition that no evaluator knows.

    Raises
    ------
    ValueError
        There is none, or one has an unknown name.
    """
    if not conditions:
        raise ValueError("a trace needs at least one condition, or any answer would pass")
    for name, arguments in conditions:
        if name not in _EVALUATORS:
            raise ValueError(f"unknown condition {name!r}")
        if name == "relative":
            check_conditions(arguments["keep"])


def _count(outputs: list[Any], _: Any, n: int) -> Broken | None:
    return None if len(outputs) == n else (f"{n} outputs", f"{len(outputs)} outputs")


def _each_between(outputs: list[Any], _: Any, low: Any, high: Any) -> Broken | None:
    lows = low if isinstance(low, list) else [low] * len(outputs)
    highs = high if isinstance(high, list) else [high] * len(outputs)
    for limits in (lows, highs):
        if len(limits) != len(outputs):
            return f"{len(limits)} outputs", f"{len(outputs)} outputs"
    for index, (value, least, most) in enumerate(zip(outputs, lows, highs, strict=True)):
        if not (is_number(value) and least <= value <= most):
            wanted = f"output {index} between {format_value(least)} and {format_value(most)}"
            return wanted, format_value(value)
    return None


def _mean_between(outputs: list[Any], _: Any, low: float, high: float) -> Broken | None:
    return _statistic_between("a mean", statistics.fmean, outputs, low, high)


def _spread_between(outputs: list[Any], _: Any, low: float, high: float) -> Broken | None:
    return _statistic_between("a standard deviation", statistics.pstdev, outputs, low, high)


def _statistic_between(
    words: str,
    statistic: Callable[[list[Any]], float],
    outputs: list[Any],
    low: float,
    high: float,
) -> Broken | None:
    wanted = f"{words} between {format_value(low)} and {format_value(high)}"
    if not outputs or not all(is_number(value) for value in outputs):
        return wanted, format_value(outputs)
    try:
        found = float(statistic(outputs)) if all(map(math.isfinite, outputs)) else math.nan
    except OverflowError:  # a stranger's numbers may be beyond what a float holds
        found = math.nan
    return None if low <= found <= high else (wanted, format_value(found))


def _distinct(outputs: list[Any], _: Any, at_least: int) -> Broken | None:
    found = len({canonical(value) for value in outputs})
    return None if found >= at_least else (f"at least {at_least} distinct outputs", f"{found}")


def _busiest(outputs: list[Any], _: Any, width: float, at_most: int) -> Broken | None:
    wanted = f"at most {at_most} outputs within {format_value(width)}"
    if not all(is_number(value) and -math.inf < value < math.inf for value in outputs):
        return wanted, format_value(outputs)
    try:
        ordered = sorted(map(float, outputs))
    except OverflowError:  # a stranger's numbers may be beyond what a float holds
        return wanted, format_value(outputs)
    # A busiest interval may as well begin at an output; what it holds are neighbours in order.
    most = first = 0
    for last, value in enumerate(ordered):
        while ordered[first] + width < value:
            first += 1
        most = max(most, last - first + 1)
    return None if most <= at_most else (wanted, f"{most} outputs within {format_value(width)}")


def _ascending(outputs: list[Any], _: Any) -> Broken | None:
    before = -math.inf
    for index, value in enumerate(outputs):
        if not (is_number(value) and before <= value):
            return f"output {index} not smaller than the one before", format_value(value)
        before = value
    return None


def _same_items(outputs: list[Any], reference: list[Any]) -> Broken | None:
    if sorted(map(canonical, outputs)) == sorted(map(canonical, reference)):
        return None
    return f"the items of {format_value(reference)}", format_value(outputs)


def _relative(outputs: list[Any], reference: list[Any], keep: list[Condition]) -> Broken | None:
    largest = max(reference)
    try:
        shares = [value / largest if is_number(value) else value for value in outputs]
    except OverflowError:  # a stranger's numbers may be beyond what a float holds
        return "numbers", format_value(outputs)
    return broken_condition(keep, shares, reference)


_EVALUATORS: dict[str, Callable[..., Broken | None]] = {
    "count": _count,
    "each_between": _each_between,
    "mean_between": _mean_between,
    "spread_between": _spread_between,
    "distinct": _distinct,
    "busiest": _busiest,
    "ascending": _ascending,
    "same_items": _same_items,
    "relative": _relative,
}
