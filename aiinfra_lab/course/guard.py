"""The guard against notebooks that look tested and compare nothing.

A notebook passes nbval when its cells were never executed, when their outputs are pictures, or
when a mark is misspelt and means nothing. Each of these is a problem here, in one sentence.
"""

from __future__ import annotations

import re
from typing import Any

from aiinfra_lab.course.notebooks import Cell, Notebook, code_cells, tags
from aiinfra_lab.course.records import holds_records

MOST_CELLS = 60
LEAST_COMPARED = 0.6
_IGNORED = {"nbval-ignore-output", "nbval-skip", "pytest-validate-ignore-output"}
_MARK = re.compile(r"^\s*#.*\bNBVAL_\w+", re.MULTILINE)
_IGNORING_MARK = re.compile(
    r"^\s*#+\s*(NBVAL_IGNORE_OUTPUT|NBVAL_SKIP|PYTEST_VALIDATE_IGNORE_OUTPUT)\s*$", re.MULTILINE
)
_EXACT_MARK = re.compile(r"^\s*#+\s*NBVAL_(IGNORE_OUTPUT|CHECK_OUTPUT|RAISES_EXCEPTION|SKIP)\s*$")
_RANDOM_ID = re.compile(r"^[0-9a-f]{8}([0-9a-f-]{28})?$")
# nbval does not look into pictures, and beside a picture the text is only "<Figure …>".
_PICTURES = {"image/png", "image/jpeg"}


def problems(notebook: Notebook) -> list[str]:
    """Everything that keeps the notebook's outputs from being a test."""
    found = []
    cells = list(code_cells(notebook))
    for cell in cells:
        found += [f"cell {cell.get('id')!r} {problem}" for problem in _cell_problems(cell)]
    printing = [cell for cell in cells if cell["outputs"]]
    compared = [cell for cell in printing if _is_compared(cell)]
    if printing and len(compared) < LEAST_COMPARED * len(printing):
        found.append(
            f"only {len(compared)} of {len(printing)} printing cells are compared, "
            f"needed {LEAST_COMPARED:.0%}: show results as records"
        )
    if len(notebook["cells"]) > MOST_CELLS:
        found.append(
            f"has {len(notebook['cells'])} cells, at most {MOST_CELLS} can be held in mind"
        )
    return found


def _cell_problems(cell: Cell) -> list[str]:
    found = []
    if cell.get("execution_count") is None and cell["source"].strip():
        found.append("was never executed: run `aiinfra build --execute`")
    if "exhibit" in tags(cell) and not any(holds_records(output) for output in cell["outputs"]):
        found.append("is an exhibit without a record: use show()")
    if any(output.get("name") == "stderr" for output in cell["outputs"]):
        found.append("prints to stderr")
    if any(output.get("output_type") == "error" for output in cell["outputs"]):
        found.append("is stored with an error")
    if _RANDOM_ID.match(str(cell.get("id"))):
        found.append("has a random id: give it a name, grades and diffs hang on it")
    found += [
        f"has a mark that nbval does not see: {line.strip()!r}"
        for line in cell["source"].splitlines()
        if _MARK.match(line) and not _EXACT_MARK.match(line)
    ]
    return found


def _is_compared(cell: Cell) -> bool:
    if tags(cell) & _IGNORED or _IGNORING_MARK.search(cell["source"]):
        return False
    return any(_says_something(output) for output in cell["outputs"])


def _says_something(output: dict[str, Any]) -> bool:
    return holds_records(output) or not _PICTURES & output.get("data", {}).keys()
