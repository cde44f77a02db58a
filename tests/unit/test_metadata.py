"""What a notebook says of itself is checked field by field."""

from __future__ import annotations

import pytest
from builders import about, json_values, notebook
from hypothesis import given
from hypothesis import settings as law
from pydantic import ValidationError

from aiinfra_lab.course.metadata import read_metadata
from aiinfra_lab.course.notebooks import read_notebook
from aiinfra_lab.errors import InputError


def read(**fields):
    return read_metadata(notebook(**fields), "x.ipynb")


def test_fields_that_are_not_given_have_their_defaults():
    found = read()
    assert (found.needs, found.params, found.answers, found.preload) == ((), {}, (), ())
    assert (found.budget_s, found.lang, found.release) == (60, "en", "")


def test_all_fields_are_read():
    given = {
        "kind": "chapter",
        "needs": ["docker"],
        "budget_s": 2.5,
        "params": {"test": {"n": 1}},
        "answers": ["a.b"],
        "preload": ["numpy"],
        "lang": "ja",
        "release": "sha256:0",
    }
    found = read(**given).model_dump(by_alias=True)
    assert {**found, "needs": [*found["needs"]]} == about(**given) | {
        "answers": ("a.b",),
        "preload": ("numpy",),
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", 2),
        ("schema", None),
        ("kind", "exam"),
        ("id", "7"),
        ("id", "007"),
        ("id", "A"),
        ("id", ""),
        ("slug", "made-up"),
        ("slug", "Made"),
        ("title", 5),
        ("minutes", 0),
        ("minutes", "long"),
        ("budget_s", 0),
        ("budget_s", -1),
        ("params", {"test": 5}),
        ("needs", "docker"),
        ("answers", [5]),
        ("titel", "misspelt"),
    ],
)
def test_a_wrong_field_is_named(field, value):
    with pytest.raises(InputError, match=rf"^x\.ipynb: metadata\.aiinfra_lab\.{field}"):
        read(**{field: value})


@pytest.mark.parametrize("field", ["schema", "kind", "id", "slug", "title", "minutes"])
def test_a_missing_field_is_named(field):
    content = notebook()
    del content["metadata"]["aiinfra_lab"][field]
    with pytest.raises(InputError, match=rf"aiinfra_lab\.{field}: Field required"):
        read_metadata(content, "x.ipynb")


@pytest.mark.parametrize("content", [{}, {"metadata": {}}, {"metadata": {"aiinfra_lab": None}}])
def test_a_notebook_of_somebody_else_is_told_so(content):
    with pytest.raises(InputError, match=r"x\.ipynb is no notebook of this course\. It lacks"):
        read_metadata(content, "x.ipynb")


@law(deadline=None, max_examples=30)
@given(json_values)
def test_whatever_stands_there_gives_metadata_or_a_sentence(data):
    with pytest.raises(InputError, match=r"^x\.ipynb"):
        read_metadata({"metadata": {"aiinfra_lab": data}}, "x.ipynb")


@pytest.mark.parametrize(
    ("identifier", "stem", "seed"), [("07", "07_made_up", 7), ("10", "10_made_up", 10)]
)
def test_the_number_gives_the_files_name_and_the_public_seed(identifier, stem, seed):
    found = read(id=identifier)
    assert (found.stem, found.seed) == (stem, seed)


def test_a_page_has_a_name_in_place_of_a_number():
    found = read(id="map_of", kind="page")
    assert (found.stem, found.seed) == ("made_up", 0)


def test_metadata_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        read().minutes = 1


def test_every_committed_notebook_is_called_what_its_metadata_say(root):
    paths = [*root.glob("notebooks/*.ipynb"), *root.glob("labs/*.ipynb")]
    paths += root.glob("solutions/*.ipynb")
    assert paths
    for path in paths:
        assert read_metadata(read_notebook(path), path.name).stem == path.stem
