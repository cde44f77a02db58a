"""Verdict attacks: each wins against a grader that trusts the kernel, and nothing against ours.

Both run in the sandbox. The plain grader is what is common: the checks assert next to the
submission, and what the kernel says of them is believed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import verdict_attacks as made

from aiinfra_lab.course.checking import Lab
from aiinfra_lab.course.layout import Course
from aiinfra_lab.course.submissions import read_submission, rebuilt
from aiinfra_lab.grading import Bounds, SandboxWorkplace
from aiinfra_lab.grading.batch import grade
from aiinfra_lab.grading.orders import Order
from aiinfra_lab.grading.results import BatchResult, SubmissionResult
from aiinfra_lab.grading.runs import Run, Workplace

pytestmark = pytest.mark.needs("sandbox", "ipykernel")

SEED = "5eed0000000000c3"
BOUNDS = Bounds(cell_s=20)
HONEST, BLANK = "honest", "blank"
Graded = tuple[dict[str, set[str]], dict[str, SubmissionResult]]


def _submissions() -> dict[str, dict[str, str]]:
    attacks = {f"a{n:02}": attack.answers() for n, attack in enumerate(made.ATTACKS)}
    return {HONEST: made.RIGHT, BLANK: {}} | attacks


def _notebook(answers: dict[str, str]) -> dict[str, Any]:
    return made.lab(*(made.answer(name, source) for name, source in answers.items()))


async def _plain(place: SandboxWorkplace) -> dict[str, set[str]]:
    """The exercises that a grader which trusts the kernel takes for passed, by submission."""
    master = made.master(plain=True)
    passed = {}
    for key, answers in _submissions().items():
        taken = read_submission(_notebook(answers), master).answers
        run = await place.run(rebuilt(master, taken, seed=made.PUBLIC_SEED, blocked=()))
        said = _printed(run)
        passed[key] = {name for name in made.EXERCISES if f"passed {name}" in said}
    return passed


def _printed(run: Run) -> list[str]:
    outputs = [output for cell in run.cells.values() for output in cell.outputs]
    text = "".join(o["text"] for o in outputs if o["output_type"] == "stream")
    return text.splitlines()


async def _both(folder: Path) -> tuple[dict[str, set[str]], BatchResult]:
    course, handed_in = Course(folder / "course"), folder / "handed-in"
    _put(course.masters / "07_made_up.ipynb", made.master())
    for key, answers in _submissions().items():
        _put(handed_in / f"{key}.ipynb", _notebook(answers))
    order = Order(lab="07", submissions=handed_in, out=folder / "out", seed=SEED, jobs=1)
    async with SandboxWorkplace(preload=["numpy"], bounds=BOUNDS, kind="nested") as place:
        assert all(wall.stood for wall in place.walls)

        @asynccontextmanager
        async def same(_: Lab) -> AsyncIterator[Workplace]:
            yield place

        return await asyncio.gather(_plain(place), grade(order, course, same))


def _put(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Graded:
    """Every submission by the plain grader, and by ours in one batch."""
    plain, result = asyncio.run(_both(tmp_path_factory.mktemp("attacks")))
    return plain, {row.id: row for row in result.submissions}


def test_both_graders_give_an_honest_learner_everything_and_a_blank_one_nothing(
    graded: Graded,
) -> None:
    plain, ours = graded
    assert plain[HONEST] == set(made.EXERCISES)
    assert plain[BLANK] == set()
    assert ours[HONEST].points == made.POINTS * len(made.EXERCISES)
    assert ours[BLANK].points == 0


@pytest.mark.parametrize(
    ("key", "attack"),
    [(f"a{n:02}", attack) for n, attack in enumerate(made.ATTACKS)],
    ids=[attack.name for attack in made.ATTACKS],
)
def test_attack_wins_against_a_plain_grader_and_nothing_against_ours(
    graded: Graded, key: str, attack: made.Attack
) -> None:
    plain, ours = graded
    assert plain[key] - set(attack.honest), "it wins nowhere, so it proves nothing"
    row = ours[key]
    assert row.state == "graded"
    assert {mark.exercise for mark in row.exercises if mark.earned} <= set(attack.honest)
    unearned = [mark for mark in row.exercises if not mark.earned]
    assert len(unearned) >= len(made.EXERCISES) - len(attack.honest)
    assert all(mark.reason for mark in unearned)


def test_nobody_pays_for_another(graded: Graded) -> None:
    _, ours = graded
    assert len(ours) == len(_submissions())
    # Those two were graded among the attacks, in forks of the same server.
    assert not any(mark.reason for mark in ours[HONEST].exercises)
    assert {mark.status for mark in ours[BLANK].exercises} == {"not started"}
