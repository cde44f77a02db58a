"""From bytes to answers: what was done to a file costs no point and has a note."""

from __future__ import annotations

import contextlib
import copy
import json
import time

import pytest
from builders import cell_of, code, json_values, master
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.course.checking import Lab
from aiinfra_lab.course.masters import exercises, released, without_solutions
from aiinfra_lab.course.metadata import read_metadata
from aiinfra_lab.errors import InputError
from aiinfra_lab.grading import reading
from aiinfra_lab.grading.reading import Reader, parse, without_outputs

MASTER = master()
LAB = Lab(read_metadata(MASTER, "m"), MASTER, tuple(exercises(MASTER)), 7, {}, {})
READER = Reader(LAB)
BLANK = {name: without_solutions(cell_of(MASTER, name)["source"]) for name in ("double", "half")}
MINE = {"double": "def double(x): return x + x", "half": "def half(x): return x * 0.5"}


def handed_in(**answers):
    notebook = released(MASTER)
    for name, source in (MINE | answers).items():
        cell_of(notebook, name)["source"] = source
    return notebook


def read(notebook, name="a.ipynb"):
    data = notebook if isinstance(notebook, bytes) else json.dumps(notebook).encode()
    return READER.read(data, name)


def test_answers_are_read_and_there_is_nothing_to_note():
    found = read(handed_in())
    assert found.submission.answers == MINE
    assert found.notes == ()


def test_the_digest_is_of_the_answers_and_of_nothing_else():
    other = handed_in()
    other["cells"].append(code("mine", "scratch = 1"))
    other["metadata"]["aiinfra_lab"]["release"] = ""
    cell_of(other, "double")["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x"}]
    assert read(other).digest == read(handed_in()).digest
    assert read(handed_in(half="x")).digest != read(handed_in()).digest
    swapped = handed_in(double=MINE["half"], half=MINE["double"])
    assert read(swapped).digest != read(handed_in()).digest


def _duplicated(notebook):
    first = {**copy.deepcopy(cell_of(notebook, "double")), "source": "1 / 0"}
    notebook["cells"].insert(notebook["cells"].index(cell_of(notebook, "double")), first)


def _retyped(notebook):
    cell = cell_of(notebook, "double")
    cell["cell_type"] = "markdown"
    del cell["outputs"], cell["execution_count"]


def _reordered(notebook):
    notebook["cells"].reverse()


def _unlocked(notebook):
    cell = cell_of(notebook, "double-check")
    cell["source"] = "print('passed')"
    cell["metadata"]["nbgrader"]["locked"] = False


def _of_last_month(notebook):
    notebook["metadata"]["aiinfra_lab"]["release"] = "sha256:old"


def _foreign(notebook):
    notebook["metadata"]["aiinfra_lab"]["id"] = "03"


def _nameless(notebook):
    del notebook["metadata"]["aiinfra_lab"]


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (_duplicated, "cell 'double' stands there twice; the last one counts"),
        (_retyped, "cell 'double' was turned into markdown; it counts"),
        (_reordered, "the answers stand in another order; they are run in the lab's"),
        (_unlocked, "cell 'double-check' is the lab's and was changed; the lab's own is used"),
        (
            _of_last_month,
            "it was made from another release of the lab; the present checks are used",
        ),
        (_foreign, "it says that it is lab '03', and yet it has this lab's cells, which count"),
        (_nameless, "it names no lab, and yet it has this lab's cells, which count"),
    ],
)
def test_a_changed_notebook_gives_its_answers_and_a_note(change, note):
    notebook = handed_in()
    change(notebook)
    found = read(notebook)
    assert found.submission.answers == MINE
    assert found.notes == (note,)


def test_a_deleted_answer_is_blank_and_the_other_counts():
    notebook = handed_in()
    notebook["cells"] = [cell for cell in notebook["cells"] if cell["id"] != "double"]
    found = read(notebook)
    assert found.submission.answers == {"double": BLANK["double"], "half": MINE["half"]}
    assert found.notes == ("cell 'double' is missing",)


def test_checks_of_another_release_may_differ_without_a_note_each():
    notebook = handed_in()
    _of_last_month(notebook)
    _unlocked(notebook)
    assert len(read(notebook).notes) == 1


def test_this_labs_notebook_without_any_answer_is_blank_work():
    notebook = handed_in()
    notebook["cells"] = []
    assert read(notebook).submission.answers == BLANK


@pytest.mark.parametrize("lab", ["03", None])
def test_a_notebook_of_another_lab_is_told(lab):
    notebook = handed_in()
    notebook["cells"] = [code("other", "x = 1")]
    if lab is None:
        del notebook["metadata"]["aiinfra_lab"]
    else:
        notebook["metadata"]["aiinfra_lab"]["id"] = lab
    with pytest.raises(InputError, match="none of the answer cells of this lab is in it"):
        read(notebook)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b'{"cells": [{"outputs": [', "is not JSON"),
        (b"\xff\xfe", "cannot be read"),
        (b"[]", "no nbformat number"),
        (b'{"nbformat": 9}', "another notebook format"),
        (b'{"nbformat": 3}', "another notebook format"),
        (b'{"nbformat": 4, "cells": 1}', "its cells cannot be read"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_what_is_no_notebook_is_told_by_its_name(data, words):
    with pytest.raises(InputError, match=words) as caught:
        read(data, "ada's.ipynb")
    assert "ada's.ipynb" in str(caught.value)


def test_a_byte_order_mark_is_taken():
    data = b"\xef\xbb\xbf" + json.dumps(handed_in()).encode()
    assert read(data).submission.answers == MINE


def test_a_notebook_of_format_3_is_converted():
    cells = [
        {"cell_type": "code", "language": "python", "input": c["source"], "outputs": []}
        | {"metadata": c["metadata"], "collapsed": False}
        for c in handed_in()["cells"]
        if c["cell_type"] == "code"
    ]
    old = {
        "nbformat": 3,
        "nbformat_minor": 0,
        "metadata": handed_in()["metadata"],
        "worksheets": [{"cells": cells, "metadata": {}}],
    }
    assert read(old).submission.answers == MINE


@law(deadline=None, max_examples=40)
@given(json_values)
def test_whatever_json_a_stranger_sends_is_read_or_refused(value):
    with contextlib.suppress(InputError):
        read(json.dumps(value).encode())


# --- outputs are dropped before anything is parsed -----------------------------------------------


@law(deadline=None, max_examples=60)
@given(st.lists(json_values, max_size=3), json_values, st.text(max_size=20))
def test_without_outputs_everything_else_is_as_it_was(outputs, metadata, source):
    notebook = {"cells": [], "metadata": metadata, "nbformat": 4}
    for _ in range(2):
        cell = {"metadata": {"x": metadata}, "outputs": outputs, "source": [source, '"outputs": [']}
        notebook["cells"].append(cell)
    slim = json.loads(without_outputs(json.dumps(notebook).encode()))
    for cell in notebook["cells"]:
        cell["outputs"] = []
    # Compared as text: NaN differs from itself.
    assert json.dumps(slim) == json.dumps(notebook)


def test_only_outputs_of_cells_are_dropped():
    kept = {"outputs": [1], "metadata": {"outputs": [2]}, "cells": [{"x": {"outputs": [3]}}]}
    assert json.loads(without_outputs(json.dumps(kept).encode())) == kept


def test_megabytes_of_outputs_are_dropped_before_they_are_parsed():
    notebook = handed_in()
    line = {"output_type": "stream", "name": "stdout", "text": ["epoch: loss 0.1\n"] * 1_000}
    cell_of(notebook, "double")["outputs"] = [line] * 2
    small = json.dumps(notebook).encode()
    chunk = json.dumps(line).encode() + b", "
    data = small.replace(b'"outputs": [{', b'"outputs": [' + chunk * 2_500 + b"{", 1)
    assert len(data) > 6 * reading.MOST_TEXT
    began = time.monotonic()
    assert read(data).submission.answers == MINE
    assert time.monotonic() - began < 30


def test_a_text_without_an_end_is_looked_at_once():
    began = time.monotonic()
    with pytest.raises(InputError):
        parse(b'{"a": [' * 1_000 + b"x" * 5_000_000 + b'"' + b"y" * 1_000_000, "a.ipynb")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("kind", ["code", "markdown"])
def test_code_without_end_is_refused_before_it_is_parsed(kind):
    notebook = handed_in(half="a = 1\n" * 60_000)
    cell_of(notebook, "half")["cell_type"] = kind
    with pytest.raises(InputError, match="characters of code; at most 262144 are read"):
        read(notebook)


@pytest.mark.parametrize(
    ("limit", "words"), [("MOST_TEXT", "even without its outputs"), ("MOST_BRACKETS", "brackets")]
)
def test_what_is_too_much_even_without_outputs_is_refused(monkeypatch, limit, words):
    monkeypatch.setattr(reading, limit, 20)
    with pytest.raises(InputError, match=words):
        read(handed_in())
