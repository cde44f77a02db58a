"""The nbval plugin, on real kernels: one pytest over many small notebooks."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from notebook_files import code, notebook, printed, record

from aiinfra_lab.course.notebooks import read_notebook, write_notebook
from aiinfra_lab.course.records import records_in

SHOW = "from aiinfra_lab.course import show\n"
CHILD = (
    "import subprocess, sys\n_ = subprocess.run([sys.executable, '-c', 'print(42)'], check=True)"
)
FORGED = record("loss", 1.0, abs=5.0)

NOTEBOOKS = {
    "within": notebook(
        code("one", SHOW + "show('loss', 1.04, abs=0.1)", [record("loss", 1.0, abs=0.1)])
    ),
    "outside": notebook(
        code("one", SHOW + "show('loss', 1.2, abs=0.1)", [record("loss", 1.0, abs=0.1)])
    ),
    "loosened": notebook(code("one", SHOW + "show('loss', 1.2, abs=0.1)", [FORGED])),
    "text-for-a-record": notebook(code("one", "print('loss: 1')", [record("loss", 1.0)])),
    "text-beside": notebook(
        code("one", SHOW + "print('b')\nshow('loss', 1.0)", [printed("a\n"), record("loss", 1.0)])
    ),
    "chapter-stops": notebook(
        code("one", "print(1)", [printed("1\n")]),
        code("two", "1 / 0", []),
        code("three", "print(3)", [printed("3\n")]),
    ),
    "lab-goes-on": notebook(
        code("one", "1 / 0", []), code("two", "print(2)", [printed("2\n")]), kind="lab"
    ),
    "dies": notebook(code("one", "import os\nos._exit(1)", []), code("two", "2", []), kind="lab"),
    "slow": notebook(
        code("one", "import time\ntime.sleep(600)", [], tags=["timeout=1"]),
        code("two", "print(2)", [printed("2\n")]),
        kind="lab",
    ),
    "child": notebook(code("one", CHILD, [printed("42\n")])),
    "unexecuted": notebook(code("one", "print(1)")),
    "graded": notebook(
        code("a-check", "1", [], nbgrader={"grade": True, "grade_id": "a-check", "points": 3}),
        kind="lab",
    ),
}


@dataclass
class Outcome:
    """What JUnit says of one cell."""

    status: str
    text: str
    properties: dict[str, str] = field(default_factory=dict)


def _pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "--nbval", str(folder), "-q", "-c", "/dev/null"]
    common = ["--rootdir", str(folder), "-p", "no:cacheprovider", "-p", "no:asyncio"]
    return subprocess.run(
        [*command, *common, *arguments], capture_output=True, text=True, check=False, timeout=250
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, Outcome]], Path]:
    folder = tmp_path_factory.mktemp("notebooks")
    for name, made in NOTEBOOKS.items():
        write_notebook(folder / f"{name}.ipynb", made)
    foreign = notebook(code("one", "print(1)", [printed("1\n")]))
    del foreign["metadata"]["aiinfra_lab"]
    write_notebook(folder / "foreign.ipynb", foreign)
    junit = folder / "junit.xml"
    _pytest(folder, "--junitxml", str(junit), "--aiinfra-keep", str(folder / "kept"))
    outcomes: dict[str, dict[str, Outcome]] = {}
    for case in ElementTree.parse(junit).iter("testcase"):
        notebook_name = case.get("classname", "").removesuffix(".ipynb").rpartition(".")[2]
        outcomes.setdefault(notebook_name, {})[case.get("name", "")] = _outcome(case)
    return outcomes, folder


def _outcome(case: ElementTree.Element) -> Outcome:
    properties = {p.get("name", ""): p.get("value", "") for p in case.iter("property")}
    for tag in ("failure", "error", "skipped"):
        found = case.find(tag)
        if found is not None:
            return Outcome(tag, f"{found.get('message')} {found.text}", properties)
    return Outcome("passed", "", properties)


def test_a_value_within_the_stored_tolerance_passes(run) -> None:
    assert run[0]["within"]["Cell 0"].status == "passed"


def test_a_value_outside_names_the_record_found_and_expected(run) -> None:
    outcome = run[0]["outside"]["Cell 0"]

    assert outcome.status == "failure"
    assert "loss: expected 1, found 1.2" in outcome.text
    assert "'one'" in outcome.text


def test_a_tolerance_edited_into_the_stored_record_fails(run) -> None:
    outcome = run[0]["loosened"]["Cell 0"]

    assert outcome.status == "failure"
    assert "loss: expected abs 5, found 0.1" in outcome.text


def test_text_in_place_of_a_record_fails(run) -> None:
    assert run[0]["text-for-a-record"]["Cell 0"].status == "failure"


def test_text_beside_a_record_is_still_compared_by_nbval(run) -> None:
    assert run[0]["text-beside"]["Cell 0"].status == "failure"


def test_a_chapter_stops_at_its_first_failure(run) -> None:
    cells = run[0]["chapter-stops"]

    assert [cells[f"Cell {i}"].status for i in range(3)] == ["passed", "failure", "skipped"]
    assert "stopped at cell 'two'" in cells["Cell 2"].text


def test_a_lab_never_stops(run) -> None:
    cells = run[0]["lab-goes-on"]

    assert [cells[f"Cell {i}"].status for i in range(2)] == ["failure", "passed"]


def test_a_dead_kernel_is_named_as_such_in_every_cell_after(run) -> None:
    cells = run[0]["dies"]

    assert [cells[f"Cell {i}"].status for i in range(2)] == ["failure", "failure"]
    assert "The kernel died" in cells["Cell 0"].text
    assert "The kernel died" in cells["Cell 1"].text


def test_a_cell_has_its_own_time_limit_and_the_next_one_runs(run) -> None:
    cells = run[0]["slow"]

    assert cells["Cell 0"].status == "failure"
    assert "Timeout of 1 seconds" in cells["Cell 0"].text
    assert cells["Cell 1"].status == "passed"


def test_the_output_of_child_processes_is_seen(run) -> None:
    assert run[0]["child"]["Cell 0"].status == "passed", run[0]["child"]["Cell 0"].text


def test_the_guard_fails_a_notebook_that_was_never_executed(run) -> None:
    cells = run[0]["unexecuted"]

    assert cells["Cell 0"].status == "passed"
    assert cells["guard"].status == "failure"
    assert "never executed" in cells["guard"].text


def test_grade_id_and_points_are_properties(run) -> None:
    properties = run[0]["graded"]["Cell 0"].properties

    assert properties == {"cell_id": "a-check", "grade_id": "a-check", "points": "3"}


def test_a_notebook_of_another_project_is_left_to_nbval(run) -> None:
    assert {name: o.status for name, o in run[0]["foreign"].items()} == {"Cell 0": "passed"}


def test_a_failed_notebook_is_kept_as_it_ran_and_others_are_not(run) -> None:
    kept = run[1] / "kept"

    found = records_in(read_notebook(kept / "outside.ipynb")["cells"][0]["outputs"])
    assert [r.value for r in found] == [1.2]
    assert not (kept / "within.ipynb").exists()


def test_a_notebook_that_cannot_be_read_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "nojson.ipynb").write_text("{")
    newer = notebook() | {"nbformat": 5}
    (tmp_path / "newer.ipynb").write_text(json.dumps(newer))
    twice = notebook(code("same", "1"), code("same", "2"))
    (tmp_path / "twice.ipynb").write_text(json.dumps(twice))
    misspelt = notebook(kind="chapterr")
    (tmp_path / "misspelt.ipynb").write_text(json.dumps(misspelt))

    done = _pytest(tmp_path)

    assert done.returncode == 2
    for sentence in (
        "nojson.ipynb is not a notebook: it is not JSON",
        "newer.ipynb is written in another notebook format",
        "twice.ipynb has two cells with the id 'same'",
        "misspelt.ipynb: metadata.aiinfra_lab.kind",
    ):
        assert sentence in done.stdout
    assert "Traceback" not in done.stdout
