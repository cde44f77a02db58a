"""The product's own JupyterLab on a copy of the course, and a browser to use it with.

Server and browser live as long as a test module, not the session: the browser's driver keeps an
event loop, with which no asynchronous test could run in the same process.
"""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from notebook_page import NotebookPage, Open
from watched_desk import AIINFRA, MARK, START_S, URL, Course, Desk, Visit

from aiinfra_lab.needs import browser_program
from aiinfra_lab.processes import Child, LogLine

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PATIENCE_MS = 60_000
BROWSER_OPTIONS = (
    "--no-sandbox",  # the tests may run as root, in a container
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember a failed test, so that its page can be pictured."""
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


@pytest.fixture(scope="module")
def course(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    """A copy of the course; at the end nothing that was started in it may still run."""
    base = tmp_path_factory.mktemp("desk")
    copy, home = base / "course", base / "home"
    # Chapters draw what the benchmarks measured.
    for folder in ("notebooks", "labs", "solutions", "tests/benchmarks/results"):
        shutil.copytree(
            root / folder, copy / folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints")
        )
    home.mkdir()
    # With pytest's and CI's own variables a kernel would show no progress.
    foreign = ("AIINFRA_", "JUPYTER", "IPYTHON", "XDG_", "MPL", "PYTEST_", "CI")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    # `make lab` activates no environment either.
    own = str(Path(sys.executable).parent)
    places = [place for place in os.get_exec_path() if place != own]
    env |= {
        "PATH": os.pathsep.join(places),
        "HOME": str(home),
        "AIINFRA_COURSE": str(copy),
        "AIINFRA_HOME": str(base / "state"),
        "AIINFRA_CACHE": str(base / "cache"),
        "COLUMNS": "120",
        # As tests/run.py has it: on cores that are shared, threads of BLAS wait for each other.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        MARK: uuid.uuid4().hex,
    }
    course = Course(copy, env)
    yield course
    left = course.left()
    course.kill()
    assert left == [], "something still ran after the tests"


@pytest.fixture(scope="module")
def desk(course: Course) -> Iterator[Desk]:
    """JupyterLab, started by the product's command without any option but ``--no-browser``."""
    log = course.root.parent / "lab.log"
    command = [*AIINFRA, "lab", "--no-browser"]
    with Child(command, log=log, env=course.env, cwd=course.root, grace=30) as child:
        yield Desk(course, child, child.ready(LogLine(URL), timeout=START_S)[0])


@pytest.fixture(scope="module")
def browser(course: Course) -> Iterator[Browser]:
    """This machine's Chromium."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_program(), args=BROWSER_OPTIONS, env=dict(course.env)
        )
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture
def visit(browser: Browser, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Visit]:
    """An empty page of a new user; a failed test leaves a picture of it and its errors."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    visit = Visit(context.new_page())
    visit.page.on("console", visit.note_console)
    visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
    visit.page.on("request", visit.note_request)
    yield visit
    if request.node.stash.get(_FAILED, True):
        folder = Path(os.environ.get("AIINFRA_TEST_OUTPUT") or tmp_path)
        folder.mkdir(parents=True, exist_ok=True)
        picture = folder / f"{request.node.name}.png"
        visit.page.screenshot(path=picture)
        picture.with_suffix(".txt").write_text("\n".join([visit.page.url, *visit.errors]), "utf-8")
        print(f"the page is pictured in {picture}")
    context.close()


@pytest.fixture
def open_notebook(visit: Visit, desk: Desk) -> Open:
    """A function that opens a notebook of the course and waits until it can be used."""

    def open_it(notebook: str, address: str = "") -> NotebookPage:
        visit.page.goto(address or desk.address(notebook), wait_until="commit")
        return NotebookPage(visit.page, desk.course.root / notebook).loaded()

    return open_it
