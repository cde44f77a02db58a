"""The command line: what it prints, where, and the exit codes of the design."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from aiinfra_lab import __version__
from aiinfra_lab.cli.main import app, run
from aiinfra_lab.settings import settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def course(tmp_path: Path, monkeypatch) -> Path:
    """A copy of the course, so that a learner's files are not written into the checkout."""
    for name in ("notebooks", "labs", "solutions"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


def _aiinfra(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aiinfra_lab.cli.main", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "99"], "there is no chapter '99'. There is: 00"),
        (["start", "99"], "there is no lab '99'"),
        (["run", "00", "-p", "nosuch=1"], "there is no parameter nosuch. There is: seed, n_seeds"),
        (["run", "00", "-p", "n_seed=1"], "there is no parameter n_seed. Did you mean n_seeds?"),
        (["run", "00", "-p", "n_seeds=abc"], "found 'abc'; needed int in 5..100"),
        (["run", "00", "-p", "n_seeds=4"], "found '4'; needed int in 5..100"),
        (["run", "00", "-p", "n_seeds"], "a parameter is given as name=value"),
        (["run", "00", "-p", "seed=1", "-p", "seed=2"], "parameter seed is given twice"),
        (["run", "00", "--preset", "nosuch"], "there is no preset nosuch. There is: test"),
        (["run", "all", "-p", "seed=1"], "belong to one chapter"),
        (["run", "nosuch.ipynb"], "there is no file nosuch.ipynb"),
        (["check", "nosuch.ipynb"], "there is no file nosuch.ipynb"),
        (["check", "notebooks/00_start_here.ipynb"], "is a chapter, not a lab"),
        (["check", "00"], "lab 00 was not started. Run: aiinfra start 00"),
        (["reset", "00"], "lab 00 was not started"),
        (["submit", "00"], "lab 00 was not started"),
        (["build", "--check", "--execute", "00"], "--check writes nothing"),
        (["lab", "nosuch.ipynb"], "there is no file"),
        (["lab", "/etc/passwd"], "lies outside the course"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(course, capsys, arguments, sentence) -> None:
    status = run(arguments)

    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("content", ["{", '{"nbformat": 5, "cells": []}', "[]", ""])
def test_a_file_that_is_no_notebook_is_refused(course, capsys, content: str) -> None:
    (course / "broken.ipynb").write_text(content)

    assert run(["run", "broken.ipynb"]) == 2
    assert run(["check", "broken.ipynb"]) == 2
    assert "broken.ipynb" in capsys.readouterr().err


def test_an_unknown_command_and_no_command_are_bad_input(capsys) -> None:
    assert run(["nosuch"]) == 2
    assert run([]) == 2
    assert "Usage" in capsys.readouterr().err


def test_a_lab_is_started_checked_reset_and_handed_in(course, capsys) -> None:
    assert run(["start", "00"]) == 0
    work = course / "work" / "00_start_here.ipynb"
    assert work.read_bytes() == (course / "labs" / work.name).read_bytes()
    work.write_text(work.read_text().replace("# YOUR CODE HERE", "# mine"))
    assert run(["start", "00"]) == 0
    assert "# mine" in work.read_text()
    assert run(["submit", "00"]) == 0
    assert "# mine" in (course / "work" / "submitted" / work.name).read_text()
    assert run(["reset", "00"]) == 0
    assert "# mine" not in work.read_text()
    assert "# mine" in next((course / "work" / "backup").iterdir()).read_text()
    capsys.readouterr()

    assert run(["check", "00", "--json"]) == 1

    report = json.loads(capsys.readouterr().out)
    assert report["points"] == 0
    assert [mark["status"] for mark in report["marks"]] == ["not started", "not started"]


def test_the_master_checks_with_0(course, capsys) -> None:
    assert run(["check", "solutions/00_start_here.ipynb"]) == 0
    assert "10 of 10 points" in capsys.readouterr().out


def test_run_prints_the_records_as_one_document(course, capsys) -> None:
    assert run(["run", "00", "--preset", "test", "--json", "-o", "out/00.ipynb"]) == 0

    records = json.loads(capsys.readouterr().out)
    assert {"cell": "train", "name": "images", "value": 1797}.items() <= records[0].items()
    assert (course / "out" / "00.ipynb").is_file()


def test_build_check_names_what_is_not_current_and_build_mends_it(course, capsys) -> None:
    shutil.copy(ROOT / "README.md", course)
    lab = course / "labs" / "00_start_here.ipynb"
    text = lab.read_text()
    lab.write_text(text.replace("Lab 00", "Lab OO"))

    assert run(["build", "--check"]) == 1
    assert capsys.readouterr().out == "labs/00_start_here.ipynb is not current (labs)\n"
    assert run(["build"]) == 0
    assert lab.read_text() == text


def test_list_and_doctor_print_one_document(course, capsys) -> None:
    assert run(["list", "--json"]) == 0
    assert [entry["id"] for entry in json.loads(capsys.readouterr().out)][:2] == ["00", "01"]
    assert run(["doctor", "--json"]) == 0
    assert {"resources", "needs", "chapters"} <= json.loads(capsys.readouterr().out).keys()


def test_every_command_has_help_with_an_example() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        assert "Example: aiinfra " in (command.callback.__doc__ or ""), command.callback.__name__


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from aiinfra_lab.cli.main import run; code = run(['--help'])\n"
        "heavy = {'numpy', 'nbformat', 'IPython', 'torch', 'papermill', 'jupyterlab'}\n"
        "print('HEAVY', sorted(heavy & sys.modules.keys()), code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert "HEAVY [] 0" in done.stdout


def test_version_and_completion() -> None:
    assert _aiinfra("--version").stdout == f"aiinfra {__version__}\n"
    words = _aiinfra(_AIINFRA_COMPLETE="complete_bash", COMP_WORDS="aiinfra su", COMP_CWORD="1")
    assert words.stdout.split() == ["submit"]


def test_a_setting_that_cannot_be_used_is_named() -> None:
    done = _aiinfra("check", "00", AIINFRA_PROGRESS="loud")

    assert done.returncode == 2
    assert "AIINFRA_PROGRESS" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["at the end", "at once"])
def test_a_reader_that_goes_away_is_no_error(unbuffered: str) -> None:
    # The pipe's other end is closed before the command writes its first byte.
    command = (
        f"(sleep 0.5; {sys.executable} -m aiinfra_lab.cli.main list --json; echo $? >&2) | true"
    )
    done = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stderr == "0\n"


@pytest.mark.parametrize(
    ("error", "words"),
    [(28, "the disk is full"), (30, "may not write"), (13, "may not write")],
)
def test_a_full_disk_and_a_read_only_folder_are_sentences(
    course, capsys, monkeypatch, error: int, words: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error), "work/x")

    monkeypatch.setattr("aiinfra_lab.course.workspace.write_bytes", refuse)

    assert run(["start", "00"]) == 3
    assert words in capsys.readouterr().err


def test_ctrl_c_is_130(course, capsys, monkeypatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aiinfra_lab.course.workspace.write_bytes", interrupt)

    assert run(["start", "00"]) == 130
    assert capsys.readouterr().err == "aiinfra: interrupted\n"


@pytest.mark.parametrize("arguments", [["run", "00"], ["check", "solutions/00_start_here.ipynb"]])
def test_ctrl_c_while_a_kernel_works_is_one_line_and_leaves_nothing(course, arguments) -> None:
    mark = f"interrupted-{os.getpid()}-{arguments[0]}"
    process = subprocess.Popen(
        [sys.executable, "-m", "aiinfra_lab.cli.main", *arguments],
        env={**os.environ, "AIINFRA_TEST_MARK": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _until(lambda: any("ipykernel_launcher" in p.cmdline() for p in _marked(mark)))

    os.killpg(process.pid, signal.SIGINT)

    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "aiinfra: interrupted\n")
    _until(lambda: not _marked(mark))


def _marked(mark: str) -> list[psutil.Process]:
    """The processes that carry the mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("AIINFRA_TEST_MARK") == mark and process.status() != "zombie":
                process.cmdline()
                found.append(process)
    return found


def _until(happens: Callable[[], bool], wall_s: float = 60) -> None:
    end = time.monotonic() + wall_s
    while True:
        with contextlib.suppress(psutil.Error):
            if happens():
                return
        assert time.monotonic() < end
        time.sleep(0.05)
