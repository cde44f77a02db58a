"""The proofs of every lab: its verdicts follow the work, and nothing but the work.

Blank scores nothing, the master everything under twenty seeds, each exercise stands alone, and no
check can be passed by printing what another seed gave.
"""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest

from aiinfra_lab.course.checking import Lab, check_many
from aiinfra_lab.course.judgement import differences_in, is_check, raised_in
from aiinfra_lab.course.layout import Course, notebook_names
from aiinfra_lab.course.masters import blanked, exercises, grade_id, released
from aiinfra_lab.course.notebooks import Notebook, code_cells, read_notebook
from aiinfra_lab.course.runner import CellRun, LocalExecutor
from aiinfra_lab.course.submissions import read_submission, rebuilt

COURSE = Course(Path(__file__).resolve().parents[2])
SEEDS = range(1_000, 1_020)
LABS = pytest.mark.parametrize("name", notebook_names(COURSE.masters))


@LABS
def test_blank_scores_nothing_and_each_exercise_stands_alone(name: str) -> None:
    lab = Lab.load(COURSE, name)
    names = [exercise.name for exercise in lab.exercises]
    submissions = {f"without-{exercise}": blanked(lab.master, {exercise}) for exercise in names}
    submissions["blank"] = released(lab.master)
    submissions["master"] = lab.master

    reports = check_many(lab, submissions)

    assert reports["master"].passed, reports["master"]
    assert reports["blank"].points == 0
    assert {mark.status for mark in reports["blank"].marks} == {"not started"}
    for exercise in names:
        statuses = {mark.exercise: mark.status for mark in reports[f"without-{exercise}"].marks}
        assert statuses.pop(exercise) == "not started"
        assert set(statuses.values()) <= {"passed"}


@LABS
def test_the_master_agrees_with_itself_under_twenty_seeds(name: str) -> None:
    first, second = _under_all_seeds(name)

    for seed in SEEDS:
        for check in _checks(name):
            one, other = first[f"{check}-{seed}"], second[f"{check}-{seed}"]
            assert not one.failure
            assert raised_in(one.outputs) is None
            assert not differences_in(one.outputs, other.outputs), (check, seed)


@LABS
def test_the_records_of_every_check_depend_on_the_seed(name: str) -> None:
    runs, _ = _under_all_seeds(name)

    for check in _checks(name):
        one, other = (runs[f"{check}-{seed}"].outputs for seed in (SEEDS[0], SEEDS[1]))
        assert differences_in(one, other), f"{check} can be passed by printing a constant"


def _checks(name: str) -> list[str]:
    return [exercise.check for exercise in exercises(_master(name))]


def _master(name: str) -> Notebook:
    return read_notebook(COURSE.masters / f"{name}.ipynb")


@cache
def _under_all_seeds(name: str) -> tuple[dict[str, CellRun], dict[str, CellRun]]:
    """Two runs of the master in kernels of their own, in each every check under every seed."""
    notebook = _repeated(_master(name))
    runs = LocalExecutor(cell_timeout_s=120).run({"one": notebook, "two": notebook})
    return runs["one"], runs["two"]


def _repeated(master: Notebook) -> Notebook:
    """The master with its checks once a seed: one kernel start instead of twenty."""
    answers = read_submission(master, master).answers
    notebook = rebuilt(master, answers, seed=SEEDS[0], blocked=())
    checks = [cell for cell in code_cells(notebook) if is_check(cell)]
    notebook["cells"] = [cell for cell in notebook["cells"] if not is_check(cell)]
    for seed in SEEDS:
        for check in checks:
            cell = copy.deepcopy(check)
            cell["id"] = f"{grade_id(check)}-{seed}"
            cell["source"] = f"seed = {seed}\n{cell['source']}"
            notebook["cells"].append(cell)
    return notebook
