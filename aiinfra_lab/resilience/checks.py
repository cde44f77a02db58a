"""Refusals at construction: each names the parameter, what was found and what it may be."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aiinfra_lab.errors import InputError


def _number(value: object) -> float:
    """``value`` as a float; NaN, which every comparison below refuses, where it is no number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return math.nan


def whole(name: str, value: object, low: int, high: int) -> None:
    """An int in ``low..high``."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"{name} is a whole number in {low}..{high}", found=repr(value))


def share(name: str, value: object) -> None:
    """A number above 0 and up to 1."""
    if not 0 < _number(value) <= 1:
        raise InputError(
            f"{name} is a share, above 0 and up to 1",
            found=repr(value),
            fix="Fifty per cent is 0.5.",
        )


def positive(name: str, value: object, *, at_least: float = 0.0, infinite: bool = False) -> None:
    """A number above 0, not below ``at_least``, and finite unless ``infinite``."""
    seconds = _number(value)
    if not seconds > 0 or seconds < at_least or (seconds == math.inf and not infinite):
        limit = f"at least {at_least:g}" if at_least else "above 0"
        raise InputError(
            f"{name} is a number of seconds {limit}{'' if infinite else ', not infinite'}",
            found=repr(value),
        )


def at_least_one(name: str, value: object) -> None:
    """A finite factor of 1 or more."""
    if not 1 <= _number(value) < math.inf:
        raise InputError(f"{name} is a factor of at least 1", found=repr(value))


def choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """One of the words ``allowed``."""
    if value not in allowed:
        raise InputError(f"{name} is one of {', '.join(allowed)}", found=repr(value))
