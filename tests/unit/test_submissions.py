"""Submissions: of a learner's notebook only the answers count, wherever they stand."""

from __future__ import annotations

import copy

import pytest
from builders import cell_of, code, json_values, markdown, master
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.course.masters import released, without_solutions
from aiinfra_lab.course.submissions import read_submission, rebuilt

MASTER = master()
BLANK = {name: without_solutions(cell_of(MASTER, name)["source"]) for name in ("double", "half")}


def submitted(**answers):
    """What a learner hands in who wrote these answers."""
    notebook = released(MASTER)
    for name, source in answers.items():
        cell_of(notebook, name)["source"] = source
    return notebook


def read(notebook):
    return read_submission(notebook, MASTER)


def test_answers_are_found_by_their_grade_id():
    submission = read(submitted(double="def double(x): return x + x"))
    assert submission.answers == {
        "double": "def double(x): return x + x",
        "half": BLANK["half"],
    }
    assert submission.notes == []


def test_an_answer_whose_grading_was_lost_is_found_by_its_cells_id():
    notebook = submitted(half="mine")
    cell_of(notebook, "half")["metadata"] = {}
    assert read(notebook).answers["half"] == "mine"
    assert read(notebook).notes == []


def test_an_answer_whose_id_was_changed_is_found_by_its_grade_id():
    notebook = submitted(half="mine")
    cell_of(notebook, "half")["id"] = "0a1b2c3d"
    assert read(notebook).answers["half"] == "mine"


def test_of_two_answers_with_one_id_the_last_counts_and_the_learner_is_told():
    notebook = submitted(double="first")
    again = copy.deepcopy(cell_of(notebook, "double"))
    again["source"] = "second"
    notebook["cells"].append(again)
    assert read(notebook).answers["double"] == "second"
    assert read(notebook).notes == ["cell 'double' stands there twice; the last one counts"]


@law(deadline=None, max_examples=30)
@given(st.randoms(use_true_random=False))
def test_answers_are_found_wherever_they_were_moved(random):
    notebook = submitted(double="one", half="two")
    random.shuffle(notebook["cells"])
    assert read(notebook).answers == {"double": "one", "half": "two"}


@pytest.mark.parametrize("kind", ["markdown", "raw"])
def test_an_answer_that_was_turned_into_text_is_still_an_answer(kind):
    notebook = submitted(double="mine")
    cell = cell_of(notebook, "double")
    cell["cell_type"] = kind
    del cell["outputs"], cell["execution_count"]
    assert read(notebook).answers["double"] == "mine"


def test_an_answer_that_was_deleted_is_blank_and_the_learner_is_told():
    notebook = submitted(half="mine")
    notebook["cells"] = [cell for cell in notebook["cells"] if cell["id"] != "double"]
    assert read(notebook).answers == {"double": BLANK["double"], "half": "mine"}
    assert read(notebook).notes == ["cell 'double' is missing"]


def test_checks_of_a_submission_are_never_taken():
    notebook = submitted()
    cell_of(notebook, "double-check")["source"] = "print('passed')"
    cell_of(notebook, "setup")["source"] = "evil = 1"
    run = rebuilt(MASTER, read(notebook).answers, seed=7, blocked=())
    for cell_id in ("double-check", "setup"):
        assert cell_of(run, cell_id)["source"] == cell_of(MASTER, cell_id)["source"]


def test_a_cell_of_the_learners_that_claims_to_be_a_check_is_no_answer():
    notebook = submitted()
    mine = code("mine", "x = 1")
    mine["metadata"]["nbgrader"] = {"grade_id": "double-check", "solution": True}
    notebook["cells"].append(mine)
    assert read(notebook).answers.keys() == {"double", "half"}


@law(deadline=None, max_examples=30)
@given(json_values, st.none() | st.text(max_size=5), json_values)
def test_a_strangers_metadata_never_stops_the_reading(grading, cell_id, tags):
    notebook = submitted(half="mine")
    stray = {**code("x", "y = 1"), "metadata": {"nbgrader": grading, "tags": tags}}
    if cell_id is None:
        del stray["id"]
    else:
        stray["id"] = cell_id
    notebook["cells"].insert(0, stray)
    assert read(notebook).answers["half"] == "mine"


# --- names in cells that are not handed in -------------------------------------------------------


def stray(*sources):
    notebook = submitted()
    notebook["cells"] += [code(f"stray-{n}", source) for n, source in enumerate(sources)]
    return read(notebook).stray_names


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def helper(): inner = 1", {"helper"}),
        ("async def helper(): ...", {"helper"}),
        ("class Helper: field = 1", {"Helper"}),
        ("import numpy as np, os.path", {"np", "os"}),
        ("from math import pi, tau as two_pi", {"pi", "two_pi"}),
        ("a = b = 1", {"a", "b"}),
        ("(a, [b, *c]) = d = x", {"a", "b", "c", "d"}),
        ("a: int = 1", {"a"}),
        ("a += 1", {"a"}),
        ("a.b = c[d] = 1", set()),
        ("print(a)", set()),
        ("", set()),
    ],
)
def test_names_that_a_stray_cell_defines_are_known_with_their_cell(source, names):
    assert stray(source) == dict.fromkeys(names, "stray-0")


def test_what_python_warns_of_in_a_stray_cell_is_not_ours_to_print():
    assert stray('pattern = "\\d"\nassert (1, "always")') == {"pattern": "stray-0"}


def test_the_last_stray_cell_that_defines_a_name_is_named():
    assert stray("a = 1", "a = 2; b = 3") == {"a": "stray-1", "b": "stray-1"}


@pytest.mark.parametrize("source", ["def f(:", "%matplotlib inline", "a\0b", "(" * 500, "é = '"])
def test_a_stray_cell_that_is_no_python_defines_nothing_and_stops_nothing(source):
    assert stray(source, "b = 1") == {"b": "stray-1"}


def test_names_that_the_masters_own_cells_define_are_not_stray():
    notebook = submitted()
    cell_of(notebook, "setup")["source"] += "\nmine = 1"
    notebook["cells"].append(code("again", "from aiinfra_lab.course import exercise\nseed = 1"))
    assert read(notebook).stray_names == {"mine": "setup"}


def test_an_answer_that_was_written_in_a_stray_cell_is_stray():
    assert stray("def double(x): return 2 * x") == {"double": "stray-0"}


def test_text_and_answers_define_no_stray_names():
    notebook = submitted(double="def double(x): ...")
    notebook["cells"].append(markdown("note", "a = 1"))
    assert read(notebook).stray_names == {}


# --- the notebook that is run instead ------------------------------------------------------------


def run_of(lab=MASTER, seed=7, blocked=(), **answers):
    return rebuilt(lab, BLANK | answers, seed=seed, blocked=blocked)


def test_the_answers_stand_in_the_masters_place():
    run = run_of(double="mine")
    assert cell_of(run, "double")["source"] == "mine"
    assert cell_of(run, "half")["source"] == BLANK["half"]


def test_the_seed_is_set_right_after_the_parameters():
    cells = run_of(seed=12345)["cells"]
    place = next(n for n, cell in enumerate(cells) if cell["id"] == "parameters")
    assert cells[place + 1]["source"] == "seed = 12345"
    assert sum(cell["id"] == cells[place + 1]["id"] for cell in cells) == 1


def test_the_answers_modules_are_blocked_before_anything_runs():
    first = run_of(blocked=["a.b", "c"])["cells"][0]
    assert "block(['a.b', 'c'])" in first["source"]
    compile(first["source"], "first", "exec")


def test_nothing_is_blocked_where_no_module_is_the_answer():
    assert run_of()["cells"][0]["id"] == "parameters"


def test_live_cells_and_text_are_not_run():
    lab = master()
    lab["cells"] += [
        code("cluster", "start()", tags=["live"]),
        code("no-cluster", "x", tags=["alive"]),
    ]
    ids = [cell["id"] for cell in run_of(lab)["cells"]]
    assert "cluster" not in ids
    assert "title" not in ids
    assert "no-cluster" in ids


def test_nothing_is_executed_yet_and_the_master_stays_as_it_is():
    lab = master()
    cell_of(lab, "setup")["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x"}]
    cell_of(lab, "setup")["execution_count"] = 4
    before = copy.deepcopy(lab)
    for cell in run_of(lab)["cells"]:
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
    assert lab == before
