"""What is generated in the repository is what its sources give today."""

from __future__ import annotations

from pathlib import Path

from aiinfra_lab.cli.main import run
from aiinfra_lab.course.layout import Course


def test_build_check_finds_nothing_to_do(root: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(root)

    status = run(["build", "--check"])

    assert (status, capsys.readouterr().out) == (0, "")


def test_no_notebook_names_a_path_of_the_machine_that_ran_it(root: Path) -> None:
    for path in Course(root).notebooks():
        text = path.read_text(encoding="utf-8")
        assert str(root) not in text, path
        assert "/home/" not in text, path
        assert "/root/" not in text, path
