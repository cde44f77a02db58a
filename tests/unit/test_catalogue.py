"""The catalogue: what exists is described by its notebook alone, the rest is planned."""

from __future__ import annotations

import pytest
from builders import notebook, put

from aiinfra_lab.course.catalogue import PLANNED, catalogue
from aiinfra_lab.errors import InputError


def entries(course):
    return {entry.id: entry for entry in catalogue(course)}


def test_an_empty_course_is_all_planned_in_order(course):
    found = catalogue(course)
    assert [(entry.id, entry.title) for entry in found] == sorted(PLANNED.items())
    assert {entry.status for entry in found} == {"planned"}
    assert {(entry.notebook, entry.lab, entry.minutes) for entry in found} == {("", "", None)}


def test_a_chapter_that_exists_says_of_itself_what_it_is(course):
    content = notebook(id="03", slug="x", title="Breaker!", minutes=40, needs=["docker"])
    put(course.chapters, "03_x.ipynb", content)
    put(course.labs, "03_x.ipynb", notebook())
    put(course.chapters, "04_x.ipynb", notebook(id="04"))
    assert len(catalogue(course)) == len(PLANNED)
    found = entries(course)
    assert found["03"].model_dump() == {
        "id": "03",
        "title": "Breaker!",
        "status": "ready",
        "minutes": 40,
        "needs": ("docker",),
        "notebook": "notebooks/03_x.ipynb",
        "lab": "yes",
    }
    assert (found["04"].status, found["04"].lab) == ("ready", "")
    assert found["05"].status == "planned"


def test_pages_come_after_the_chapters(course):
    put(course.chapters, "a_map.ipynb", notebook(id="map", kind="page"))
    put(course.chapters, "b_index.ipynb", notebook(id="index", kind="page"))
    assert [entry.id for entry in catalogue(course)] == [*sorted(PLANNED), "index", "map"]


def test_a_notebook_that_cannot_be_read_is_named(course):
    put(course.chapters, "03_x.ipynb", notebook(kind="exam"))
    with pytest.raises(InputError, match=r"03_x\.ipynb: metadata\.aiinfra_lab\.kind"):
        catalogue(course)
