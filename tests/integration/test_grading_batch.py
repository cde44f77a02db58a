"""A batch in the real sandbox: twelve submissions, two seeds, a kill in the middle, and nbval."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
import xml.etree.ElementTree as ElementTree
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from aiinfra_lab.course.checking import Lab
from aiinfra_lab.course.layout import Course
from aiinfra_lab.grading.batch import grade
from aiinfra_lab.grading.conversation import Bounds
from aiinfra_lab.grading.local import LocalWorkplace
from aiinfra_lab.grading.orders import Order
from aiinfra_lab.grading.results import BatchResult
from aiinfra_lab.grading.runs import Workplace
from aiinfra_lab.grading.workplace import SandboxWorkplace

ROOT = Path(__file__).resolve().parents[2]
CLASS = ROOT / "tests" / "files" / "class12"
POINTS = {
    unicodedata.normalize("NFC", path.stem): float(path.stem.rsplit("-", 1)[1])
    for path in CLASS.glob("*.ipynb")
}
# Those that end by themselves: the rest of this file need not wait for an endless loop.
QUICK = ("blank-0", "error-26", "helper-27", "perfect-32", "syntax-27")
# No honest cell of the lab takes half a second; the machine may be busy.
ENDLESS_S = 12
SEEDS = ("5eed0000000000a1", "5eed0000000000b2")


def _sandbox(lab: Lab) -> AbstractAsyncContextManager[Workplace]:
    about = lab.metadata
    return SandboxWorkplace(about.answers, about.preload, bounds=Bounds(cell_s=ENDLESS_S))


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BatchResult]:
    """The class of twelve under two seeds, both batches at once: they wait for the same loops."""

    async def both() -> list[BatchResult]:
        base = tmp_path_factory.mktemp("class12")
        orders = [Order(lab="03", submissions=CLASS, out=base / s, seed=s, jobs=2) for s in SEEDS]
        return await asyncio.gather(*(grade(one, Course(ROOT), _sandbox) for one in orders))

    return dict(zip(SEEDS, asyncio.run(both()), strict=True))


def _points(result: BatchResult) -> dict[str, float]:
    return {row.id: row.points for row in result.submissions}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_class_of_twelve_gets_the_points_in_its_names(
    graded: dict[str, BatchResult], seed: str
) -> None:
    assert _points(graded[seed]) == POINTS
    assert {row.state for row in graded[seed].submissions} == {"graded"}


def test_every_lost_point_has_its_reason(graded: dict[str, BatchResult]) -> None:
    reasons = {
        row.id: " ".join(mark.reason for mark in row.exercises)
        for row in graded[SEEDS[0]].submissions
    }
    for learner, words in {
        "blank-0": "fill in the answer cell",
        "endless-27": f"longer than {ENDLESS_S} s",
        "error-26": "AttributeError",
        "hardcoded-27": "KeyError",
        "helper-27": "spread is defined in cell 'my-helper', which is not handed in",
        "syntax-27": "SyntaxError",
        "山田 太郎-22": "Half of the calls fail",
    }.items():
        assert words in reasons[learner], learner


def test_what_was_done_to_a_file_is_noted(graded: dict[str, BatchResult]) -> None:
    notes = {row.id: " ".join(row.notes) for row in graded[SEEDS[0]].submissions}
    assert "stands there twice" in notes["duplicated-32"]
    assert "'probes' is missing" in notes["deleted-26"]
    assert "'window' was turned into markdown" in notes["retyped-32"]
    assert "'jitter-check' is the lab's and was changed" in notes["retyped-32"]
    assert notes["perfect-32"] == ""


# --- the command, killed in the middle -----------------------------------------------------------


def _command(*arguments: str | Path) -> list[str]:
    main = ["-m", "aiinfra_lab.cli.main", "grade", "03"]
    return [sys.executable, *main, *map(str, arguments)]


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}


def _rows(ledger: Path) -> list[str]:
    lines = ledger.read_text().splitlines()[1:] if ledger.exists() else []
    return [json.loads(line)["row"]["id"] for line in lines if line.endswith("}")]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quick")
    for name in QUICK:
        shutil.copy(CLASS / f"{name}.ipynb", folder)
    return folder


@pytest.fixture(scope="module")
def resumed(quick: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results whose first grader was killed, and whose second went on."""
    base = tmp_path_factory.mktemp("killed")
    out, ledger = base / "out", base / "out" / "ledger.jsonl"
    options = ("--out", out, "--jobs", "1")
    first = subprocess.Popen(
        _command(quick, *options, "--seed", SEEDS[0]),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
        env=_environment(),
    )
    try:
        last = time.monotonic() + 120
        while not _rows(ledger):
            assert first.poll() is None
            assert time.monotonic() < last
            time.sleep(0.01)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    before = _rows(ledger)
    assert 0 < len(before) < len(QUICK)
    assert not (out / "results.json").exists()
    second = subprocess.run(
        _command(quick, *options, "--resume", "--json", "--emit-nbval", base / "nbval"),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=_environment(),
        timeout=240,
    )
    assert second.returncode == 0, second.stderr
    (base / "stdout.json").write_text(second.stdout, encoding="utf-8")
    (base / "before.json").write_text(json.dumps(before))
    return base


def test_after_a_kill_the_table_is_the_same_and_nothing_was_graded_twice(
    resumed: Path, graded: dict[str, BatchResult]
) -> None:
    result = BatchResult.model_validate_json((resumed / "stdout.json").read_text("utf-8"))
    assert _points(result) == {name: POINTS[name] for name in QUICK}
    whole = {row.id: row for row in graded[SEEDS[0]].submissions}
    for row in result.submissions:
        measured = {"seconds", "cpu_s"}
        assert row.model_dump(exclude=measured) == whole[row.id].model_dump(exclude=measured)
    finished = _rows(resumed / "out" / "ledger.jsonl")
    assert sorted(finished) == sorted(QUICK)
    before = json.loads((resumed / "before.json").read_text())
    assert finished[: len(before)] == before


def test_the_results_on_disk_are_those_on_stdout(resumed: Path) -> None:
    stdout = json.loads((resumed / "stdout.json").read_text("utf-8"))
    assert json.loads((resumed / "out" / "results.json").read_text("utf-8")) == stdout
    assert not (resumed / "out" / "grader.lock").exists()


def test_a_real_batch_satisfies_the_published_schema(resumed: Path) -> None:
    import jsonschema

    results = json.loads((resumed / "out" / "results.json").read_text("utf-8"))
    schema = ROOT / "aiinfra_lab" / "grading" / "results.schema.json"
    jsonschema.Draft202012Validator(json.loads(schema.read_text("utf-8"))).validate(results)


# Passes where nobody's user has no network, and nowhere else.
WALLS = "import os, socket\nprint(os.getuid(), [n for _, n in socket.if_nameindex()])"


def _sandboxed_kernel(folder: Path) -> dict[str, str]:
    """Options' environment for a kernel spec that names our provisioner."""
    place = folder / "kernels" / "sandboxed"
    place.mkdir(parents=True)
    config = {"answers": ["aiinfra_lab.resilience"]}
    chosen = {"provisioner_name": "aiinfra-sandbox", "config": config}
    spec = {"argv": ["unused"], "display_name": "sandboxed", "language": "python"}
    spec["metadata"] = {"kernel_provisioner": chosen}
    (place / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    return {"JUPYTER_PATH": str(folder)}


def _walls_notebook() -> dict:
    output = {"output_type": "stream", "name": "stdout", "text": "65534 ['lo']\n"}
    cell = {"cell_type": "code", "id": "walls", "metadata": {}, "source": WALLS}
    cell |= {"outputs": [output], "execution_count": 1}
    return {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


@pytest.mark.parametrize("sandboxed", [False, True], ids=["plain", "sandboxed"])
def test_nbval_gives_the_same_verdicts(resumed: Path, tmp_path: Path, sandboxed: bool) -> None:
    folder = tmp_path / "nbval"
    folder.mkdir()
    for name in ("error-26", "helper-27"):
        shutil.copy(resumed / "nbval" / f"{name}.ipynb", folder)
    (folder / "walls.ipynb").write_text(json.dumps(_walls_notebook()), encoding="utf-8")
    report = tmp_path / "junit.xml"
    kernel = ["--nbval-kernel-name", "sandboxed"] if sandboxed else []
    variables = _sandboxed_kernel(tmp_path / "jupyter") if sandboxed else {}
    quietly = ["-q", "-c", os.devnull, "-p", "no:cacheprovider", "--junit-xml", report]
    plugins = ["-p", "nbval.plugin", "-p", "aiinfra_lab.course.nbval_plugin"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval", folder, *kernel, *plugins, *quietly],
        capture_output=True,
        text=True,
        cwd=folder,
        env=_environment() | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | variables,
        timeout=240,
    )
    assert ran.returncode == 1, ran.stdout
    points: dict[str, float] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        about = {p.get("name"): p.get("value", "") for p in case.iter("property")}
        if "points" in about:
            passed = case.find("failure") is None and case.find("error") is None
            file = case.get("classname", "")
            points[file] = points.get(file, 0) + passed * float(about["points"])
        elif "walls" in case.get("classname", ""):
            assert (case.find("failure") is None) == sandboxed, ran.stdout[-2_000:]
    assert sorted(points.values()) == [26, 27], ran.stdout[-2_000:]


@pytest.mark.needs("nbval", "ipykernel")
async def test_without_walls_the_processor_time_is_that_of_the_notebook_and_of_no_other() -> None:
    def notebook(seconds: float) -> dict:
        source = f"import time\nwhile time.process_time() < {seconds}: pass"
        return {**_walls_notebook(), "cells": [{**_walls_notebook()["cells"][0], "source": source}]}

    async with LocalWorkplace() as place:
        idle, busy = await asyncio.gather(place.run(notebook(0)), place.run(notebook(4)))
    assert not idle.cells["walls"].failure
    assert busy.cpu_s > 4
    # Both start a kernel; only the work tells them apart.
    assert 0 < idle.cpu_s < busy.cpu_s - 1


def test_a_mistake_is_a_sentence_and_exit_code_2(tmp_path: Path) -> None:
    ran = subprocess.run(
        _command("nowhere", "--out", "o"),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=_environment(),
    )
    assert ran.returncode == 2
    assert "there is no folder or zip nowhere" in ran.stderr
    assert ran.stdout == ""
    assert "Traceback" not in ran.stderr
    assert list(tmp_path.iterdir()) == []
