"""Parameters of a notebook: read from its one annotated cell, validated before anything runs.

papermill's inspector reads exactly one form, a line each in the cell tagged ``parameters``::

    n_requests: int = 2_000  # 100..100_000 | calls sent during the drill
    policy: str = "ours"     # {ours, naive} | which breaker

papermill itself takes any name and any type; here a wrong one is a sentence and exit code 2.
"""

from __future__ import annotations

import ast
import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiinfra_lab.errors import InputError

_KINDS: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str}
_TYPE = re.compile(r"^(?:list\[(?P<item>\w+)\]|(?P<plain>\w+))$")
_RANGE = re.compile(r"^(?P<low>[-+\w.]*?)\.\.(?P<high>[-+\w.]*)$")
_CHOICES = re.compile(r"^\{(?P<items>.*)\}$")
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Parameter:
    """One parameter: ``list[int]`` has ``kind`` int and ``is_list`` True."""

    name: str
    kind: type
    is_list: bool
    default: Any
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    help: str = ""

    @property
    def type_name(self) -> str:
        """The annotation as the author wrote it."""
        return f"list[{self.kind.__name__}]" if self.is_list else self.kind.__name__

    @property
    def allowed(self) -> str:
        """The allowed values in words, for a sentence and for ``--help``."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if (self.low, self.high) == (-math.inf, math.inf):
            return self.type_name
        low = "" if self.low == -math.inf else f"{self.low:g}"
        high = "" if self.high == math.inf else f"{self.high:g}"
        return f"{self.type_name} in {low}..{high}"

    def value(self, given: Any) -> Any:
        """``given`` (text from a command line, or a value) as this parameter's type.

        Raises
        ------
        InputError
            It has another type or lies outside what is allowed.
        """
        if not self.is_list:
            return self._item(given)
        if isinstance(given, str):
            given = _split_list(given)
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise self._refusal(given)
        return [self._item(item) for item in given]

    def _item(self, given: Any) -> Any:
        try:
            item = self._converted(given)
        except (ValueError, TypeError, KeyError, OverflowError):
            raise self._refusal(given) from None
        if self.choices and item not in self.choices:
            raise self._refusal(given)
        # A NaN fails both comparisons and is always refused.
        if self.kind in (int, float) and not self.low <= item <= self.high:
            raise self._refusal(given)
        return item

    def _converted(self, given: Any) -> Any:
        if self.kind is bool:
            return given if isinstance(given, bool) else _TRUTH[str(given).lower()]
        if isinstance(given, bool) or (self.kind is str and not isinstance(given, str)):
            raise TypeError
        if self.kind is int and isinstance(given, float) and not given.is_integer():
            raise ValueError
        return self.kind(given)

    def _refusal(self, given: Any) -> InputError:
        return InputError(f"parameter {self.name}", needed=self.allowed, found=repr(given))


def read_parameters(path: Path) -> list[Parameter]:
    """The parameters of the notebook at ``path``, in order.

    Raises
    ------
    InputError
        A line of the parameter cell has no type, no known type, or an unreadable range.
    """
    import papermill

    found = papermill.inspect_notebook(path)
    return [
        _parameter(path.name, name, p["inferred_type_name"], p["default"], p["help"])
        for name, p in found.items()
    ]


def _parameter(
    notebook: str, name: str, inferred_type_name: str, default: str, comment: str
) -> Parameter:
    match = _TYPE.match(inferred_type_name.replace(" ", ""))
    kind = _KINDS.get((match["item"] or match["plain"]) if match else "")
    if match is None or kind is None:
        raise InputError(
            f"{notebook}: parameter {name} has no type that can be checked",
            needed="int, float, bool, str or a list of one, as in `n: int = 5  # 1..10 | why`",
            found=inferred_type_name,
        )
    allowed, bar, text = (part.strip() for part in comment.partition("|"))
    limits: dict[str, Any] = {}
    if bar:
        limits = _limits(notebook, name, kind, allowed)
    else:
        text = allowed
    try:
        value = ast.literal_eval(default)
    except (ValueError, SyntaxError):
        raise InputError(
            f"{notebook}: the default of parameter {name} is no plain value", found=default
        ) from None
    parameter = Parameter(name, kind, bool(match["item"]), value, help=text, **limits)
    parameter.value(parameter.default)
    return parameter


def _limits(notebook: str, name: str, kind: type, allowed: str) -> dict[str, Any]:
    if choices := _CHOICES.match(allowed):
        return {"choices": tuple(item.strip() for item in choices["items"].split(","))}
    bounds = _RANGE.match(allowed)
    try:
        if bounds is None or kind not in (int, float):
            raise ValueError
        return {
            "low": float(bounds["low"]) if bounds["low"] else -math.inf,
            "high": float(bounds["high"]) if bounds["high"] else math.inf,
        }
    except ValueError:
        raise InputError(
            f"{notebook}: the range of parameter {name} cannot be read",
            needed="low..high or {a, b} before the |",
            found=allowed,
        ) from None


def _split_list(text: str) -> Any:
    if text.strip().startswith("["):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text
    return [item.strip() for item in text.split(",") if item.strip()]


def parse_assignments(assignments: Sequence[str]) -> dict[str, str]:
    """``["n=5", …]`` from a command line as a mapping.

    Raises
    ------
    InputError
        One is not ``name=value``, or a name comes twice.
    """
    given: dict[str, str] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise InputError("a parameter is given as name=value", found=repr(text))
        if name in given:
            raise InputError(f"parameter {name} is given twice")
        given[name] = value
    return given


def validate(parameters: Sequence[Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` with every value in its parameter's type.

    Raises
    ------
    InputError
        A name is unknown (the nearest is named), or a value is refused.
    """
    known = {parameter.name: parameter for parameter in parameters}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            there = (
                f"Did you mean {near[0]}?" if near else f"There is: {', '.join(known) or 'none'}."
            )
            raise InputError(f"there is no parameter {name}", fix=there)
    return {name: known[name].value(value) for name, value in given.items()}
