"""The proofs of every lab: its verdicts follow the work, and nothing but the work.

Blank scores nothing, the master everything under twenty seeds, each exercise stands alone, no
check can be passed by printing what another seed gave, and grading needs no engine and little time.

All of it in the sandbox and by the grader's own means, as a class is graded: one real batch of the
master, the blank and those with one exercise missing, and the master as a submission under each
further seed. One server is prepared for a lab, and every run is a fork of it.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from aiinfra_lab.course.checking import CheckReport, Lab, Outputs, judge, with_own_answers
from aiinfra_lab.course.judgement import differences_in, is_check, raised_in
from aiinfra_lab.course.layout import Course, notebook_names
from aiinfra_lab.course.masters import blanked, grade_id, released
from aiinfra_lab.course.notebooks import Cell, Notebook, code_cells, write_notebook
from aiinfra_lab.course.records import records_in
from aiinfra_lab.course.submissions import read_submission, rebuilt
from aiinfra_lab.grading import Bounds, Order, SandboxWorkplace, grade
from aiinfra_lab.grading.results import SubmissionResult
from aiinfra_lab.grading.runs import Run, Workplace
from aiinfra_lab.sandbox import Limits

pytestmark = pytest.mark.needs("sandbox", "ipykernel")

COURSE = Course(Path(__file__).resolve().parents[2])
SEEDS = range(1_000, 1_020)
# A reference run holds so many seeds: fewer kernels, and what leaks from one check or seed into the
# next differs from what the submission of that seed gave by itself.
SEEDS_A_RUN = 5
# A submission should take at most 3 processor seconds, so a reference run 15. No machine is so slow
# that an honest lab takes four times as long: beyond that the sandbox ends it, and its proof fails.
LIMITS = Limits(cpu_s=60.0)
SIDE_BY_SIDE = 2
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


@dataclass(frozen=True)
class Proof:
    """What the sandbox has shown of one lab."""

    lab: Lab
    rows: dict[str, SubmissionResult]
    """Of the batch, by what was handed in."""
    references: dict[int, Outputs]
    """By seed what the master gives, by ``grade_id``."""
    reports: dict[int, CheckReport]
    """By seed the verdict on the master as a submission."""
    cpu_s: list[float]
    """Processor seconds of each of those submissions."""
    asked: set[str]
    """What the graded cells asked the system for, as printed."""


@LABS
def test_the_points_are_those_of_the_exercises_that_are_done(name: str) -> None:
    proof = _proof(name)
    every = {exercise.name: exercise.points for exercise in proof.lab.exercises}
    rows = proof.rows

    assert (rows["master"].points, rows["master"].reason) == (sum(every.values()), "")
    assert rows["blank"].points == 0
    assert {mark.status for mark in rows["blank"].exercises if mark.exercise in every} == {
        "not started"
    }
    for one, points in every.items():
        row = rows[f"without-{one}"]
        assert row.points == sum(every.values()) - points, [m for m in row.exercises if m.reason]
        assert {m.status for m in row.exercises if m.exercise == one} == {"not started"}


@LABS
def test_the_master_has_all_points_under_twenty_seeds(
    name: str, request: pytest.FixtureRequest
) -> None:
    proof = _proof(name)

    assert proof.reports.keys() == set(SEEDS)
    for seed, report in proof.reports.items():
        assert report.passed, (seed, [mark for mark in report.marks if mark.reason])
        assert report.points == sum(e.points for e in proof.lab.exercises)
    # A report, in the JUnit file, and no gate: a timing decides no test.
    request.node.user_properties.append(("cpu_s", statistics.median(proof.cpu_s)))


@LABS
def test_the_records_of_every_check_depend_on_the_seed(name: str) -> None:
    proof = _proof(name)

    for check in _checks(proof.lab):
        one, other = (proof.references[seed][check] for seed in SEEDS[:2])
        assert differences_in(one, other), f"{check} can be passed by printing a constant"


@LABS
def test_the_limits_of_a_check_do_not_give_its_answer_away(name: str) -> None:
    """A submission may read the limits in its own kernel, and answer with what lies between.

    So each check has a result that only the reference knows: one that must be equal and depends
    on the seed, or a trace whose limits are relative to the reference's outputs.
    """
    proof = _proof(name)

    for check in _checks(proof.lab):
        pair = zip(*(records_in(proof.references[seed][check]) for seed in SEEDS[:2]), strict=True)
        assert any(
            one.value != other.value
            if one.rule in {"equal", "multiset"}
            else one.rule == "trace" and any(kind == "relative" for kind, _ in one.bound)
            for one, other in pair
        ), check


@LABS
def test_graded_cells_reach_for_no_engine(name: str) -> None:
    assert _proof(name).asked == {"[]\n"}


def _checks(lab: Lab) -> list[str]:
    return [exercise.check for exercise in lab.exercises]


@cache
def _proof(name: str) -> Proof:
    with tempfile.TemporaryDirectory(prefix="aiinfra-proof-") as folder:
        return asyncio.run(_proved(name, Path(folder)))


async def _proved(name: str, folder: Path) -> Proof:
    lab = Lab.load(COURSE, name)
    about, master = lab.metadata, COURSE.masters / f"{name}.ipynb"
    bounds = Bounds(cell_s=max(about.budget_s, 60), total_bytes=SEEDS_A_RUN * (16 << 20))
    place = SandboxWorkplace(
        about.answers, about.preload, limits=LIMITS, bounds=bounds, secrets=[master], kind="nested"
    )
    chunks = [SEEDS[at : at + SEEDS_A_RUN] for at in range(0, len(SEEDS), SEEDS_A_RUN)]
    side_by_side = asyncio.Semaphore(SIDE_BY_SIDE)

    async def run(notebook: Notebook) -> Run:
        async with side_by_side:
            found = await place.run(notebook)
        assert not found.limit, f"{name}: the master was ended by a limit: {found.limit}"
        return found

    own = read_submission(lab.master, lab.master)
    handed_in = {
        seed: rebuilt(lab.master, own.answers, seed=seed, blocked=about.answers) for seed in SEEDS
    }
    async with place:
        rows = await _batch(lab, place, folder)
        long, short = await asyncio.gather(
            asyncio.gather(*(run(_under(lab, chunk)) for chunk in chunks)),
            asyncio.gather(*map(run, handed_in.values())),
        )
    references = {
        seed: {check: _given(found, f"{check}-{seed}") for check in _checks(lab)}
        for chunk, found in zip(chunks, long, strict=True)
        for seed in chunk
    }
    reports = {
        seed: judge(replace(lab, seed=seed, reference=references[seed]), own, notebook, found.cells)
        for (seed, notebook), found in zip(handed_in.items(), short, strict=True)
    }
    asked = {_given(found, "asked")[0]["text"] for found in long}
    return Proof(lab, rows, references, reports, [found.cpu_s for found in short], asked)


def _given(run: Run, cell: str) -> list[dict[str, Any]]:
    """What a cell gave; none may fail here, and no exercise be ended by an error."""
    found = run.cells[cell]
    assert not found.failure, (cell, found.failure)
    assert raised_in(found.outputs) is None, cell
    return found.outputs


async def _batch(lab: Lab, place: Workplace, folder: Path) -> dict[str, SubmissionResult]:
    """The rows of a real batch, graded under a secret seed with every wall standing."""
    submissions = {f"without-{e.name}": blanked(lab.master, {e.name}) for e in lab.exercises}
    submissions |= {"blank": released(lab.master), "master": lab.master}
    (folder / "in").mkdir()
    for learner, notebook in submissions.items():
        write_notebook(folder / "in" / f"{learner}.ipynb", notebook)

    @asynccontextmanager
    async def ready(_: Lab) -> AsyncIterator[Workplace]:
        yield place

    order = Order(
        lab=lab.metadata.id,
        submissions=folder / "in",
        out=folder / "out",
        jobs=SIDE_BY_SIDE,
        require_sandbox=True,
    )
    result = await grade(order, COURSE, ready)
    assert {wall.stood for wall in result.walls} == {True}
    return {row.id: row for row in result.submissions}


def _under(lab: Lab, seeds: Sequence[int]) -> Notebook:
    """The master with its checks once a seed, watched for the engines that it asks for."""
    notebook = with_own_answers(lab.master, seeds[0])
    checks = [cell for cell in code_cells(notebook) if is_check(cell)]
    cells = [_cell("watch", WATCH), *(c for c in notebook["cells"] if not is_check(c))]
    for seed in seeds:
        for check in checks:
            source = f"seed = {seed}\n{check['source']}"
            cells.append({**check, "id": f"{grade_id(check)}-{seed}", "source": source})
    return {**notebook, "cells": [*cells, _cell("asked", "print(asked)")]}


def _cell(name: str, source: str) -> Cell:
    cell: dict[str, Any] = {"cell_type": "code", "id": name, "metadata": {}, "source": source}
    return {**cell, "outputs": [], "execution_count": None}
