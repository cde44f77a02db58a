"""Typed records: the results of a notebook, as data that can be compared.

``show`` displays one result twice: as text for people and as JSON for the comparator. What a
record demands of a re-execution (its rule, tolerances and bound) travels with it, and is always
read from the *reference* notebook: the one that is being judged cannot loosen it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal, get_args

RECORD_MIME = "application/vnd.aiinfra.record+json"
EXERCISE_MIME = "application/vnd.aiinfra.exercise+json"
VERSION = 1

Rule = Literal["equal", "at_most", "at_least", "between", "multiset", "trace"]
RULES: tuple[str, ...] = get_args(Rule)

# JSON has no such numbers, and a record must survive every JSON reader.
_FLOAT_KEY = "$float"
_SPECIAL_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclass(frozen=True)
class Record:
    """One result and what a comparison of it demands.

    Parameters
    ----------
    name : str
        What was measured, unique in its cell.
    value : JSON value
        As ``plain`` makes it.
    unit : str
        Physical unit, for people; part of the declaration.
    rel, abs : float
        Tolerances: a number ``x`` agrees with the reference ``r`` when
        ``|x - r| <= max(rel * |r|, abs)``, the formula of ``math.isclose`` with the
        reference alone as the scale.
    rule : {"equal", "at_most", "at_least", "between", "multiset", "trace"}
        See ``aiinfra_lab.course.comparison``.
    bound : JSON value, optional
        The limit of ``at_most`` and ``at_least`` (absent: the reference's value), the
        ``[low, high]`` of ``between``, the conditions of ``trace``.
    hint : str
        What to tell a learner whose value differs.
    """

    name: str
    value: Any
    unit: str = ""
    rel: float = 0.0
    abs: float = 0.0
    rule: str = "equal"
    bound: Any = None
    hint: str = ""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("a record needs a name")
        if self.rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}, found {self.rule!r}")
        for label, tolerance in (("rel", self.rel), ("abs", self.abs)):
            if not (is_number(tolerance) and 0 <= tolerance < math.inf):
                raise ValueError(
                    f"{label} of record {self.name!r} must be a number >= 0, found {tolerance!r}"
                )
        if self.rule in ("at_most", "at_least"):
            _require_number(self, "value", self.value)
            if self.bound is not None:
                _require_number(self, "bound", self.bound)
        if self.rule == "between":
            _require_number(self, "value", self.value)
            if not _is_interval(self.bound):
                raise ValueError(
                    f"record {self.name!r}: between needs bound=(low, high) with low <= high, "
                    f"found {self.bound!r}"
                )
        if self.rule == "multiset":
            self._require_items()
        if self.rule == "trace":
            self._require_trace()

    def _require_items(self) -> None:
        if not isinstance(self.value, list):
            raise ValueError(f"record {self.name!r}: multiset compares lists, found {self.value!r}")
        if (self.rel or self.abs) and not all(map(is_number, self.value)):
            raise ValueError(
                f"record {self.name!r}: a multiset with a tolerance holds numbers, "
                f"found {self.value!r}"
            )

    def _require_trace(self) -> None:
        if not (isinstance(self.value, dict) and self.value.keys() == {"inputs", "outputs"}):
            raise ValueError(
                f"record {self.name!r}: trace needs inputs and outputs, found {self.value!r}"
            )
        if not (isinstance(self.bound, list) and self.bound):
            raise ValueError(
                f"record {self.name!r}: trace needs a list of conditions as bound, "
                f"found {self.bound!r}"
            )

    @property
    def declaration(self) -> dict[str, Any]:
        """Everything but the value: what the author decided."""
        fields = dataclasses.asdict(self)
        del fields["value"]
        return fields

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in a notebook."""
        return {"v": VERSION, **{k: encode(v) for k, v in dataclasses.asdict(self).items()}}

    @classmethod
    def from_json(cls, data: Any) -> Record:
        """Read a record back.

        Raises
        ------
        ValueError
            The data is no record of this version; it may come from a stranger.
        """
        if not isinstance(data, Mapping) or data.get("v") != VERSION:
            raise ValueError(f"not a record of version {VERSION}")
        names = {field.name for field in dataclasses.fields(cls)}
        try:
            fields = {str(key): decode(data[key]) for key in data if key != "v"}
            if unknown := fields.keys() - names:
                raise ValueError(f"a record has no field {sorted(unknown)[0]!r}")
            texts = (fields[key] for key in ("name", "unit", "rule", "hint") if key in fields)
            if not all(isinstance(text, str) for text in texts):
                raise ValueError("name, unit, rule and hint of a record are text")
            return cls(**fields)
        except (TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"not a record: {error}") from None

    def text(self) -> str:
        """One readable line."""
        value = format_value(self.value)
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.name}: {value}{unit}{self._demand(unit)}"

    def _demand(self, unit: str) -> str:
        if self.rule == "between":
            low, high = (format_value(limit) for limit in self.bound)
            return f"  (expected between {low} and {high}{unit})"
        if self.rule in ("at_most", "at_least") and self.bound is not None:
            word = self.rule.replace("_", " ")
            return f"  (expected {word} {format_value(self.bound)}{unit})"
        return ""


def show(
    name: str,
    value: Any,
    *,
    unit: str = "",
    rel: float = 0.0,
    abs: float = 0.0,
    rule: Rule = "equal",
    bound: Any = None,
) -> None:
    """Display a result as a line of text and as a typed record.

    Parameters
    ----------
    name : str
        What was measured.
    value : number, bool, str, None, or lists and dicts of them
        numpy scalars and arrays, tuples, sets and dataclasses are turned into these.
    unit, rel, abs, rule, bound
        See `Record`.

    Examples
    --------
    >>> show("accuracy", 0.9722, abs=0.02)
    accuracy: 0.9722
    >>> show("calls to the dead server", 7, rule="at_most", bound=10)
    calls to the dead server: 7  (expected at most 10)
    """
    record = Record(name, plain(value), unit, rel, abs, rule, plain(bound))
    display_bundle({RECORD_MIME: record.to_json(), "text/plain": record.text()})


def display_bundle(bundle: dict[str, Any]) -> None:
    """Display a MIME bundle in a notebook; its text outside one."""
    if _in_kernel():
        from IPython.display import publish_display_data

        publish_display_data(bundle)
    else:
        print(bundle["text/plain"])


def _in_kernel() -> bool:
    import sys

    # Asking a module that is already loaded costs nothing; importing IPython costs 0.2 s.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


def plain(value: Any) -> Any:
    """Turn ``value`` into JSON's types: None, bool, int, float, str, list, dict with text keys.

    Raises
    ------
    TypeError
        Something in it has no such form; the message names it.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        items = {_text_key(key): plain(item) for key, item in value.items()}
        if len(items) < len(value):
            raise TypeError("two keys of a record's dict are the same text")
        return items
    if isinstance(value, Set):
        return sorted((plain(item) for item in value), key=canonical)
    # numpy's and torch's scalars and arrays, without importing either.
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, (bool, int, float, str)):
        return _base_value(value)
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    raise TypeError(
        f"a record holds numbers, text, lists and dicts; found {type(value).__name__}. "
        "Take the numbers out of it first."
    )


def _base_value(value: bool | int | float | str) -> Any:
    """Enumerations and other subclasses of the plain types, as the plain type."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(getattr(value, "value", value))
    raise AssertionError(value)


def _text_key(key: Any) -> str:
    if key == _FLOAT_KEY:
        raise TypeError(f"the key {_FLOAT_KEY!r} means a special float in a record")
    if isinstance(key, str):
        return key
    if isinstance(key, (bool, int, float)) or hasattr(key, "item"):
        return str(plain(key))
    raise TypeError(f"keys of a record are text or numbers, found {type(key).__name__}")


def encode(value: Any) -> Any:
    """JSON form of a plain value; the three special floats become ``{"$float": "nan"}``."""
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT_KEY: str(value)}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    return value


def decode(value: Any) -> Any:
    """The inverse of ``encode``."""
    if isinstance(value, Mapping):
        if value.keys() == {_FLOAT_KEY}:
            return _SPECIAL_FLOATS[value[_FLOAT_KEY]]
        return {key: decode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [decode(item) for item in value]
    return value


def format_value(value: Any, width: int = 160) -> str:
    """A value for people: floats to six significant digits, long ones cut in the middle."""
    text = _format(value)
    if len(text) > width:
        half = (width - 3) // 2
        text = f"{text[:half]} … {text[-half:]}"
    return text


def _format(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return f"[{', '.join(_format(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_format(item)}' for key, item in value.items())}}}"
    return value if isinstance(value, str) else repr(value)


def is_number(value: Any) -> bool:
    """A number, and not a truth value that Python counts as one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_interval(bound: Any) -> bool:
    return (
        isinstance(bound, (list, tuple))
        and len(bound) == 2
        and all(is_number(limit) for limit in bound)
        and bound[0] <= bound[1]
    )


def _require_number(record: Record, label: str, value: Any) -> None:
    if not is_number(value):
        raise ValueError(
            f"record {record.name!r}: {record.rule} needs a number as {label}, found {value!r}"
        )


def canonical(value: Any) -> str:
    """A text that is the same for equal plain values, whatever the order of their keys."""
    import json

    return json.dumps(encode(_whole(value)), sort_keys=True)


def _whole(value: Any) -> Any:
    """Whole floats as integers: 1.0 equals 1, and -0.0 equals 0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return value


def records_in(outputs: Iterable[Mapping[str, Any]]) -> list[Record]:
    """The records in a cell's outputs, in order, those of exercises included.

    Raises
    ------
    ValueError
        An output claims to be a record and is none.
    """
    found: list[Record] = []
    for output in outputs:
        data = output.get("data")
        if not isinstance(data, Mapping):
            continue
        if RECORD_MIME in data:
            found.append(Record.from_json(data[RECORD_MIME]))
        if EXERCISE_MIME in data:
            exercise = data[EXERCISE_MIME]
            records = exercise.get("records") if isinstance(exercise, Mapping) else None
            if not isinstance(records, list):
                raise ValueError("not an exercise: it has no list of records")
            found.extend(Record.from_json(item) for item in records)
    return found


def holds_records(output: Mapping[str, Any]) -> bool:
    """Whether an output carries records and is therefore compared by their rules alone."""
    data = output.get("data")
    return isinstance(data, Mapping) and (RECORD_MIME in data or EXERCISE_MIME in data)
