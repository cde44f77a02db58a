"""One line of progress: JSON that any program writes to its log and any other finds there.

    {"aiinfra":"progress","v":1,"ts":"2026-01-01T00:00:00+00:00","step":3,"total":12,
     "percent":25.0,"eta_s":9.0,"metrics":{"loss":0.4}}

(on one line). The operator reads it from rank 0's log, where launchers put prefixes before it
and colours around it; so a reader looks for the object inside the line, and is strict about
the object itself: a half-written line or another version is no progress.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

_START = re.compile(r'\{\s*"aiinfra"\s*:\s*"progress"')


@dataclass(frozen=True)
class Progress:
    """How far some work is.

    Parameters
    ----------
    step : int
        Steps done, at least 0.
    total : int or None
        Steps in all, at least ``step``; None where nobody knows.
    ts : datetime
        When this was so; aware, kept in UTC.
    eta_s : float or None
        Seconds until the end, by the writer's own estimate.
    metrics : mapping of str to float or None
        Measurements at this step. What is not finite becomes None: JSON has no NaN, and a
        loss that diverged must not end the training that reports it.

    Raises
    ------
    ValueError
        A field is out of its range.
    """

    step: int
    total: int | None
    ts: datetime
    eta_s: float | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _is_count(self.step):
            raise ValueError(f"step must be a whole number from 0, found {self.step!r}")
        if self.total is not None and not (_is_count(self.total) and self.total >= self.step):
            raise ValueError(f"total must be None or at least step, found {self.total!r}")
        if self.ts.tzinfo is None:
            raise ValueError("ts must be an aware datetime")
        object.__setattr__(self, "ts", self.ts.astimezone(UTC))
        if self.eta_s is not None:
            if not (_is_number(self.eta_s) and 0 <= self.eta_s < math.inf):
                raise ValueError(f"eta_s must be None or finite and at least 0: {self.eta_s!r}")
            object.__setattr__(self, "eta_s", float(self.eta_s))
        if not all(isinstance(name, str) for name in self.metrics):
            raise ValueError("the names of metrics must be text")
        metrics = {name: _finite(name, value) for name, value in self.metrics.items()}
        object.__setattr__(self, "metrics", MappingProxyType(metrics))

    @property
    def percent(self) -> float | None:
        """Done of a hundred, down to a tenth: 100 only at the end; of no steps, all are done."""
        if self.total is None:
            return None
        return (1000 * self.step // self.total) / 10 if self.total else 100.0

    def line(self) -> str:
        """The JSON object on one line, without a line end, in ASCII."""
        fields = {
            "aiinfra": "progress",
            "v": 1,
            "ts": self.ts.isoformat(),
            "step": self.step,
            "total": self.total,
            "percent": self.percent,
            "eta_s": self.eta_s,
            "metrics": dict(self.metrics),
        }
        return json.dumps(fields, separators=(",", ":"), allow_nan=False)


def parse_progress(line: str) -> Progress | None:
    """The progress that ``line`` holds among other text, or None; never an error.

    Fields that a later writer adds are passed over; ``percent`` follows from the counts.
    """
    for match in _START.finditer(line):
        try:
            found, _ = _DECODER.raw_decode(line, match.start())
            return _read(found)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            continue
    return None


def _read(found: dict[str, Any]) -> Progress:
    if not _is_count(found["v"]) or found["v"] != 1:
        raise ValueError("another version")
    percent, metrics = found["percent"], found["metrics"]
    if not (percent is None or _is_number(percent)) or not isinstance(metrics, dict):
        raise TypeError("percent or metrics is of another type")
    return Progress(
        step=found["step"],
        total=found["total"],
        ts=datetime.fromisoformat(found["ts"]),
        eta_s=found["eta_s"],
        metrics=metrics,
    )


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _finite(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    try:
        # numpy's and torch's scalars are numbers to float(), and text is not a measurement.
        number = None if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, OverflowError):
        number = None
    if number is None:
        raise ValueError(f"metric {name} must be a number, found {value!r}")
    return number if math.isfinite(number) else None
