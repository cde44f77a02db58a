"""Submissions: what is taken from a learner's notebook, and the notebook that is run instead.

The submission never supplies checks. The master's cells are rebuilt by ``grade_id``; from the
submission comes the source of answer cells and nothing else.
"""

from __future__ import annotations

import ast
import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

from aiinfra_lab.course.masters import grade_id, is_answer, without_solutions
from aiinfra_lab.course.notebooks import Cell, Notebook, tags

LIVE = "live"
_BLOCK = "aiinfra-block"
_SEED = "aiinfra-seed"


@dataclass
class Submission:
    """A learner's answers by ``grade_id``, and what stands in cells that are not handed in."""

    answers: dict[str, str]
    stray_names: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_submission(notebook: Notebook, master: Notebook) -> Submission:
    """Find the answers: by ``grade_id``, else by the cell's id; of two with one id the last.

    A cell that was moved or turned into text is still found. A missing one is blank.
    """
    wanted = {grade_id(cell): cell for cell in master["cells"] if is_answer(cell)}
    by_cell_id = {cell.get("id"): key for key, cell in wanted.items()}
    found: dict[str, str] = {}
    notes: list[str] = []
    names: dict[str, str] = {}
    for cell in notebook["cells"]:
        key = grade_id(cell) if grade_id(cell) in wanted else by_cell_id.get(cell.get("id"))
        if key is not None:
            if key in found:
                notes.append(f"cell {key!r} stands there twice; the last one counts")
            found[key] = cell["source"]
        elif cell["cell_type"] == "code":
            names |= dict.fromkeys(_defined_names(cell["source"]), str(cell.get("id", "?")))
    for cell in master["cells"]:
        if not is_answer(cell):
            for name in _defined_names(cell["source"]):
                names.pop(name, None)
    for key, cell in wanted.items():
        if key not in found:
            notes.append(f"cell {key!r} is missing")
            found[key] = without_solutions(cell["source"])
    return Submission(found, names, notes)


def _defined_names(source: str) -> list[str]:
    """The names that a cell defines at its top level."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a stray backslash is the learner's, not ours to print
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names += [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            names += [
                inner.id
                for inner in ast.walk(node)
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)
            ]
    return names


def rebuilt(
    master: Notebook, answers: dict[str, str], *, seed: int, blocked: Sequence[str]
) -> Notebook:
    """The master with these answers, this seed, without live cells, nothing executed yet.

    ``blocked`` are the modules that are the lab's answer; importing one raises a sentence.
    """
    result = copy.deepcopy(master)
    cells: list[Cell] = []
    if blocked:
        cells.append(
            _code(
                _BLOCK,
                f"import aiinfra_lab.course.blocking as b; b.block({list(blocked)!r}); del b",
            )
        )
    for cell in result["cells"]:
        if cell["cell_type"] != "code" or LIVE in tags(cell):
            continue
        if is_answer(cell):
            cell["source"] = answers[grade_id(cell)]
        cell["outputs"], cell["execution_count"] = [], None
        cells.append(cell)
        if "parameters" in tags(cell):
            cells.append(_code(_SEED, f"seed = {seed}"))
    result["cells"] = cells
    return result


def _code(cell_id: str, source: str) -> Cell:
    return {
        "cell_type": "code",
        "id": cell_id,
        "metadata": {},
        "source": source,
        "outputs": [],
        "execution_count": None,
    }
