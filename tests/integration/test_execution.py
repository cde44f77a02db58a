"""Whole notebooks through papermill: parameters, failures, what is kept, how often it is saved."""

from __future__ import annotations

import textwrap
from pathlib import Path

import papermill.iorw
import pytest
from notebook_files import code, notebook

from aiinfra_lab.course.execution import execute
from aiinfra_lab.course.notebooks import read_notebook, write_notebook
from aiinfra_lab.errors import MissingNeed, NotebookError

PARAMETERS = code("parameters", "n: int = 1", tags=["parameters"])


@pytest.fixture
def write(tmp_path: Path):
    def written(*cells: dict) -> Path:
        path = tmp_path / "made.ipynb"
        write_notebook(path, notebook(*cells))
        return path

    return written


def test_parameters_reach_the_cells_and_a_long_notebook_is_saved_once(write, monkeypatch) -> None:
    writes = []
    original = papermill.iorw.PapermillIO.write
    monkeypatch.setattr(
        papermill.iorw.PapermillIO, "write", lambda *a, **k: (writes.append(1), original(*a, **k))
    )

    executed = execute(
        write(PARAMETERS, *(code(f"c{i}", f"print(n + {i})") for i in range(30))), {"n": 40}
    )

    texts = [cell["outputs"][0]["text"] for cell in executed["cells"] if cell["outputs"]]
    assert texts == [f"{40 + i}\n" for i in range(30)]
    assert len(writes) == 1


def test_a_failure_names_the_cell_and_the_notebook_is_kept(write, tmp_path: Path) -> None:
    keep = tmp_path / "kept" / "out.ipynb"

    with pytest.raises(NotebookError, match=r"cell 'bad' raised ZeroDivisionError") as caught:
        execute(write(code("good", "print(1)"), code("bad", "1 / 0")), keep=keep)

    assert "ZeroDivisionError" in caught.value.tail
    assert "1\n" in [
        o.get("text") for c in read_notebook(keep)["cells"] for o in c.get("outputs", [])
    ]


def test_what_a_cell_says_to_be_missing_is_missing(write) -> None:
    cell = """
    from aiinfra_lab.errors import MissingNeed
    raise MissingNeed("this needs a daemon", found="none", fix="To get it: start it")
    """

    with pytest.raises(MissingNeed) as caught:
        execute(write(code("needs", textwrap.dedent(cell))))

    assert str(caught.value) == "this needs a daemon; found none. To get it: start it"


def test_a_dead_kernel_is_a_sentence(write) -> None:
    with pytest.raises(NotebookError, match="the kernel died"):
        execute(write(code("dies", "import os\nos._exit(1)")))


def test_a_failed_run_leaves_the_source_as_it_was(write) -> None:
    path = write(code("bad", "1 / 0"))
    before = path.read_bytes()

    with pytest.raises(NotebookError):
        execute(path)

    assert path.read_bytes() == before
