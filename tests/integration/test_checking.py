"""``check`` on real submissions of lab 00: one batch, one verdict each."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from aiinfra_lab.course.checking import CheckReport, Lab, Mark, check_many
from aiinfra_lab.course.layout import Course
from aiinfra_lab.course.masters import grade_id, released
from aiinfra_lab.course.notebooks import Notebook
from aiinfra_lab.errors import InputError

COURSE = Course(Path(__file__).resolve().parents[2])
INTERVAL, P95 = "accuracy-interval", "steady-p95"


def _with(master: Notebook, key: str, source: str) -> Notebook:
    """The master in which one answer is replaced."""
    made = copy.deepcopy(master)
    for cell in made["cells"]:
        if grade_id(cell) == key:
            cell["source"] = source
    return made


def _answer(master: Notebook, key: str) -> str:
    return next(cell["source"] for cell in master["cells"] if grade_id(cell) == key)


def _stray(source: str) -> dict:
    return {
        "cell_type": "code",
        "id": "mine",
        "metadata": {},
        "source": source,
        "outputs": [],
        "execution_count": None,
    }


def _submissions(master: Notebook) -> dict[str, Notebook]:
    right = _answer(master, INTERVAL)
    helper = _with(master, INTERVAL, right.replace("def accuracy_interval", "def hidden_away"))
    helper = _with(helper, INTERVAL, "def accuracy_interval(a, b):\n    return helper(a, b)")
    helper["cells"].insert(3, _stray(right.replace("def accuracy_interval", "def helper")))
    twice = copy.deepcopy(master)
    index = next(i for i, c in enumerate(twice["cells"]) if grade_id(c) == INTERVAL)
    twice["cells"].insert(index, {**twice["cells"][index], "source": "1 / 0"})
    moved = copy.deepcopy(master)
    moved["cells"].append(moved["cells"].pop(index))
    moved["cells"][-1]["cell_type"] = "markdown"
    visible_only = right.replace("z = 1.96", "z = 1.96 if predicted != [0] * n else 3.0")
    return {
        "master": master,
        "blank": released(master),
        "helper": helper,
        "wrong": _with(master, INTERVAL, right.replace("1.96", "1.64")),
        "visible-only": _with(master, INTERVAL, visible_only),
        "syntax": _with(master, INTERVAL, "def accuracy_interval(:"),
        "raises": _with(master, INTERVAL, "def accuracy_interval(a, b):\n    return 1 / 0"),
        "exits": _with(master, INTERVAL, "import os\nos._exit(0)"),
        "hangs": _with(master, INTERVAL, "def accuracy_interval(a, b):\n    while True: pass"),
        "prints": _with(master, INTERVAL, f"import sys\nprint('x', file=sys.stderr)\n{right}"),
        "object": _with(
            master, INTERVAL, "def accuracy_interval(a, b):\n    return [object()] * 3"
        ),
        "twice": twice,
        "moved": moved,
        "imports-master": _with(
            master,
            INTERVAL,
            "import aiinfra_lab.course.masters as m\naccuracy_interval = m.exercises",
        ),
    }


@pytest.fixture(scope="module")
def reports() -> dict[str, CheckReport]:
    from aiinfra_lab.course.runner import LocalExecutor

    lab = Lab.load(COURSE, "00")
    blocked = lab.metadata.model_copy(update={"answers": ("aiinfra_lab.course.masters",)})
    lab = Lab(blocked, lab.master, lab.exercises, lab.seed, lab.reference, lab.public)
    return check_many(lab, _submissions(lab.master), executor=LocalExecutor(cell_timeout_s=20))


def _mark(report: CheckReport, exercise: str = INTERVAL) -> Mark:
    return next(mark for mark in report.marks if mark.exercise == exercise)


def test_the_master_has_all_points(reports) -> None:
    assert reports["master"].passed
    assert (reports["master"].points, reports["master"].of) == (10, 10)


def test_the_released_lab_is_not_started(reports) -> None:
    assert [mark.status for mark in reports["blank"].marks] == ["not started"] * 2


def test_a_helper_in_a_cell_that_is_not_handed_in_is_named(reports) -> None:
    reason = _mark(reports["helper"]).reason

    assert "helper is defined in cell 'mine', which is not handed in" in reason
    assert INTERVAL in reason


def test_a_wrong_answer_reads_expected_found_and_hint(reports) -> None:
    mark = _mark(reports["wrong"])

    assert mark.status == "not yet"
    assert "interval of 200 images" in mark.reason
    assert "expected" in mark.reason
    assert "low takes the minus" in mark.reason


def test_a_hidden_difference_costs_the_points_and_shows_nothing(reports) -> None:
    mark = _mark(reports["visible-only"])

    assert (mark.earned, mark.differences) == (0, ())
    assert "hidden one differs" in mark.reason
    assert "wrong" not in mark.reason


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("syntax", "SyntaxError"),
        ("raises", "ZeroDivisionError"),
        ("exits", "kernel died"),
        ("hangs", "Timeout of 20 seconds"),
        ("object", "a record holds numbers"),
        ("imports-master", "is the answer of this lab"),
    ],
)
def test_the_reason_says_what_happened(reports, name: str, words: str) -> None:
    mark = _mark(reports[name])

    assert mark.status == "not yet"
    assert words in mark.reason


@pytest.mark.parametrize("name", ["syntax", "raises", "hangs", "object", "wrong", "helper"])
def test_a_failed_exercise_does_not_cost_another_its_points(reports, name: str) -> None:
    assert _mark(reports[name], P95).status == "passed"


def test_output_beside_the_records_costs_nothing(reports) -> None:
    assert reports["prints"].passed


def test_of_two_cells_with_one_id_the_last_counts_and_it_is_said(reports) -> None:
    assert reports["twice"].passed
    assert "stands there twice" in reports["twice"].notes[0]


def test_an_answer_that_was_moved_and_turned_into_text_is_found(reports) -> None:
    assert reports["moved"].passed


def test_another_seed_gives_another_reference_and_the_master_still_passes() -> None:
    lab = Lab.load(COURSE, "00", seed=2**70)

    assert lab.reference[f"{P95}-check"] != Lab.load(COURSE, "00").reference[f"{P95}-check"]
    assert check_many(lab, {"master": lab.master})["master"].passed


def test_a_release_has_no_masters_and_checks_what_is_public(tmp_path: Path) -> None:
    import shutil

    for name in ("notebooks", "labs"):
        shutil.copytree(COURSE.root / name, tmp_path / name)
    lab = Lab.load(Course(tmp_path), "00")
    master = Lab.load(COURSE, "00").master

    assert check_many(lab, {"master": master})["master"].passed
    with pytest.raises(InputError, match="another seed"):
        Lab.load(Course(tmp_path), "00", seed=5)
