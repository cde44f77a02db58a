"""Exercises: the check cell of a lab, in the learner's kernel and in the grader's.

A check cell draws data, calls the learner's functions and emits what they returned as typed
records. It never contains the answer. With the public seed the records are compared right here
with labs/expected, and the learner reads found, expected and a hint; with any other seed the
cell only emits, and the verdict is computed where the submission does not run.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from aiinfra_lab.course import feedback
from aiinfra_lab.course.comparison import Difference, compare_all
from aiinfra_lab.course.conditions import Condition, check_conditions
from aiinfra_lab.course.draws import Draws
from aiinfra_lab.course.layout import Course
from aiinfra_lab.course.records import EXERCISE_MIME, VERSION, Record, display_bundle, plain

CHECK_SUFFIX = "-check"


@dataclass(frozen=True)
class Raised:
    """The error that ended a check, as data."""

    type: str
    message: str
    name: str | None = None
    where: str = ""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type

    @property
    def is_stub(self) -> bool:
        """Whether it is the marker that a released answer cell contains."""
        return self.type == "NotImplementedError"


class exercise:
    """Run one exercise's check and emit its records.

    Parameters
    ----------
    name : str
        The exercise, as in the check cell's ``grade_id`` without ``-check``.
    seed : int
        The lab's parameter ``seed``.

    Attributes
    ----------
    draw : Draws
        Data that depends on the seed and the name.

    Examples
    --------
    >>> with exercise("mean", seed=0) as ex:  # doctest: +SKIP
    ...     numbers = ex.draw.uniform(0, 1, n=50)
    ...     ex.equal("of 50 numbers", mean(numbers), rel=1e-9, hint="Divide by their number.")
    """

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.draw = Draws(seed, name)
        self._seed = seed
        self._records: list[Record] = []

    def __enter__(self) -> exercise:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is not None and not isinstance(error, Exception):
            return False
        # A learner who runs all cells wants every verdict, so an error ends its check only.
        self._emit(None if error is None else _describe(error))
        return True

    def equal(
        self,
        name: str,
        found: Any,
        *,
        rel: float = 0.0,
        abs: float = 0.0,
        unit: str = "",
        hint: str = "",
    ) -> None:
        """``found`` must equal the reference's result, numbers within the tolerance."""
        self._add(name, found, rel=rel, abs=abs, unit=unit, hint=hint)

    def multiset(
        self, name: str, found: Any, *, rel: float = 0.0, abs: float = 0.0, hint: str = ""
    ) -> None:
        """``found`` must hold the reference's items, in any order."""
        items = list(found)
        self._add(name, items, rel=rel, abs=abs, rule="multiset", hint=hint)

    def at_most(
        self, name: str, found: float, bound: float, *, unit: str = "", hint: str = ""
    ) -> None:
        """``found`` must not exceed ``bound``, as the reference computed it."""
        self._add(name, found, rule="at_most", bound=bound, unit=unit, hint=hint)

    def at_least(
        self, name: str, found: float, bound: float, *, unit: str = "", hint: str = ""
    ) -> None:
        """``found`` must not fall short of ``bound``, as the reference computed it."""
        self._add(name, found, rule="at_least", bound=bound, unit=unit, hint=hint)

    def between(
        self, name: str, found: float, low: float, high: float, *, unit: str = "", hint: str = ""
    ) -> None:
        """``found`` must lie in ``[low, high]``, as the reference computed them."""
        self._add(name, found, rule="between", bound=[low, high], unit=unit, hint=hint)

    def trace(
        self,
        name: str,
        inputs: Any,
        outputs: Any,
        keep: Sequence[Condition],
        *,
        rel: float = 0.0,
        hint: str = "",
    ) -> None:
        """``outputs`` must keep the conditions; for tasks with more than one right answer.

        ``inputs`` must equal the reference's: nobody may answer an easier question.
        """
        check_conditions(keep)
        value = {"inputs": inputs, "outputs": outputs}
        self._add(name, value, rule="trace", bound=list(keep), rel=rel, hint=hint)

    def _add(self, name: str, value: Any, *, bound: Any = None, **fields: Any) -> None:
        if any(record.name == name for record in self._records):
            raise ValueError(f"two results of this exercise are called {name!r}")
        try:
            self._records.append(Record(name, plain(value), bound=plain(bound), **fields))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None

    def _emit(self, raised: Raised | None) -> None:
        differences = self._differences()
        verdict = feedback.Verdict(
            self.name, len(self._records), differences, raised, judged=differences is not None
        )
        bundle = {
            EXERCISE_MIME: {
                "v": VERSION,
                "exercise": self.name,
                "records": [record.to_json() for record in self._records],
                "raised": vars(raised) if raised else None,
            },
            "text/html": verdict.html(),
            "text/plain": verdict.text(),
        }
        display_bundle(bundle)

    def _differences(self) -> list[Difference] | None:
        """Differences from the public results; None where there are none to compare with."""
        reference = Course.find().public_results(self.name, self._seed)
        if reference is None:
            return None
        expected = [Record.from_json(item) for item in reference]
        names = {record.name for record in expected}
        # In a master there are hidden results too, of which the public ones say nothing.
        return compare_all(expected, [record for record in self._records if record.name in names])


def _describe(error: Exception) -> Raised:
    """The error and the learner's line that raised it, without the check's own frames."""
    frames = [f for f in traceback.extract_tb(error.__traceback__)[1:] if f.line]
    own = [f for f in frames if "ipykernel" in f.filename or f.filename.startswith("<ipython")]
    where = f"line {own[-1].lineno} of {own[-1].name}: {own[-1].line}" if own else ""
    name = error.name if isinstance(error, NameError) else None
    return Raised(type(error).__name__, str(error)[:500], name, where)
