"""The guard names every way in which a notebook looks tested and is not."""

from __future__ import annotations

import pytest
from builders import code, executed, markdown, notebook, printed, shown

from aiinfra_lab.course.guard import problems
from aiinfra_lab.course.notebooks import read_notebook
from aiinfra_lab.course.records import Record

RECORD = shown(Record("a", 1))[0]
PICTURE = {
    "output_type": "display_data",
    "metadata": {},
    "data": {"image/png": "iVBO", "text/plain": "<Figure size 1x1>"},
}
TABLE = {"output_type": "display_data", "metadata": {}, "data": {"text/html": "<table>"}}


def found(*cells):
    return problems(notebook(*cells))


def test_a_notebook_whose_outputs_are_compared_has_no_problem():
    assert (
        found(
            markdown("title", "# T"),
            executed("a-1", "show()", RECORD),
            executed("b-1", "print()", printed("x")),
            executed("c-1", "x = 1"),
            code("empty", "  \n"),
        )
        == []
    )


def test_a_notebook_without_cells_has_no_problem():
    assert found() == []


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        (code("a-1", "x = 1"), "was never executed: run `aiinfra build --execute`"),
        (
            executed("a-1", "f()", printed("x"), tags=["exhibit"]),
            "is an exhibit without a record: use show()",
        ),
        (executed("a-1", "f()", RECORD, printed("w", "stderr")), "prints to stderr"),
        (
            executed("a-1", "f()", RECORD, {"output_type": "error", "ename": "E"}),
            "is stored with an error",
        ),
        (
            executed("0a1b2c3d", "f()", RECORD),
            "has a random id: give it a name, grades and diffs hang on it",
        ),
        (executed("0a1b2c3d-1111-4222-8333-444455556666", "f()", RECORD), "has a random id"),
        (
            executed("a-1", "# NBVAL_IGNORE_OUTPUTS\nf()", RECORD),
            "has a mark that nbval does not see: '# NBVAL_IGNORE_OUTPUTS'",
        ),
        (
            executed("a-1", "f()\n  # see NBVAL_SKIP", RECORD),
            "has a mark that nbval does not see: '# see NBVAL_SKIP'",
        ),
        (
            executed("a-1", "# NBVAL_SKIP: slow\nf()", RECORD),
            "has a mark that nbval does not see: '# NBVAL_SKIP: slow'",
        ),
    ],
)
def test_a_cell_that_is_no_test_is_named_with_its_problem(cell, problem):
    (only,) = found(cell)
    assert only.startswith(f"cell {cell['id']!r} {problem}")


@pytest.mark.parametrize("cell_id", ["a-1", "0a1b2c3", "0a1b2c3d4", "0a1b2c3g", "flaw-demo"])
def test_a_name_is_no_random_id(cell_id):
    assert found(executed(cell_id, "f()", RECORD)) == []


@pytest.mark.parametrize(
    "mark",
    ["# NBVAL_CHECK_OUTPUT", "#NBVAL_RAISES_EXCEPTION", "  ## NBVAL_CHECK_OUTPUT  "],
)
def test_marks_that_nbval_sees_are_no_problem(mark):
    assert found(executed("a-1", f"{mark}\nf()", RECORD)) == []


def test_the_word_in_code_is_no_mark():
    assert found(executed("a-1", "x = 'NBVAL_SKIP'", RECORD)) == []


def test_an_exhibit_with_a_record_is_one():
    assert found(executed("a-1", "show()", printed("x"), RECORD, tags=["exhibit"])) == []


def mixed(compared, not_compared):
    cells = [executed(f"yes-{n}", "f()", RECORD) for n in range(compared)]
    return [*cells, *(executed(f"no-{n}", "f()", PICTURE) for n in range(not_compared))]


@pytest.mark.parametrize(("compared", "not_compared"), [(3, 2), (6, 4), (1, 0), (7, 1)])
def test_three_of_five_printing_cells_compared_are_enough(compared, not_compared):
    assert found(*mixed(compared, not_compared), executed("silent", "x = 1")) == []


@pytest.mark.parametrize(("compared", "not_compared"), [(0, 1), (1, 1), (2, 2), (5, 4)])
def test_fewer_compared_cells_are_a_problem_in_numbers(compared, not_compared):
    (only,) = found(*mixed(compared, not_compared), executed("silent", "x = 1"))
    assert only == (
        f"only {compared} of {compared + not_compared} printing cells are compared, "
        "needed 60%: show results as records"
    )


UNCOMPARED = {
    "a picture": executed("a-1", "f()", PICTURE),
    "a photograph": executed("a-1", "f()", {**PICTURE, "data": {"image/jpeg": ""}}),
    "the tag ignore": executed("a-1", "f()", RECORD, tags=["nbval-ignore-output"]),
    "the tag skip": executed("a-1", "f()", RECORD, tags=["nbval-skip"]),
    "the old tag": executed("a-1", "f()", RECORD, tags=["pytest-validate-ignore-output"]),
    "the mark ignore": executed("a-1", "f()\n  # NBVAL_IGNORE_OUTPUT", RECORD),
    "the mark skip": executed("a-1", "##NBVAL_SKIP \nf()", RECORD),
    "the old mark": executed("a-1", "# PYTEST_VALIDATE_IGNORE_OUTPUT\nf()", RECORD),
}


@pytest.mark.parametrize("reason", UNCOMPARED)
def test_what_nbval_leaves_out_is_not_compared(reason):
    assert found(UNCOMPARED[reason]) == [
        "only 0 of 1 printing cells are compared, needed 60%: show results as records"
    ]


@pytest.mark.parametrize("output", [RECORD, TABLE, printed("x")])
def test_records_tables_and_text_are_compared_even_beside_a_picture(output):
    assert found(executed("a-1", "f()", PICTURE, output)) == []


def test_more_than_sixty_cells_are_too_many():
    cells = [markdown(f"m-{n}", "x") for n in range(60)]
    assert found(*cells) == []
    assert found(*cells, markdown("m-60", "x")) == ["has 61 cells, at most 60 can be held in mind"]


def test_every_problem_of_a_cell_is_told():
    cell = executed("0a1b2c3d", "# NBVAL_X\nf()", printed("w", "stderr"), tags=["exhibit"])
    assert len(found(cell)) == 4


def test_the_committed_chapters_have_no_problem(root):
    for path in root.glob("notebooks/*.ipynb"):
        assert problems(read_notebook(path)) == [], path.name
