"""Blocked modules cannot be imported, in the process that blocked them and nowhere else."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder with the packages ``lab_answer`` and ``lab_answers``."""
    folder = tmp_path_factory.mktemp("blocked")
    for name in ("lab_answer", "lab_answers"):
        (folder / name / "deep").mkdir(parents=True)
        (folder / name / "__init__.py").write_text("")
        (folder / name / "deep" / "__init__.py").write_text("value = 1")
    return folder


def run(folder, *lines):
    code = "\n".join([f"import sys; sys.path.insert(0, {str(folder)!r})", *lines])
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )


BLOCK = "from aiinfra_lab.course.blocking import block; block(['lab_answer', 'wave'])"
TRY = """
import importlib
def tried(name):
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(name, type(error).__name__, error.name, error)
    else:
        print(name, "imported")
"""


def test_a_blocked_module_and_everything_in_it_is_refused_with_a_sentence_and_nothing_else(package):
    refusal = "lab_answer is the answer of this lab: write it yourself"
    names = ["lab_answer", "lab_answer.deep", "lab_answers", "lab_answers.deep", "wave"]
    result = run(package, BLOCK, TRY, *(f"tried({name!r})" for name in names))
    assert result.stdout.splitlines() == [
        f"lab_answer ImportError lab_answer {refusal}",
        # Python imports the package around a module first.
        f"lab_answer.deep ImportError lab_answer {refusal}",
        "lab_answers imported",
        "lab_answers.deep imported",
        "wave ImportError wave wave is the answer of this lab: write it yourself",
    ]
    assert result.returncode == 0, result.stderr


def test_a_module_inside_a_package_is_blocked_alone(package):
    block = BLOCK.replace("'lab_answer'", "'lab_answer.deep'")
    result = run(package, block, TRY, "tried('lab_answer')", "tried('lab_answer.deep')")
    first, second = result.stdout.splitlines()
    assert first == "lab_answer imported"
    assert second.endswith("lab_answer.deep is the answer of this lab: write it yourself")


def test_what_is_inside_a_package_that_was_imported_before_is_refused(package):
    result = run(package, TRY, "tried('lab_answer')", BLOCK, "tried('lab_answer.deep')")
    first, second = result.stdout.splitlines()
    assert first == "lab_answer imported"
    assert second.startswith("lab_answer.deep ImportError lab_answer.deep")


def test_every_way_of_importing_is_refused(package):
    block = BLOCK.replace("'lab_answer'", "'lab_answer.deep'")
    for way in ("from lab_answer.deep import value", "import lab_answer.deep as d"):
        result = run(package, block, way)
        assert result.returncode == 1
        assert "lab_answer.deep is the answer of this lab" in result.stderr
