"""Notebooks as JSON: what is read is checked, and what is written gives the smallest diff."""

from __future__ import annotations

import contextlib
import copy
import json
import warnings

import pytest
from builders import code, executed, json_values, markdown, notebook, printed, put
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.course.notebooks import (
    code_cells,
    dumps,
    normalised,
    read_notebook,
    stripped,
    tag_value,
    tags,
    write_notebook,
)
from aiinfra_lab.errors import InputError

quick = law(deadline=None, max_examples=30)

# --- reading -------------------------------------------------------------------------------------


def read(tmp_path, content, **kwargs):
    return read_notebook(put(tmp_path, "x.ipynb", content), **kwargs)


def test_texts_come_as_strings_never_as_lists_of_lines(tmp_path):
    content = {
        "nbformat": 4,
        "cells": [
            {
                "cell_type": "code",
                "source": ["a\n", "b"],
                "outputs": [
                    {"output_type": "stream", "name": "stdout", "text": ["1\n", "2"]},
                    {
                        "output_type": "display_data",
                        "data": {
                            "text/html": ["<b>", "x"],
                            "text/plain": "y",
                            "application/json": [1, 2],
                            "application/vnd.aiinfra.record+json": {"a": [1]},
                        },
                    },
                    {"output_type": "error", "ename": "E", "traceback": ["t", "u"]},
                ],
            }
        ],
    }
    found = read(tmp_path, content)
    (cell,) = found["cells"]
    stream, display, error = cell["outputs"]
    assert (cell["source"], cell["metadata"], found["metadata"]) == ("a\nb", {}, {})
    assert stream["text"] == "1\n2"
    assert display["data"] == {
        "text/html": "<b>x",
        "text/plain": "y",
        "application/json": [1, 2],
        "application/vnd.aiinfra.record+json": {"a": [1]},
    }
    assert error["traceback"] == ["t", "u"]


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"there is no file .*none\.ipynb"):
        read_notebook(tmp_path / "none.ipynb")


def test_a_folder_or_bytes_that_are_no_text_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_notebook(tmp_path)
    (tmp_path / "x.ipynb").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_notebook(tmp_path / "x.ipynb")


@pytest.mark.parametrize(
    "text", ["", "{", "<<<<<<< HEAD\n{}", '{"nbformat": 4,}', "[" * 100_000, "9" * 5000]
)
def test_what_is_not_json_is_refused_with_what_may_have_happened(tmp_path, text):
    (tmp_path / "x.ipynb").write_text(text)
    with pytest.raises(InputError, match=r"x\.ipynb is not a notebook: it is not JSON.*merge"):
        read_notebook(tmp_path / "x.ipynb")


CELLS = "its cells cannot be read"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"nbformat": None}, "no nbformat number"),
        ({"nbformat": "4"}, "no nbformat number"),
        ({"nbformat": 3}, r"another notebook format; found 3\.5; needed nbformat 4\.5"),
        ({"nbformat": 5}, r"found 5\.5"),
        ({"nbformat_minor": 6}, r"found 4\.6"),
        ({"nbformat_minor": "x"}, r"found 4\.x"),
        ({"nbformat_minor": None}, r"found 4\.None"),
        ({"nbformat_minor": -1}, r"found 4\.-1"),
        ({"metadata": []}, "its metadata cannot be read"),
        ({"metadata": None}, "its metadata cannot be read"),
        ({"cells": None}, CELLS),
        ({"cells": {}}, CELLS),
        ({"cells": [1]}, CELLS),
        ({"cells": [{"cell_type": "code"}]}, CELLS),
        ({"cells": [{"cell_type": "heading", "source": ""}]}, CELLS),
        ({"cells": [{"source": ""}]}, CELLS),
        ({"cells": [{"cell_type": "code", "source": 5}]}, CELLS),
        ({"cells": [{"cell_type": "code", "source": "", "metadata": []}]}, CELLS),
        ({"cells": [{"cell_type": "code", "source": "", "outputs": {}}]}, CELLS),
        ({"cells": [{"cell_type": "code", "source": "", "outputs": [1]}]}, CELLS),
        ({"cells": [{"cell_type": "code", "source": "", "id": ["a"]}]}, CELLS),
        ({"cells": [{"cell_type": "code", "source": "", "id": 5}]}, CELLS),
    ],
)
def test_what_is_no_notebook_is_refused_in_one_sentence(tmp_path, change, sentence):
    with pytest.raises(InputError, match=sentence) as refusal:
        read(tmp_path, notebook() | change)
    assert str(refusal.value).startswith("x.ipynb ")


@pytest.mark.parametrize("content", [[], 5, "x", None, {}])
def test_json_that_is_no_notebook_is_refused(tmp_path, content):
    with pytest.raises(InputError, match=r"x\.ipynb is not a notebook: it has no nbformat"):
        read(tmp_path, content)


@pytest.mark.parametrize("minor", [0, 4, 5])
def test_every_notebook_of_format_4_is_read(tmp_path, minor):
    assert read(tmp_path, notebook() | {"nbformat_minor": minor})["cells"] == []


def test_two_cells_with_one_id_are_refused_unless_the_reader_sorts_them_out(tmp_path):
    content = notebook(code("a"), code("b"), markdown("a", "x"))
    with pytest.raises(InputError, match="two cells with the id 'a'"):
        read(tmp_path, content)
    assert len(read(tmp_path, content, strict=False)["cells"]) == 3


def test_cells_without_ids_are_not_two_cells_with_one_id(tmp_path):
    cells = [{"cell_type": "markdown", "source": "x"}, {"cell_type": "markdown", "source": "y"}]
    assert len(read(tmp_path, notebook(*cells))["cells"]) == 2


ANYTHING = {
    "nbformat": st.sampled_from([4, 4.0, "4"]) | json_values,
    "metadata": json_values,
    "cells": st.lists(
        json_values
        | st.fixed_dictionaries(
            {"cell_type": st.sampled_from(["code", "markdown", "x"]), "source": json_values},
            optional={"metadata": json_values, "outputs": json_values, "id": json_values},
        ),
        max_size=3,
    ),
}


@law(deadline=None, max_examples=60)
@given(content=st.fixed_dictionaries({}, optional=ANYTHING | {"nbformat_minor": json_values}))
def test_any_json_is_a_notebook_or_a_sentence(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp()
    cells = []
    with contextlib.suppress(InputError):
        cells = read(folder, content, strict=False)["cells"]
    assert all(isinstance(cell["source"], str) for cell in cells)


# --- writing -------------------------------------------------------------------------------------

texts = st.lists(st.sampled_from(["a", "é", "\n", "\r\n", "\t", '"', " ", "x = 1\n"])).map("".join)
streams = st.builds(printed, texts, st.sampled_from(["stdout", "stderr"]))
displays = st.fixed_dictionaries(
    {
        "output_type": st.just("display_data"),
        "metadata": st.just({}),
        "data": st.fixed_dictionaries(
            {"text/plain": texts},
            optional={"text/html": texts, "image/png": texts, "application/x+json": json_values},
        ),
    }
)
code_cell = st.builds(
    lambda source, outputs, count, metadata: {
        "cell_type": "code",
        "metadata": metadata,
        "source": source,
        "outputs": outputs,
        "execution_count": count,
    },
    texts,
    st.lists(streams | displays, max_size=3),
    st.none() | st.integers(1, 99),
    st.sampled_from([{}, {"tags": ["a"]}, {"execution": {"t": 1}, "collapsed": True}]),
)
text_cell = st.builds(lambda source: markdown("", source), texts)
notebooks = st.lists(code_cell | text_cell, max_size=4).map(
    lambda cells: notebook(*({**cell, "id": f"c{n}"} for n, cell in enumerate(cells)))
)


@quick
@given(notebooks)
def test_what_is_written_is_read_back(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "round-trip.ipynb"
    path.write_text(dumps(content), encoding="utf-8", newline="")
    again = read_notebook(path)
    assert dumps(again) == dumps(content)
    assert [c["source"] for c in again["cells"]] == [c["source"] for c in content["cells"]]


@quick
@given(notebooks)
def test_normalising_is_done_once_and_leaves_what_people_wrote(content):
    before = copy.deepcopy(content)
    once = normalised(content)
    assert repr(content) == repr(before)
    assert dumps(normalised(once)) == dumps(once)
    assert [cell["source"] for cell in once["cells"]] == [c["source"] for c in before["cells"]]
    for old, new in zip(before["cells"], once["cells"], strict=True):
        assert all_text(old) == all_text(new)


def all_text(cell):
    return [
        "".join(o["text"] for o in cell.get("outputs", []) if o.get("name") == name)
        for name in ("stdout", "stderr")
    ]


def test_a_file_is_indented_sorted_readable_and_ends_its_line():
    text = dumps(notebook(code("b", "é\nx")))
    assert text.endswith("}\n")
    assert text.startswith('{\n "cells": [\n  {\n   "cell_type": "code",\n   "execution_count"')
    assert '"source": [\n    "é\\n",\n    "x"\n   ]' in text


def test_committed_notebooks_are_written_byte_for_byte_as_nbformat_writes_them(root):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nbformat
    paths = [*root.glob("notebooks/*.ipynb"), *root.glob("labs/*.ipynb")]
    paths += root.glob("solutions/*.ipynb")
    assert len(paths) >= 3
    for path in paths:
        peer = nbformat.writes(nbformat.read(path, as_version=4)).removesuffix("\n") + "\n"
        assert dumps(read_notebook(path)) == peer, path.name
        assert dumps(normalised(read_notebook(path))) == peer, path.name


def test_write_notebook_writes_the_normalised_form(tmp_path):
    content = notebook(executed("a", "1", printed("x")) | {"execution_count": 9})
    write_notebook(tmp_path / "new" / "x.ipynb", content)
    assert (tmp_path / "new" / "x.ipynb").read_text() == dumps(normalised(content))


# --- normalising ---------------------------------------------------------------------------------


def test_what_tools_leave_behind_goes_and_the_courses_own_stays():
    cell = code("a", tags=["exhibit"])
    cell["metadata"] |= {
        "execution": {"iopub.status.busy": "now"},
        "papermill": {"duration": 1},
        "collapsed": False,
        "ExecuteTime": {},
        "trusted": True,
        "scrolled": True,
        "nbgrader": {"grade_id": "a"},
        "deletable": False,
    }
    content = notebook(cell)
    content["metadata"] |= {
        "kernelspec": {"name": "venv-17"},
        "language_info": {"version": "3.11.2"},
        "widgets": {},
        "papermill": {},
    }
    content["nbformat_minor"] = 4
    found = normalised(content)
    assert found["cells"][0]["metadata"] == {
        "tags": ["exhibit"],
        "nbgrader": {"grade_id": "a"},
        "deletable": False,
    }
    assert found["metadata"] == {
        "aiinfra_lab": content["metadata"]["aiinfra_lab"],
        "kernelspec": {
            "display_name": "Python 3 (ipykernel)",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)


def test_a_notebook_of_somebody_else_gets_no_metadata_of_the_course():
    content = notebook()
    del content["metadata"]["aiinfra_lab"]
    assert "aiinfra_lab" not in normalised(content)["metadata"]


def test_executed_cells_are_counted_in_order_and_their_results_with_them():
    result = {"output_type": "execute_result", "data": {}, "metadata": {}, "execution_count": 31}
    found = normalised(
        notebook(
            executed("a", "1") | {"execution_count": 17},
            markdown("b", "text"),
            code("c", "never ran"),
            executed("d", "2", result) | {"execution_count": 31},
        )
    )["cells"]
    assert [cell.get("execution_count") for cell in found] == [1, None, None, 2]
    assert found[3]["outputs"][0]["execution_count"] == 2


def test_streams_of_one_name_that_follow_each_other_are_one():
    outputs = [
        printed("a"),
        printed("b"),
        printed("c", "stderr"),
        printed("d"),
        {"output_type": "display_data", "data": {}, "metadata": {}},
        printed("e"),
        printed("f"),
    ]
    found = normalised(notebook(executed("a", "1", *outputs)))["cells"][0]["outputs"]
    assert [output.get("text") for output in found] == ["ab", "c", "d", None, "ef"]


def test_cells_without_a_usable_id_get_one_from_their_place_that_is_free():
    cells = [code("cell-1"), code("cell-3"), code("a b"), code("good"), code("x" * 65)]
    del cells[0]["id"]
    found = [cell["id"] for cell in normalised(notebook(*cells))["cells"]]
    assert found == ["cell-1", "cell-3", "cell-3a", "good", "cell-5"]


def test_a_cell_without_outputs_or_count_gets_empty_ones():
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": ""}
    found = normalised(notebook(cell))["cells"][0]
    assert (found["outputs"], found["execution_count"]) == ([], None)


# --- small readers -------------------------------------------------------------------------------


def test_code_cells_are_the_code_cells_in_order():
    found = code_cells(notebook(code("a"), markdown("b", ""), code("c")))
    assert [cell["id"] for cell in found] == ["a", "c"]


@quick
@given(json_values)
def test_tags_are_texts_in_a_list_and_nothing_else_is_one(found):
    texts = {tag for tag in found if isinstance(tag, str)} if isinstance(found, list) else set()
    assert tags({"metadata": {"tags": found}}) == texts


def test_a_cell_without_tags_has_none():
    assert tags(code("a")) == frozenset()
    assert tags(code("a", tags=["x", "y"])) == {"x", "y"}


def test_the_value_of_a_tag_stands_behind_its_name():
    cell = code("a", tags=["live", "timeout=120", "time=5"])
    assert tag_value(cell, "timeout") == "120"
    assert tag_value(cell, "time") == "5"
    assert tag_value(cell, "live") is None
    assert tag_value(code("a"), "timeout") is None


def test_stripping_takes_outputs_and_counts_and_leaves_the_original():
    content = notebook(executed("a", "1", printed("x")), markdown("b", "text"))
    before = json.dumps(content)
    cell, text = stripped(content)["cells"]
    assert (cell["outputs"], cell["execution_count"], cell["source"]) == ([], None, "1")
    assert text == markdown("b", "text")
    assert json.dumps(content) == before
