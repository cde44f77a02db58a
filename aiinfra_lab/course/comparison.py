"""The comparator: does a result agree with the reference?

One function serves chapters, ``check`` and grading. It takes two records and returns the first
difference or None. That a value has the shape its rule needs, the record itself has made sure.
Six rules:

``equal``
    Numbers agree within the tolerance, everything else exactly; lists and dicts item by item.
    True is not 1, NaN equals NaN.
``at_most``, ``at_least``
    The found number keeps the reference's bound (its value, where no bound is declared), widened
    by the tolerance.
``between``
    The found number lies in the reference's interval, ends included, widened by the tolerance.
``multiset``
    The same items in any order.
``trace``
    The inputs equal the reference's, and the outputs keep the reference's conditions: for tasks
    with more than one right answer. See ``aiinfra_lab.course.conditions``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiinfra_lab.course.conditions import broken_condition
from aiinfra_lab.course.records import Record, canonical, format_value, is_number


@dataclass(frozen=True)
class Difference:
    """Where and how a result differs from the reference."""

    record: str
    expected: str
    found: str
    where: str = ""
    hint: str = ""

    def __str__(self) -> str:
        where = f" at {self.where}" if self.where else ""
        return f"{self.record}{where}: expected {self.expected}, found {self.found}"


# Everything but the value. Record.declaration says the same and copies the value to do so.
_DECLARED = tuple(field.name for field in dataclasses.fields(Record) if field.name != "value")


def compare(reference: Record, found: Record) -> Difference | None:
    """The first difference of ``found`` from ``reference``; None where they agree.

    Everything that is demanded comes from ``reference``; a ``found`` that declares something else
    differs already in that.
    """
    for field in _DECLARED:
        wanted, declared = getattr(reference, field), getattr(found, field)
        if field != "hint" and _mismatch(wanted, declared, 0.0, 0.0):
            return Difference(
                reference.name if field != "name" else "record",
                f"{field} {format_value(wanted)}" if field != "name" else format_value(wanted),
                format_value(declared),
                hint=reference.hint,
            )
    mismatch = _broken_rule(reference, found.value)
    if mismatch is None:
        return None
    where, expected, got = mismatch
    return Difference(reference.name, expected, got, where, reference.hint)


def compare_all(reference: Sequence[Record], found: Sequence[Record]) -> list[Difference]:
    """Every difference between two cells' records, which must have the same names in order."""
    differences = [d for r, f in zip(reference, found, strict=False) if (d := compare(r, f))]
    differences += [
        Difference(r.name, format_value(r.value), "nothing", hint=r.hint)
        for r in reference[len(found) :]
    ]
    differences += [
        Difference(f.name, "no such record", format_value(f.value)) for f in found[len(reference) :]
    ]
    return differences


_Mismatch = tuple[str, str, str]  # where, expected, found


def _broken_rule(reference: Record, value: Any) -> _Mismatch | None:
    match reference.rule:
        case "equal":
            return _mismatch(reference.value, value, reference.rel, reference.abs)
        case "at_most" | "at_least" | "between":
            return _outside(reference, value)
        case "multiset":
            return _multiset_mismatch(reference, value)
        case "trace":
            return _trace_mismatch(reference, value)
    raise AssertionError(f"rule {reference.rule!r} has no comparison")


def _outside(reference: Record, value: Any) -> _Mismatch | None:
    if reference.rule == "between":
        low, high = reference.bound
        words = f"between {format_value(low)} and {format_value(high)}"
    else:
        limit = reference.value if reference.bound is None else reference.bound
        low, high = (-math.inf, limit) if reference.rule == "at_most" else (limit, math.inf)
        words = f"{reference.rule.replace('_', ' ')} {format_value(limit)}"
    rel, abs_ = reference.rel, reference.abs
    # NaN fails every one of these, as it must.
    if (low <= value or _close(low, value, rel, abs_)) and (
        value <= high or _close(high, value, rel, abs_)
    ):
        return None
    return "", words, format_value(value)


def _mismatch(
    expected: Any, found: Any, rel: float, abs_: float, where: str = ""
) -> _Mismatch | None:
    if is_number(expected) and is_number(found):
        if _close(expected, found, rel, abs_):
            return None
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            return where, f"{len(expected)} items", f"{len(found)} items"
        for index, (a, b) in enumerate(zip(expected, found, strict=True)):
            if inner := _mismatch(a, b, rel, abs_, f"{where}[{index}]"):
                return inner
        return None
    elif isinstance(expected, dict) and isinstance(found, dict):
        if expected.keys() != found.keys():
            return where, f"keys {sorted(expected)}", f"keys {sorted(found)}"
        for key in expected:
            if inner := _mismatch(expected[key], found[key], rel, abs_, f"{where}[{key!r}]"):
                return inner
        return None
    elif type(expected) is type(found) and expected == found:
        return None
    return where, *_told_apart(expected, found)


def _told_apart(expected: Any, found: Any) -> tuple[str, str]:
    """Both in words: with all their digits where six would make them look the same."""
    words = format_value(expected), format_value(found)
    return words if words[0] != words[1] else (repr(expected), repr(found))


def _close(expected: float, found: float, rel: float, abs_: float) -> bool:
    if expected == found:
        return True
    try:
        if math.isnan(expected):
            return math.isnan(found)
        # An infinite reference has an infinite tolerance, which would let everything pass.
        if math.isinf(expected) or math.isinf(found):
            return False
        return abs(found - expected) <= max(rel * abs(expected), abs_)
    except OverflowError:  # integers beyond what a float holds
        return False


def _multiset_mismatch(reference: Record, value: Any) -> _Mismatch | None:
    expected = reference.value
    if all(is_number(item) for item in (*expected, *value)):
        # In sorted order the best partner of each number is its neighbour.
        expected, value = sorted(expected, key=_nan_last), sorted(value, key=_nan_last)
        return _mismatch(expected, value, reference.rel, reference.abs, "sorted items")
    expected, value = sorted(map(canonical, expected)), sorted(map(canonical, value))
    return _mismatch(expected, value, 0.0, 0.0, "sorted items")


def _nan_last(number: float) -> tuple[bool, float]:
    return number != number, number


def _trace_mismatch(reference: Record, value: Any) -> _Mismatch | None:
    wanted = reference.value["inputs"]
    if inner := _mismatch(wanted, value["inputs"], reference.rel, reference.abs, "inputs"):
        return inner
    broken = broken_condition(reference.bound, value["outputs"], reference.value["outputs"])
    return ("outputs", *broken) if broken else None
