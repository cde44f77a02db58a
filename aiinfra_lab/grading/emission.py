"""The rebuilt notebooks of a batch with the reference's outputs, for who wants to see plain nbval.

``pytest --nbval DIR`` with the course's plugin passes and fails the same checks as the grader. It
runs them without the sandbox, and the files hold the hidden checks: they are the instructor's.
"""

from __future__ import annotations

import copy
from pathlib import Path

from aiinfra_lab.course.checking import Outputs
from aiinfra_lab.course.judgement import is_check
from aiinfra_lab.course.masters import grade_id
from aiinfra_lab.course.notebooks import Notebook, code_cells, write_notebook


def emit(folder: Path, learner: str, rebuilt: Notebook, reference: Outputs) -> Path:
    """Write the rebuilt notebook of ``learner`` into ``folder``; the path."""
    notebook = copy.deepcopy(rebuilt)
    for count, cell in enumerate(code_cells(notebook), start=1):
        # A cell that counts as executed is compared; without outputs nbval would compare nothing.
        cell["execution_count"] = count
        if is_check(cell):
            cell["outputs"] = copy.deepcopy(reference[grade_id(cell)])
        else:
            # What answers print is no result.
            cell["metadata"].setdefault("tags", []).append("nbval-ignore-output")
    path = folder / f"{learner}.ipynb"
    write_notebook(path, notebook)
    return path
