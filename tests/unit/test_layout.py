"""Where the course lies, and which notebook a name means."""

from __future__ import annotations

import pytest
from builders import expect, notebook, put

import aiinfra_lab
from aiinfra_lab.course.layout import Course, notebook_names
from aiinfra_lab.course.records import Record
from aiinfra_lab.errors import InputError
from aiinfra_lab.settings import settings


def test_the_configured_course_comes_first(course, tmp_path, monkeypatch):
    other = tmp_path / "other"
    put(other / "notebooks", "00_start_here.ipynb", notebook())
    monkeypatch.chdir(other)
    assert Course.find() == course


@pytest.fixture
def unconfigured(course, monkeypatch):
    monkeypatch.delenv("AIINFRA_COURSE")
    settings.cache_clear()


@pytest.mark.usefixtures("unconfigured")
def test_else_the_course_around_the_working_folder(tmp_path, monkeypatch):
    root = tmp_path / "clone"
    put(root / "notebooks", "00_start_here.ipynb", notebook())
    inner = root / "work" / "deep"
    inner.mkdir(parents=True)
    assert Course.find(inner).root == root.resolve()
    assert Course.find(root).root == root.resolve()
    monkeypatch.chdir(inner)
    assert Course.find().root == root.resolve()


@pytest.mark.usefixtures("unconfigured")
def test_else_the_course_of_this_package(tmp_path, root):
    assert Course.find(tmp_path).root == root
    assert (root / "aiinfra_lab" / "__init__.py").samefile(aiinfra_lab.__file__)


def test_every_folder_lies_under_the_root(course):
    root = course.root
    assert (course.chapters, course.masters) == (root / "notebooks", root / "solutions")
    assert (course.labs, course.work) == (root / "labs", root / "work")
    expected = root / "labs" / "expected" / "07_made_up.json"
    assert course.expected(course.masters / "07_made_up.ipynb") == expected


@pytest.fixture
def chapters(course):
    for name in ("03_circuit_breaker", "10_federated_learning", "map", ".03_hidden"):
        put(course.chapters, f"{name}.ipynb", notebook())
    (course.chapters / "notes.txt").write_text("x")
    return course.chapters


def test_notebooks_are_listed_in_order_without_what_is_none(chapters, tmp_path):
    assert notebook_names(chapters) == ["03_circuit_breaker", "10_federated_learning", "map"]
    assert notebook_names(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        ("03", "03_circuit_breaker"),
        ("3", "03_circuit_breaker"),
        ("10", "10_federated_learning"),
        ("03_circuit_breaker", "03_circuit_breaker"),
        ("map", "map"),
    ],
)
def test_a_notebook_is_meant_by_its_number_or_its_stem(course, chapters, identifier, name):
    assert course.notebook(chapters, identifier) == chapters / f"{name}.ipynb"


@pytest.mark.parametrize(
    "identifier", ["4", "1", "003", "circuit_breaker", "", "../x", ".03_hidden"]
)
def test_a_name_that_means_none_lists_what_there_is(course, chapters, identifier):
    with pytest.raises(InputError) as refusal:
        course.notebook(chapters, identifier)
    assert str(refusal.value) == (f"there is no chapter {identifier!r}. There is: 03, 10, map.")


def test_a_missing_lab_is_called_a_lab(course):
    with pytest.raises(InputError, match=r"there is no lab '03'\. There is: none\."):
        course.notebook(course.labs, "03")


def test_public_results_are_those_of_the_exercise_under_the_public_seed(course):
    expect(course, 3, "03_a", mean=[Record("a", 1)], spread=[])
    expect(course, 4, "04_b", mean=[Record("a", 2)])
    assert course.public_results("mean", 3) == [Record("a", 1).to_json()]
    assert course.public_results("mean", 4) == [Record("a", 2).to_json()]
    assert course.public_results("spread", 3) == []


@pytest.mark.parametrize(("exercise", "seed"), [("mean", 5), ("other", 3)])
def test_without_public_results_there_is_nothing_to_compare_with(course, exercise, seed):
    assert course.public_results(exercise, seed) is None
    expect(course, 3, "03_a", mean=[Record("a", 1)])
    assert course.public_results(exercise, seed) is None


def test_the_results_of_a_lab_are_there_once_they_were_built(course):
    lab = course.labs / "03_a.ipynb"
    assert course.results(lab) == {}
    expect(course, 3, "03_a", mean=[Record("a", 1)])
    assert course.results(lab) == {"mean": [Record("a", 1).to_json()]}


def test_every_kept_notebook_is_found_and_none_of_the_learners(course):
    for folder in (course.chapters, course.masters, course.labs, course.work):
        put(folder, "03_a.ipynb", notebook())
    assert [path.parent.name for path in course.notebooks()] == ["notebooks", "solutions", "labs"]
