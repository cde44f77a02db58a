"""A learner's first hour: the desk opens, chapter 00 runs, lab 00 is solved, the desk closes."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import pytest
from notebook_page import NotebookPage, Open
from watched_desk import AIINFRA, MARK, START_S, URL, Course, Desk, Visit

CHAPTER = "notebooks/00_start_here.ipynb"
LAB = "work/00_start_here.ipynb"
MASTER = "solutions/00_start_here.ipynb"

T = TypeVar("T")
needs_browser = pytest.mark.needs("browser", "jupyterlab", "playwright")

# The schoolbook interval that the lab warns of.
WRONG = '''\
def accuracy_interval(truth, predicted):
    """The share of right predictions, and the schoolbook interval around it."""
    n = len(truth)
    p = sum(t == q for t, q in zip(truth, predicted)) / n
    half = 1.96 * math.sqrt(p * (1 - p) / n)
    return p, p - half, p + half
'''


def cells_of(path: Path) -> dict[str, dict[str, Any]]:
    return {cell["id"]: cell for cell in json.loads(path.read_text("utf-8"))["cells"]}


def solution(course: Course, exercise: str) -> str:
    """The master's answer, as a learner would have written it."""
    lines = cells_of(course.root / MASTER)[exercise]["source"]
    return "".join(line for line in lines if "###" not in line).rstrip()


def complaints(notebook: dict[str, Any]) -> list[Any]:
    """Errors and stderr among the outputs of a saved notebook."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]


@pytest.fixture
def lab(course: Course) -> str:
    """Lab 00 in the learner's folder, untouched."""
    (course.root / LAB).unlink(missing_ok=True)
    done = course.aiinfra("start", "00")
    assert (done.returncode, done.stdout) == (0, f"{LAB}\n")
    return LAB


# The desk.


@needs_browser
def test_the_desk_opens_on_chapter_00_which_runs(
    desk: Desk, visit: Visit, open_notebook: Open
) -> None:
    from playwright.sync_api import expect

    page = open_notebook(CHAPTER, address=desk.url)
    assert urlsplit(page.page.url).path == f"/lab/tree/{CHAPTER}"
    expect(page.panel.locator(".jp-KernelName")).to_have_text("Python 3 (ipykernel)")
    assert set(desk.course.kernels()) == {sys.executable}

    page.run_all()

    table = page.output("doctor").get_by_role("table")
    expect(table).to_be_visible()
    expect(table).to_contain_text("What this machine can do for the course")
    expect(table.get_by_role("rowheader", name="Python", exact=True)).to_be_visible()
    expect(page.output("train").last).to_have_text(
        re.compile(r"^\s*accuracy on held-out images: 0\.9\d+\s*$")
    )
    chart = page.output("chart").locator("img")
    expect(chart).to_be_visible()
    assert chart.evaluate("image => [image.complete, image.naturalWidth > 600]") == [True, True]
    expect(page.output("map-table").get_by_role("table")).to_contain_text("Federated learning")
    expect(page.errors).to_have_count(0)
    assert complaints(page.save()) == []
    nothing_disturbs(visit, desk)


def nothing_disturbs(visit: Visit, desk: Desk) -> None:
    """No error in the console, no request to elsewhere, no dialog and no notification."""
    from playwright.sync_api import expect

    assert visit.errors == []
    assert visit.outside(desk) == []
    expect(visit.page.locator(".jp-Dialog, .Toastify__toast")).to_have_count(0)


@needs_browser
def test_the_commands_work_in_a_terminal_of_the_desk(
    course: Course, desk: Desk, open_notebook: Open
) -> None:
    page = open_notebook(CHAPTER)
    (course.root / LAB).unlink(missing_ok=True)
    page.choose("File", "New", "Terminal")
    terminal = page.page.locator(".jp-Terminal:not(.lm-mod-hidden) .xterm")
    terminal.click()

    def started() -> bool:
        # What is typed before the shell is connected is lost; a started lab is left alone.
        page.page.keyboard.type("aiinfra start 00\n")
        page.page.wait_for_timeout(2000)
        return (course.root / LAB).is_file()

    eventually(started)
    assert (course.root / LAB).read_bytes() == (course.root / "labs" / Path(LAB).name).read_bytes()


# The lab.


@needs_browser
def test_locked_cells_can_be_neither_changed_nor_deleted(lab: str, open_notebook: Open) -> None:
    from playwright.sync_api import expect

    page = open_notebook(lab)
    metadata = {name: cell["metadata"] for name, cell in cells_of(page.file).items()}
    locked = [name for name in metadata if metadata[name].get("nbgrader", {}).get("locked")]
    assert {"parameters", "accuracy-interval-check", "steady-p95-check"} <= set(locked)
    for name in locked:
        before = page.source(name)
        page.cell(name).locator(".cm-content").click()
        page.page.keyboard.type("spoiled = 1")
        assert page.source(name) == before
        delete(page, name)
        expect(page.cells).to_have_count(len(page.ids))
    delete(page, "accuracy-interval")
    expect(page.cells).to_have_count(len(page.ids))
    # The same keys do work where nothing is locked.
    delete(page, "try-interval")
    expect(page.cells).to_have_count(len(page.ids) - 1)
    saved = page.save()["cells"]
    assert {cell["id"] for cell in saved} == set(page.ids) - {"try-interval"}


def delete(page: NotebookPage, name: str) -> None:
    """Select the cell and press the keys that delete one."""
    page.cell(name).locator(".jp-InputArea-prompt").click()
    page.page.keyboard.press("d")
    page.page.keyboard.press("d")


@needs_browser
def test_a_lab_is_answered_wrongly_then_rightly_and_checked(
    lab: str, course: Course, desk: Desk, visit: Visit, open_notebook: Open
) -> None:
    from playwright.sync_api import expect

    page = open_notebook(lab)
    page.run_all()
    panels = {name: page.output(f"{name}-check") for name in ("accuracy-interval", "steady-p95")}
    for name, panel in panels.items():
        expect(panel).to_have_text(re.compile(rf"^\s*not started {name}: fill in the answer cell"))
    expect(page.errors).to_have_count(0)

    panel = panels["accuracy-interval"]
    page.write("accuracy-interval", WRONG)
    page.run("accuracy-interval")
    page.run("accuracy-interval-check")
    expect(panel).to_have_text(
        re.compile(r"^\s*not yet accuracy-interval: interval of 200 images differs")
    )
    results = json.loads((course.root / "labs/expected/00_start_here.json").read_text("utf-8"))
    accuracy, interval, perfect = results["exercises"]["accuracy-interval"]
    p = accuracy["value"]
    expect(panel.get_by_role("row")).to_have_text(
        [
            f"{interval['name']} at [0]",
            f"found{p - 1.96 * math.sqrt(p * (1 - p) / 200):.6g}",
            f"expected{interval['value'][0]:.6g}",
            f"hint{interval['hint']}",
            f"{perfect['name']} at [1]",
            f"found{1.0:.6g}",
            f"expected{perfect['value'][1]:.6g}",
            f"hint{perfect['hint']}",
        ]
    )

    page.write("accuracy-interval", solution(course, "accuracy-interval"))
    page.run("accuracy-interval")
    page.run("accuracy-interval-check")
    expect(panel).to_have_text(re.compile(r"^\s*passed accuracy-interval: 3 results agree\s*$"))
    page.save()
    done = course.aiinfra("check", "00")
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"accuracy-interval +passed +5/5", done.stdout), done.stdout
    assert re.search(r"steady-p95 +not started +0/5", done.stdout), done.stdout

    page.write("steady-p95", solution(course, "steady-p95"))
    page.run("steady-p95")
    page.run("steady-p95-check")
    expect(panels["steady-p95"]).to_have_text(re.compile(r"^\s*passed steady-p95: "))
    page.save()
    done = course.aiinfra("check", "00")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "10 of 10 points"), done.stderr
    nothing_disturbs(visit, desk)


# The command.


@pytest.mark.needs("jupyterlab")
def test_a_port_in_use_is_refused_in_one_sentence(course: Course) -> None:
    env = course.env | {MARK: uuid.uuid4().hex}
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = Course(course.root, env).aiinfra("lab", "--no-browser", "--port", str(port))
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        rf"aiinfra: port {port} on 127\.0\.0\.1 cannot be used: .*in use\. .*--port.*\n",
        done.stderr,
    )
    assert course.left(env[MARK]) == []


@pytest.mark.needs("jupyterlab")
def test_ctrl_c_ends_the_desk_and_its_kernels(course: Course, tmp_path: Path) -> None:
    # No Child here: it would end what the desk forgets.
    mark, log = uuid.uuid4().hex, tmp_path / "lab.log"
    with log.open("wb") as output:
        lab = subprocess.Popen(
            [*AIINFRA, "lab", "--no-browser"],
            cwd=course.root,
            env=course.env | {MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        found = eventually(lambda: re.search(URL, log.read_text("utf-8")))
        start_kernel(found[0])
        assert len(eventually(lambda: course.kernels(mark))) == 1

        # As a terminal does: to the foreground's whole process group.
        os.killpg(lab.pid, signal.SIGINT)

        assert lab.wait(START_S) == 0
        assert course.left(mark) == []
        assert "Traceback" not in log.read_text("utf-8")
    finally:
        course.kill(mark)
        lab.wait()


def start_kernel(url: str) -> None:
    parts = urlsplit(url)
    token = parse_qs(parts.query)["token"][0]
    order = urllib.request.Request(
        f"{parts.scheme}://{parts.netloc}/api/kernels",
        data=b"{}",
        headers={"Authorization": f"token {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(order, timeout=START_S) as answer:
        assert answer.status == 201


def eventually(look: Callable[[], T | None], within: float = START_S) -> T:
    """What ``look`` gives as soon as it gives something."""
    last = time.monotonic() + within
    while not (found := look()):
        assert time.monotonic() < last, "waited in vain"
        time.sleep(0.05)
    return found
