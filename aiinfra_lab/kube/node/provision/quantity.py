"""Kubernetes quantities, such as ``250m`` of a processor or ``1.5Gi`` of memory, as numbers."""

from __future__ import annotations

import re
from decimal import Decimal

from aiinfra_lab.errors import InputError

_SUFFIXES = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_FACTORS = {name: Decimal(10) ** power for name, power in _SUFFIXES.items()} | {
    name: Decimal(1024) ** power
    for power, name in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)
}
_GRAMMAR = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))"
    r"(?:(?P<suffix>[numkMGTPE]|[KMGTPE]i)|[eE](?P<exponent>[+-]?[0-9]{1,3}))?"
)


def parse_quantity(text: str | int | float) -> Decimal:
    """The number that a quantity stands for, exactly.

    Follows the serialization format of k8s.io/apimachinery's ``resource.Quantity``: an optional
    decimal (``k``) or binary (``Ki``) suffix, or a decimal exponent (``12e6``; a lone ``E`` is the
    suffix for 10 to the 18th).

    Raises
    ------
    InputError
        The text is no quantity.
    """
    # A float's own digits are what was written; Decimal(0.1) would give 55 of them.
    found = _GRAMMAR.fullmatch(str(text))
    if found is None:
        raise InputError(
            f"{text!r} is no quantity", needed="a number with a unit of Kubernetes, such as 512Mi"
        )
    if exponent := found["exponent"]:
        return Decimal(found["number"]).scaleb(int(exponent))
    return Decimal(found["number"]) * _FACTORS[found["suffix"] or ""]


def whole(text: str | int | float) -> int:
    """The quantity in whole units (bytes, devices), rounded away from zero as Kubernetes does.

    Raises
    ------
    InputError
        The text is no quantity.
    """
    return ceiling(parse_quantity(text))


def milli(text: str | int | float) -> int:
    """The quantity in thousandths, rounded away from zero: the unit of processor time.

    Raises
    ------
    InputError
        The text is no quantity.
    """
    return ceiling(parse_quantity(text) * 1000)


def ceiling(number: Decimal) -> int:
    """``number`` rounded away from zero."""
    return int(number.to_integral_value(rounding="ROUND_UP"))
