"""Building: generated files are current or made again, and what agrees stays as it is."""

from __future__ import annotations

import copy
import json

import pytest
from builders import cell_of, code, executed, markdown, master, notebook, printed, put, shown

from aiinfra_lab.course import building
from aiinfra_lab.course.building import (
    GENERATORS,
    UNSTORED,
    committed,
    expectations,
    refreshed,
    stale,
    write_stale,
)
from aiinfra_lab.course.judgement import exercise_output
from aiinfra_lab.course.masters import released
from aiinfra_lab.course.notebooks import dumps, normalised, read_notebook
from aiinfra_lab.course.records import EXERCISE_MIME, Record
from aiinfra_lab.course.runner import CellRun
from aiinfra_lab.errors import InputError, NotebookError

NAME = "07_made_up.ipynb"

# --- stale files ---------------------------------------------------------------------------------


def test_a_file_that_is_missing_or_differs_is_stale_and_another_is_not(course):
    same, differs, missing = (course.root / name for name in ("same", "differs", "missing"))
    same.write_text("é")
    differs.write_text("old")
    texts = {same: "é", differs: "new", missing: "new"}
    found = list(stale(course, {"g": lambda _: texts, "none": lambda _: {}}))
    assert found == [("g", differs, "new"), ("g", missing, "new")]
    assert differs.read_text() == "old"
    assert not missing.exists()


def test_a_different_line_end_or_a_folder_is_stale(course):
    file, folder = course.root / "file", course.root / "folder"
    file.write_bytes(b"a\n")
    folder.mkdir()
    found = stale(course, {"g": lambda _: {file: "a", folder: "b"}})
    assert [path for _, path, _ in found] == [file, folder]


def test_write_stale_writes_what_is_stale_and_nothing_else(course):
    same, differs = course.root / "same", course.root / "deep" / "differs"
    same.write_text("x")
    stamp = same.stat().st_mtime_ns
    generators = {"g": lambda _: {same: "x", differs: "new"}}
    assert write_stale(course, generators) == [differs]
    assert differs.read_text() == "new"
    assert same.stat().st_mtime_ns == stamp
    assert write_stale(course, generators) == []


def test_later_generators_see_what_earlier_ones_wrote(course):
    first, second = course.root / "first", course.root / "second"
    generators = {
        "first": lambda _: {first: "1"},
        "second": lambda _: {second: first.read_text() + "2"},
    }
    assert write_stale(course, generators) == [first, second]
    assert second.read_text() == "12"


# --- the generators ------------------------------------------------------------------------------


def test_notebooks_are_generated_in_their_normalised_form(course):
    content = master()
    cell_of(content, "setup")["metadata"]["collapsed"] = True
    chapter = put(course.chapters, "07_made_up.ipynb", content)
    solution = put(course.masters, NAME, content)
    put(course.labs, NAME, content)
    assert building.notebooks(course) == {
        chapter: dumps(normalised(content)),
        solution: dumps(normalised(content)),
    }


def test_outputs_that_describe_this_machine_are_not_committed():
    kept, gone = (executed("a", "f()", printed("x"), tags=tags) for tags in ([], [UNSTORED]))
    assert committed(notebook(kept))["cells"][0]["outputs"] == [printed("x")]
    (cell,) = committed(notebook(gone))["cells"]
    assert (cell["outputs"], cell["execution_count"]) == ([], 1)
    fresh = notebook(executed("a", "f()", printed("y")))
    assert refreshed(committed(notebook(gone)), fresh)["cells"][0]["outputs"] == []


def test_labs_are_generated_from_their_masters(course):
    put(course.masters, NAME, master())
    made = building.labs(course)
    assert made == {course.labs / NAME: dumps(normalised(released(master())))}


def test_a_master_that_breaks_the_protocol_is_named(course):
    content = master()
    cell_of(content, "half")["source"] = "no marks"
    put(course.masters, NAME, content)
    with pytest.raises(InputError, match=r"07_made_up\.ipynb: cell 'half'"):
        building.labs(course)


class Kernel:
    """An executor that runs nothing: it emits for each check what it was told to."""

    def __init__(self, **outputs):
        self.outputs = outputs
        self.ran = None

    def run(self, notebooks):
        self.ran = notebooks
        return {
            key: {
                cell["id"]: self.outputs.get(cell["id"].replace("-", "_"), CellRun(cell["id"], []))
                for cell in notebook["cells"]
            }
            for key, notebook in notebooks.items()
        }


def emitting(cell_id, name, *records, raised=None):
    output = exercise_output(name, [record.to_json() for record in records], "")
    output["data"][EXERCISE_MIME]["raised"] = raised
    return CellRun(cell_id, [printed("noise"), output])


SIX, TWO = Record("visible", 6, hint="Think."), Record("visible", 1.5)


def kernel(**changes):
    outputs = {
        "double_check": emitting("double-check", "double", SIX),
        "half_check": emitting("half-check", "half", TWO),
    }
    return Kernel(**(outputs | changes))


def test_expectations_are_what_the_master_gives_under_the_public_seed(course):
    put(course.masters, NAME, master())
    ((path, text),) = expectations(course, kernel()).items()
    assert path == course.labs / "expected" / "07_made_up.json"
    assert text.endswith("}\n")
    assert json.loads(text) == {
        "schema": 1,
        "seed": 7,
        "exercises": {"double": [SIX.to_json()], "half": [TWO.to_json()]},
    }


def test_for_the_expectations_the_solutions_run_and_the_hidden_checks_do_not(course):
    put(course.masters, NAME, master(answers=["json"]))
    executor = kernel()
    expectations(course, executor)
    (run,) = executor.ran.values()
    sources = "\n".join(cell["source"] for cell in run["cells"])
    assert "return 2 * x" in sources
    assert "hidden" not in sources
    assert "seed = 7" in sources
    # The master may use the module that its learners have to write.
    assert "block" not in sources


@pytest.mark.parametrize(
    "change",
    [
        {"half_check": CellRun("half-check", [], "Timeout")},
        {"setup": CellRun("setup", [], "ImportError")},
        {
            "half_check": emitting(
                "half-check", "half", TWO, raised={"type": "KeyError", "message": "x"}
            )
        },
    ],
)
def test_a_master_that_fails_gives_no_expectations_and_names_its_cell(course, change):
    put(course.masters, NAME, master())
    with pytest.raises(NotebookError, match="07_made_up: the master itself fails") as failure:
        expectations(course, kernel(**change))
    ((key, run),) = change.items()
    assert failure.value.cell == run.cell == key.replace("_", "-")
    assert failure.value.tail in ("Timeout", "ImportError", "KeyError: x")


def test_a_course_without_masters_starts_no_kernel(course):
    executor = Kernel()
    assert expectations(course, executor) == {}
    assert executor.ran is None


def test_every_generator_is_registered_and_labs_come_before_their_results():
    assert list(GENERATORS) == ["notebooks", "labs", "expected"]
    assert GENERATORS["expected"] is expectations


# --- refreshed -----------------------------------------------------------------------------------


def outputs(stored, fresh, **kwargs):
    """The outputs that are kept of a cell that was stored with these and gives those."""
    old, new = (notebook(executed("a", "f()", *outs)) for outs in (stored, fresh))
    return refreshed(old, new, **kwargs)["cells"][0]["outputs"]


LOSS, NEAR, FAR = (Record("loss", value, rel=0.1) for value in (1.0, 1.05, 1.5))


def test_a_stored_record_with_which_the_fresh_one_agrees_stays():
    assert outputs(shown(LOSS), shown(NEAR)) == shown(LOSS)


def test_a_stored_record_that_differs_is_replaced():
    assert outputs(shown(LOSS), shown(FAR)) == shown(FAR)


@pytest.mark.parametrize(
    "changed",
    [
        Record("loss", 1.0, rel=0.2),
        Record("loss", 1.0, rel=0.1, abs=1.0),
        Record("loss", 1.0, "nats", rel=0.1),
        Record("loss", 1.0, rel=0.1, rule="at_most"),
        Record("other", 1.0, rel=0.1),
        Record("loss", 1.0, rel=0.1, hint="Think."),
    ],
)
def test_a_changed_declaration_replaces_the_stored_record(changed):
    assert outputs(shown(LOSS), shown(changed)) == shown(changed)


@pytest.mark.parametrize(
    ("stored", "fresh"),
    [
        ([printed("a")], [printed("b")]),
        ([printed("a")], [printed("a", "stderr")]),
        ([printed("a")], []),
        ([], [printed("a")]),
        (shown(LOSS), [*shown(NEAR), printed("new")]),
        ([{"output_type": "error", "ename": "A"}], [{"output_type": "error", "ename": "B"}]),
        ([printed("a")], shown(LOSS)),
        (shown(LOSS), shown(LOSS, Record("more", 1))),
    ],
)
def test_what_is_no_record_is_compared_exactly(stored, fresh):
    assert outputs(stored, fresh) == fresh


def display(**data):
    return [{"output_type": "display_data", "metadata": {}, "data": data}]


def test_a_changed_text_beside_a_picture_is_replaced_and_a_picture_alone_is_not():
    picture = {"image/png": "old", "text/plain": "<Figure>"}
    redrawn = {"image/png": "new", "text/plain": "<Figure>"}
    other = {"image/png": "new", "text/plain": "<Figure 2>"}
    assert outputs(display(**picture), display(**redrawn)) == display(**picture)
    assert outputs(display(**picture), display(**other)) == display(**other)
    assert outputs(display(**{"text/html": "a"}), display(**{"text/html": "b"})) == display(
        **{"text/html": "b"}
    )


def test_with_keep_off_everything_is_replaced():
    assert outputs(shown(LOSS), shown(NEAR), keep=False) == shown(NEAR)


def test_an_exercises_box_is_replaced_only_where_its_records_differ():
    old, same = (
        [exercise_output("e", [LOSS.to_json()], text)] for text in ("old words", "new words")
    )
    far = [exercise_output("e", [FAR.to_json()], "far")]
    assert outputs(old, same) == old
    assert outputs(old, far) == far


def test_a_cell_that_never_ran_takes_the_fresh_outputs():
    old, new = notebook(code("a", "f()")), notebook(executed("a", "f()", printed("x")))
    (cell,) = refreshed(old, new)["cells"]
    assert (cell["outputs"], cell["execution_count"]) == ([printed("x")], 1)


def test_outputs_of_a_cell_whose_execution_was_taken_back_are_replaced():
    old = notebook(executed("a", "f()", *shown(LOSS)) | {"execution_count": None})
    new = notebook(executed("a", "f()", *shown(NEAR)))
    assert refreshed(old, new)["cells"][0]["outputs"] == shown(NEAR)


def test_a_re_execution_that_agrees_leaves_no_diff():
    cells = [
        markdown("title", "# T"),
        executed("a", "f()", *shown(LOSS)),
        executed("b", "x = 1") | {"execution_count": 2},
        executed("c", "g()", printed("x")) | {"execution_count": 3},
    ]
    stored = normalised(notebook(*cells))
    fresh = copy.deepcopy(stored)
    for cell in fresh["cells"]:
        cell["metadata"] = {"papermill": {"duration": 1}}
    fresh["cells"][1]["outputs"] = shown(NEAR)
    before = copy.deepcopy(stored)
    assert dumps(refreshed(stored, fresh)) == dumps(stored)
    assert stored == before


def test_sources_and_metadata_come_from_the_stored_notebook():
    old = notebook(executed("a", "f()  # mine", printed("x"), tags=["exhibit"]))
    new = notebook(executed("a", "injected", printed("y")))
    (cell,) = refreshed(old, new)["cells"]
    assert (cell["source"], cell["metadata"]) == ("f()  # mine", {"tags": ["exhibit"]})
    assert cell["outputs"] == [printed("y")]


def test_notebooks_with_different_cells_are_not_mixed():
    with pytest.raises(ValueError, match="longer"):
        refreshed(notebook(code("a")), notebook(code("a"), code("b")))


def test_the_committed_lab_is_what_its_master_releases(root):
    path = root / "solutions" / "00_start_here.ipynb"
    text = dumps(normalised(released(read_notebook(path), path.name)))
    assert (root / "labs" / "00_start_here.ipynb").read_text(encoding="utf-8") == text
