"""The verdict on one cell: its outputs against the reference's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiinfra_lab.course.comparison import Difference, compare_all
from aiinfra_lab.course.exercises import Raised
from aiinfra_lab.course.records import EXERCISE_MIME, VERSION, records_in

Output = Mapping[str, Any]


def is_check(cell: Mapping[str, Any]) -> bool:
    """Whether the cell is a lab's check: graded, and no place for an answer."""
    grading = cell["metadata"].get("nbgrader", {})
    return bool(grading.get("grade")) and not grading.get("solution")


def differences_in(reference: Iterable[Output], found: Iterable[Output]) -> list[Difference]:
    """Every difference between the records of two executions of one cell.

    ``found`` may come from a stranger: what cannot be read is a difference, never an error.
    """
    reference, found = list(reference), list(found)
    expected = records_in(reference)
    try:
        differences = compare_all(expected, records_in(found))
        if _exercises(found) != _exercises(reference):
            differences.append(
                Difference("exercise", _names(_exercises(reference)), _names(_exercises(found)))
            )
        raised = raised_in(found)
    except (ValueError, RecursionError) as error:
        return [Difference("record", "a record", str(error))]
    if raised is not None and raised_in(reference) is None:
        differences.insert(0, Difference("check", "no error", str(raised)))
    return differences


def raised_in(outputs: Iterable[Output]) -> Raised | None:
    """The error that ended an exercise, if one did.

    Raises
    ------
    ValueError
        What stands there is no description of an error.
    """
    for output in outputs:
        data = output.get("data")
        exercise = data.get(EXERCISE_MIME) if isinstance(data, Mapping) else None
        if isinstance(exercise, Mapping) and (raised := exercise.get("raised")) is not None:
            return _raised(raised)
    return None


def _raised(data: Any) -> Raised:
    if isinstance(data, Mapping) and all(isinstance(v, str | None) for v in data.values()):
        try:
            return Raised(**data)
        except TypeError:
            pass
    raise ValueError("an exercise reports an error that cannot be read")


def exercise_output(name: str, records: Sequence[Any], text: str) -> dict[str, Any]:
    """A stored output that holds reference records, as ``exercise`` would have emitted them."""
    return {
        "output_type": "display_data",
        "metadata": {},
        "data": {
            EXERCISE_MIME: {
                "v": VERSION,
                "exercise": name,
                "records": list(records),
                "raised": None,
            },
            "text/plain": text,
        },
    }


def _exercises(outputs: Iterable[Output]) -> list[str]:
    names = []
    for output in outputs:
        data = output.get("data")
        exercise = data.get(EXERCISE_MIME) if isinstance(data, Mapping) else None
        if isinstance(exercise, Mapping):
            names.append(str(exercise.get("exercise")))
    return names


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
