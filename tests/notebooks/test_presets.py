"""Every chapter runs with its second, small set of parameters, through papermill."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiinfra_lab import needs
from aiinfra_lab.course.execution import execute
from aiinfra_lab.course.layout import Course, notebook_names
from aiinfra_lab.course.metadata import read_metadata
from aiinfra_lab.course.notebooks import code_cells, read_notebook
from aiinfra_lab.course.parameters import read_parameters, validate
from aiinfra_lab.course.records import records_in

COURSE = Course(Path(__file__).resolve().parents[2])


@pytest.mark.parametrize("name", notebook_names(COURSE.chapters))
def test_the_test_preset_runs_and_gives_the_same_records(name: str) -> None:
    path = COURSE.chapters / f"{name}.ipynb"
    stored = read_notebook(path)
    metadata = read_metadata(stored, name)
    if (verdict := needs.verdict(metadata.needs))[0] != "run":
        (pytest.skip if verdict[0] == "skip" else pytest.fail)(verdict[1])
    assert "test" in metadata.params or metadata.kind == "page"
    chosen = validate(read_parameters(path), metadata.params.get("test", {}))

    executed = execute(path, chosen, budget_s=metadata.budget_s)

    assert _record_names(executed) == _record_names(stored)


def _record_names(notebook: dict) -> list[str]:
    return [r.name for cell in code_cells(notebook) for r in records_in(cell["outputs"])]
