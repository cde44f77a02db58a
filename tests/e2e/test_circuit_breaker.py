"""Chapter 03 and lab 03 in the browser: the drill and its pictures, and the first part is built."""

from __future__ import annotations

import json
import re

import pytest
from notebook_page import NotebookPage, Open
from test_desk import cells_of, complaints, delete, needs_browser, nothing_disturbs
from watched_desk import Course, Desk, Visit

SLUG = "03_circuit_breaker"
CHAPTER = f"notebooks/{SLUG}.ipynb"
LAB = f"work/{SLUG}.ipynb"
EXERCISES = ("window", "probes", "late-answers", "slow-calls", "predicates", "jitter")
PICTURES = {
    "states-picture": {"green", "yellow", "red"},
    "jitter-demo": {"green", "blue", "red"},
    "drill-picture": {"green", "yellow", "red", "blue", "purple"},
    "price-chart": {"green"},
}


# The chapter.


@needs_browser
def test_chapter_03_runs_and_shows_its_drill_as_it_goes(
    desk: Desk, visit: Visit, open_notebook: Open
) -> None:
    from playwright.sync_api import expect

    page = open_notebook(CHAPTER)
    seen = page.watch_progress()

    page.run_all()

    expect(page.errors).to_have_count(0)
    for name, hues in PICTURES.items():
        assert page.hues(name) == hues, name
    states = seen()
    running = [share for share, is_running in states if is_running]
    assert running == sorted(running)
    # It is reported five times a second; a busy browser may show fewer, but not only the end.
    assert len({share for share in running if 0 < share < 1}) >= 3, states
    assert states[-1][0] == 1
    expect(page.output("drill")).to_have_text(re.compile(r"^\s*drill\s+(\d+)/\1 \(100 %\)\s*$"))
    expect(page.output("shared").last).to_have_text(
        re.compile(r"^\s*from the kill to a closed circuit: [\d.]+ s ")
    )
    behaviour_is_a_table(page, desk.course)
    assert complaints(page.save()) == []
    nothing_disturbs(visit, desk)


def behaviour_is_a_table(page: NotebookPage, course: Course) -> None:
    """The measured behaviour of each breaker is a row, and each finding a cell of its own."""
    from playwright.sync_api import expect

    file = course.root / "tests/benchmarks/results/breaker.json"
    measured = json.loads(file.read_text("utf-8"))["behaviour"]
    table = page.output("behaviour-table").get_by_role("table")
    expect(table.get_by_role("columnheader")).to_have_count(5)
    rows = table.get_by_role("row").filter(has=page.page.get_by_role("cell"))
    words = {True: "yes", False: "no"}
    found = [row.get_by_role("cell").all_text_contents() for row in rows.all()]
    names = {"naive": "flawed (naive)", "aiinfra_lab": "ours"}
    assert found == [
        [names.get(name, name), str(row["probes_of_200"])]
        + [words[value] for value in row.values() if isinstance(value, bool)]
        for name, row in measured.items()
    ]


# The lab.


@pytest.fixture
def lab(course: Course) -> str:
    """Lab 03 in the learner's folder, untouched."""
    (course.root / LAB).unlink(missing_ok=True)
    done = course.aiinfra("start", "03")
    assert (done.returncode, done.stdout) == (0, f"{LAB}\n")
    return LAB


@needs_browser
def test_the_checks_of_lab_03_can_be_neither_changed_nor_deleted(
    lab: str, open_notebook: Open
) -> None:
    from playwright.sync_api import expect

    page = open_notebook(lab)
    given = cells_of(page.file)
    locked = [name for name in given if given[name]["metadata"].get("editable") is False]
    assert {"setup", "crowd", *(f"{exercise}-check" for exercise in EXERCISES)} <= set(locked)
    for name in (*locked, "try-slow"):
        page.cell(name).locator(".cm-content").click()
        page.page.keyboard.type("spoiled = 1")
    for name in (*locked, *EXERCISES):
        delete(page, name)
        expect(page.cells, name).to_have_count(len(page.ids))
    # Both keys do work where nothing is locked.
    delete(page, "try-window")
    expect(page.cells).to_have_count(len(page.ids) - 1)
    saved = {cell["id"]: cell for cell in page.save()["cells"]}
    assert set(given) - set(saved) == {"try-window"}
    changed = [name for name in saved if saved[name]["source"] != given[name]["source"]]
    assert changed == ["try-slow"]


@needs_browser
def test_a_part_of_lab_03_is_built_wrongly_then_rightly(
    lab: str, course: Course, desk: Desk, visit: Visit, open_notebook: Open
) -> None:
    from playwright.sync_api import expect

    page = open_notebook(lab)
    page.run_all()
    expect(page.errors).to_have_count(0)
    expect(page.output("timeline")).to_have_text(re.compile("^Build parts 1, 2, 5 and 6 first"))
    for exercise in EXERCISES:
        # Exactly one output: no error beside the verdict.
        expect(page.output(f"{exercise}-check")).to_have_text(
            re.compile(rf"^\s*not started {exercise}: fill in the answer cell")
        )

    right = answer(course, "window")
    panel = page.output("window-check")
    build(
        page, "window", changed(right, "self.rate >= self.threshold", "self.rate > self.threshold")
    )
    results = json.loads((course.root / f"labs/expected/{SLUG}.json").read_text("utf-8"))
    record = results["exercises"]["window"][2]
    name, index = record["name"], record["value"].index(True)
    expect(panel).to_have_text(
        re.compile(rf"^\s*not yet window: {re.escape(name)} differs at \[{index}\]")
    )
    expect(panel.get_by_role("row")).to_have_text(
        [f"{name} at [{index}]", "foundFalse", "expectedTrue", f"hint{record['hint']}"]
    )
    build(page, "window", right)
    expect(panel).to_have_text(re.compile(r"^\s*passed window: 7 results agree\s*$"))

    # A task with more than one right answer: not a value is expected, but a condition.
    right = answer(course, "jitter")
    panel = page.output("jitter-check")
    build(page, "jitter", changed(right, "bound / 2 + rng.random() * bound / 2", "bound"))
    record = results["exercises"]["jitter"][0]
    rows = panel.get_by_role("row")
    expect(rows.nth(0)).to_have_text(f"{record['name']} at outputs")
    expect(rows.nth(1)).to_have_text("found1")
    expect(rows.nth(2)).to_have_text("expectedat least 950 distinct outputs")
    expect(rows.nth(3)).to_have_text(f"hint{record['hint']}")

    # What was saved from the browser is what the command judges.
    page.save()
    done = course.aiinfra("check", "03")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "5 of 32 points"), done.stderr
    assert re.search(r"window +passed +5/5", done.stdout), done.stdout
    assert re.search(r"probes +not started +0/6", done.stdout), done.stdout
    assert re.search(r"jitter +not yet +0/5", done.stdout), done.stdout
    nothing_disturbs(visit, desk)


def changed(text: str, old: str, new: str) -> str:
    """``text`` with ``old``, which it has once, replaced."""
    assert text.count(old) == 1
    return text.replace(old, new)


def answer(course: Course, exercise: str) -> str:
    """The master's answer, as a learner would have written it."""
    lines = cells_of(course.root / f"solutions/{SLUG}.ipynb")[exercise]["source"]
    return "".join(line for line in lines if "###" not in line).rstrip()


def build(page: NotebookPage, exercise: str, code: str) -> None:
    """Write the answer, run it, and run its check."""
    page.write(exercise, code)
    page.run(exercise)
    page.run(f"{exercise}-check")
