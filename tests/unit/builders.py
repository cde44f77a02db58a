"""Small notebooks, records and values that the tests of the course engine are written with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from aiinfra_lab.course.layout import Course
from aiinfra_lab.course.records import RECORD_MIME, Record

# Whole numbers, some of them beyond what a float holds.
integers = st.integers(-(10**6), 10**6) | st.sampled_from([2**63, -(10**30), 10**400, -(10**400)])
numbers = integers | st.floats()
scalars = st.none() | st.booleans() | numbers | st.text(max_size=8)
# A dict with this one key is how a record writes a special float.
keys = st.text(max_size=6).filter(lambda key: key != "$float")


def nested(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """``leaves`` in lists and dicts of lists and dicts."""
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=6,
    )


plain_values = nested(scalars, keys)
json_values = nested(scalars, st.text(max_size=6) | st.sampled_from(["$float", "v", "name"]))


def code(cell_id: str, source: str = "", *, tags: list[str] | None = None) -> dict[str, Any]:
    """A code cell without outputs."""
    return {
        "cell_type": "code",
        "id": cell_id,
        "metadata": {"tags": tags} if tags else {},
        "source": source,
        "outputs": [],
        "execution_count": None,
    }


def executed(cell_id: str, source: str, *outputs: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    """A code cell that ran and gave ``outputs``."""
    return {**code(cell_id, source, **kwargs), "outputs": list(outputs), "execution_count": 1}


def markdown(cell_id: str, source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": cell_id, "metadata": {}, "source": source}


def graded(cell: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """``cell`` with nbgrader's metadata; ``grade_id`` is the cell's id."""
    grading = {
        "schema_version": 3,
        "grade_id": cell["id"],
        "grade": False,
        "solution": False,
        "locked": True,
        "task": False,
    }
    cell["metadata"]["nbgrader"] = grading | fields
    return cell


DOUBLE = """\
def double(x):
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION"""
HALF = """\
### BEGIN SOLUTION
def half(x):
    return x / 2
### END SOLUTION"""


def answer(name: str, source: str = DOUBLE) -> dict[str, Any]:
    return graded(code(name, source), solution=True, locked=False)


def check(name: str, body: str | None = None, *, points: float = 5) -> dict[str, Any]:
    """The check cell of the exercise ``name``, with a visible and a hidden result."""
    if body is None:
        body = (
            f'    ex.equal("visible", {name}(3), hint="Think.")\n'
            "    ### BEGIN HIDDEN TESTS\n"
            f'    ex.equal("hidden", {name}(4))\n'
            "    ### END HIDDEN TESTS"
        )
    source = f'with exercise("{name}", seed) as ex:\n{body}'
    return graded(code(f"{name}-check", source), grade=True, points=points)


def parameters(source: str = "seed: int = 7  # 0.. | draws the data") -> dict[str, Any]:
    return graded(code("parameters", source, tags=["parameters"]))


def about(**fields: Any) -> dict[str, Any]:
    """A notebook's ``metadata.aiinfra_lab``."""
    chosen = {"schema": 1, "kind": "lab", "id": "07", "slug": "made_up", "title": "Made up"}
    return chosen | {"minutes": 5} | fields


def notebook(*cells: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "cells": list(cells),
        "metadata": {"aiinfra_lab": about(**fields)},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def master(**fields: Any) -> dict[str, Any]:
    """A lab master with two exercises, ``double`` and ``half``."""
    return notebook(
        markdown("title", "# Made up"),
        parameters(),
        graded(code("setup", "from aiinfra_lab.course import exercise")),
        answer("double"),
        code("try-double", "# double(1)"),
        check("double"),
        answer("half", HALF),
        check("half"),
        **fields,
    )


def cell_of(notebook: dict[str, Any], cell_id: str) -> dict[str, Any]:
    return next(cell for cell in notebook["cells"] if cell["id"] == cell_id)


def shown(*records: Record) -> list[dict[str, Any]]:
    """The outputs of a cell that shows ``records``."""
    return [
        {
            "output_type": "display_data",
            "metadata": {},
            "data": {RECORD_MIME: record.to_json(), "text/plain": record.text()},
        }
        for record in records
    ]


def printed(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def put(folder: Path, name: str, content: dict[str, Any]) -> Path:
    """Write ``content`` as JSON; the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def expect(course: Course, seed: int = 7, name: str = "07_made_up", **exercises: Any) -> Path:
    """Write a lab's public results."""
    results = {key: [r.to_json() for r in records] for key, records in exercises.items()}
    document = {"schema": 1, "seed": seed, "exercises": results}
    return put(course.labs / "expected", f"{name}.json", document)
