"""The proofs of every lab: its verdicts follow the work, and nothing but the work.

Blank scores nothing, the master everything under twenty seeds, each exercise stands alone, no
check can be passed by printing what another seed gave, and grading needs no engine and little time.
"""

from __future__ import annotations

import copy
import statistics
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from aiinfra_lab.course.checking import Lab, check_many
from aiinfra_lab.course.judgement import differences_in, is_check, raised_in
from aiinfra_lab.course.layout import Course, notebook_names
from aiinfra_lab.course.masters import blanked, exercises, grade_id, released
from aiinfra_lab.course.metadata import read_metadata
from aiinfra_lab.course.notebooks import Cell, Notebook, code_cells, read_notebook
from aiinfra_lab.course.records import records_in
from aiinfra_lab.course.runner import CellRun, LocalExecutor
from aiinfra_lab.course.submissions import read_submission, rebuilt

COURSE = Course(Path(__file__).resolve().parents[2])
SEEDS = range(1_000, 1_020)
MOST_CPU_S = 3.0
LABS = pytest.mark.parametrize("name", notebook_names(COURSE.masters))

# An engine is reached by a socket or started as a process. What asks for one is noted and not
# refused: a refusal could be caught. The kernel's own messages go through ZeroMQ, which Python's
# audit does not see.
WATCH = """
import sys

asked = []
engines = {"socket.connect", "subprocess.Popen", "os.posix_spawn", "os.fork", "os.system"}
sys.addaudithook(lambda event, arguments: asked.append(event) if event in engines else None)
"""
CPU = "import os; print(sum(os.times()[:4]))"


@LABS
def test_the_points_are_those_of_the_exercises_that_are_done(name: str) -> None:
    lab = Lab.load(COURSE, name)
    every = {exercise.name: exercise.points for exercise in lab.exercises}
    submissions = {f"without-{one}": blanked(lab.master, {one}) for one in every}
    submissions["blank"] = released(lab.master)
    submissions["master"] = lab.master

    reports = check_many(lab, submissions)

    assert reports["master"].passed, reports["master"]
    assert reports["master"].points == sum(every.values())
    assert reports["blank"].points == 0
    assert {mark.status for mark in reports["blank"].marks} == {"not started"}
    for one, points in every.items():
        report = reports[f"without-{one}"]
        assert report.points == report.of - points, [m for m in report.marks if m.reason]
        assert {m.status for m in report.marks if m.exercise == one} == {"not started"}


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


@LABS
def test_the_limits_of_a_check_do_not_give_its_answer_away(name: str) -> None:
    """A submission may read the limits in its own kernel, and answer with what lies between.

    So each check has a result that only the reference knows: one that must be equal and depends
    on the seed, or a trace whose limits are relative to the reference's outputs.
    """
    runs, _ = _under_all_seeds(name)

    for check in _checks(name):
        pair = zip(
            *(records_in(runs[f"{check}-{seed}"].outputs) for seed in SEEDS[:2]), strict=True
        )
        assert any(
            one.value != other.value
            if one.rule in {"equal", "multiset"}
            else one.rule == "trace" and any(kind == "relative" for kind, _ in one.bound)
            for one, other in pair
        ), check


@LABS
def test_graded_cells_reach_for_no_engine(name: str) -> None:
    runs, _ = _under_all_seeds(name)

    assert runs["asked"].outputs[0]["text"] == "[]\n"


@LABS
def test_a_submission_takes_little_cpu_time(name: str) -> None:
    runs, _ = _under_all_seeds(name)

    # Imports that the lab preloads are not the submission's; what all checks share is.
    seconds = [_seconds(runs[f"cpu-{seed}"]) for seed in ("begin", "answered", *SEEDS)]
    shared = seconds[1] - seconds[0]
    by_seed = [after - before for before, after in pairwise(seconds[1:])]
    assert shared + statistics.median(by_seed) <= MOST_CPU_S


def _seconds(run: CellRun) -> float:
    return float(run.outputs[0]["text"])


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
    metadata = read_metadata(master, "the master")
    answers = read_submission(master, master).answers
    notebook = rebuilt(master, answers, seed=SEEDS[0], blocked=metadata.answers)
    checks = [cell for cell in code_cells(notebook) if is_check(cell)]
    preload = ", ".join(("aiinfra_lab.course", *metadata.preload))
    cells = [
        _cell("preload", f"import {preload}"),
        _cell("watch", WATCH),
        _cell("cpu-begin", CPU),
        *(cell for cell in notebook["cells"] if not is_check(cell)),
        _cell("cpu-answered", CPU),
    ]
    for seed in SEEDS:
        for check in checks:
            cell = copy.deepcopy(check)
            cell["id"] = f"{grade_id(check)}-{seed}"
            cell["source"] = f"seed = {seed}\n{cell['source']}"
            cells.append(cell)
        cells.append(_cell(f"cpu-{seed}", CPU))
    cells.append(_cell("asked", "print(asked)"))
    return {**notebook, "cells": cells}


def _cell(name: str, source: str) -> Cell:
    cell: dict[str, Any] = {"cell_type": "code", "id": name, "metadata": {}, "source": source}
    return {**cell, "outputs": [], "execution_count": None}
