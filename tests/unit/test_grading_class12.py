"""The class of twelve is what its script makes of today's lab, and holds every sort there is."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture
def made(root, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(root / "tests" / "files")])
    import make_class12

    return make_class12


def test_the_twelve_files_are_what_their_script_makes_of_the_lab(made):
    texts = made.class_of_twelve()
    stored = {path.name: path.read_text("utf-8") for path in made.FOLDER.glob("*.ipynb")}
    assert stored == texts, "run python tests/files/make_class12.py, and look at the diff"


def test_there_are_twelve_and_their_names_say_the_points(made):
    points = [int(name.removesuffix(".ipynb").rsplit("-", 1)[1]) for name in made.class_of_twelve()]
    assert len(points) == 12
    assert {0, 32} < set(points)
