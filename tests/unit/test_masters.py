"""Masters: a lab that breaks the protocol is named, and nothing hidden reaches a learner."""

from __future__ import annotations

import copy

import pytest
from builders import (
    DOUBLE,
    answer,
    cell_of,
    check,
    code,
    graded,
    markdown,
    master,
    notebook,
    parameters,
)
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.course.masters import (
    Exercise,
    blanked,
    exercises,
    grade_id,
    marked_by_hand,
    public,
    released,
    without_hidden,
    without_solutions,
)
from aiinfra_lab.course.notebooks import read_notebook
from aiinfra_lab.errors import InputError

# --- marks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", ["", "    ", "\t\t"])
def test_a_solution_becomes_a_stub_at_its_own_indent(indent):
    source = (
        f"before\n{indent}### BEGIN SOLUTION\n{indent}  secret\n\n"
        f"{indent}more\n{indent}### END SOLUTION\nafter"
    )
    stub = f"{indent}# YOUR CODE HERE\n{indent}raise NotImplementedError()"
    assert without_solutions(source) == f"before\n{stub}\nafter"


def test_each_solution_becomes_a_stub_of_its_own():
    source = f"{DOUBLE}\n\n{DOUBLE}"
    assert without_solutions(source).count("raise NotImplementedError()") == 2
    assert "return" not in without_solutions(source)


def test_hidden_tests_vanish_with_their_marks():
    source = "a\n  ### BEGIN HIDDEN TESTS\n  b\n  ### END HIDDEN TESTS\nc"
    assert without_hidden(source) == "a\nc"


lines = st.lists(st.sampled_from(["x = 1", "    y = 2", "", "# a comment", "###"]), max_size=4)


@law(deadline=None, max_examples=30)
@given(st.lists(st.tuples(lines, lines), max_size=3), lines)
def test_what_stands_outside_the_marks_stays_and_what_stands_inside_goes(regions, rest):
    source, kept = [], []
    for outside, inside in regions:
        hidden = [f"secret({line!r})" for line in inside]
        source += [*outside, "### BEGIN HIDDEN TESTS", *hidden, "### END HIDDEN TESTS"]
        kept += outside
    rest = [*rest, "last"]
    assert without_hidden("\n".join(source + rest)) == "\n".join(kept + rest)


@pytest.mark.parametrize("take", [without_solutions, without_hidden])
@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("### BEGIN {0}\n### BEGIN {0}\n### END {0}\n### END {0}", "### BEGIN {0}"),
        ("### END {0}", "### END {0}"),
        ("### BEGIN {0}\n### END {0}\n  ### END {0}", "### END {0}"),
        ("### BEGIN {1}\n### END {1}", "### BEGIN {1}"),
        ("### BEGIN {0}\n### END {1}", "### END {1}"),
    ],
)
def test_a_mark_in_the_wrong_place_is_quoted(take, source, line):
    kinds = ("SOLUTION", "HIDDEN TESTS")
    names = kinds if take is without_solutions else kinds[::-1]
    with pytest.raises(InputError) as refusal:
        take(source.format(*names))
    assert "wrong place" in str(refusal.value)
    assert repr(line.format(*names)) in str(refusal.value)


def test_a_region_without_an_end_is_refused():
    with pytest.raises(InputError, match="### BEGIN SOLUTION has no ### END SOLUTION"):
        without_solutions("### BEGIN SOLUTION\nx")
    with pytest.raises(InputError, match="### BEGIN HIDDEN TESTS has no ### END HIDDEN TESTS"):
        without_hidden("### BEGIN HIDDEN TESTS\nx")


@pytest.mark.parametrize(
    "line",
    [
        "### BEGIN HIDDEN TEST",
        "## BEGIN HIDDEN TESTS",
        "# begin solution",
        "### Begin Solution",
        "### BEGIN_SOLUTION",
        "### BEGIN: SOLUTION",
        "  #END HIDDEN",
    ],
)
def test_a_misspelt_mark_is_refused_and_hides_nothing_by_accident(line):
    for take in (without_solutions, without_hidden):
        with pytest.raises(InputError, match="misspelt"):
            take(f"a\n{line}\nb")


# --- exercises -----------------------------------------------------------------------------------


def test_the_answers_before_a_check_belong_to_it():
    lab = notebook(
        parameters(),
        graded(code("setup")),
        answer("double"),
        markdown("text", "more"),
        answer("half", "### BEGIN SOLUTION\n### END SOLUTION"),
        check("double", points=3),
        answer("last"),
        check("last", points=2.5),
    )
    assert exercises(lab) == [
        Exercise("double", 3.0, ("double", "half")),
        Exercise("last", 2.5, ("last",)),
    ]
    assert [exercise.check for exercise in exercises(lab)] == ["double-check", "last-check"]


def broken(change):
    lab = master()
    change(lab)
    return lab


def grading(lab, cell_id):
    return cell_of(lab, cell_id)["metadata"]["nbgrader"]


def without(lab, cell_id):
    lab["cells"] = [cell for cell in lab["cells"] if cell["id"] != cell_id]


BREACHES = {
    "two cells have the grade_id 'half'": lambda lab: grading(lab, "double").update(
        grade_id="half"
    ),
    "cell 'setup' needs nbgrader schema_version 3": lambda lab: grading(lab, "setup").update(
        schema_version=2
    ),
    "cell 'half' needs nbgrader schema_version 3": lambda lab: grading(lab, "half").pop(
        "schema_version"
    ),
    "the answer 'half' has no check after it": lambda lab: without(lab, "half-check"),
    "the grade_id of a check ends in -check; found 'half-test'": lambda lab: grading(
        lab, "half-check"
    ).update(grade_id="half-test"),
    "check 'half-check' needs points; found 0": lambda lab: grading(lab, "half-check").update(
        points=0
    ),
    "check 'double-check' needs points; found -1": lambda lab: grading(lab, "double-check").update(
        points=-1
    ),
    "check 'half-check' has no answer cell before it": lambda lab: without(lab, "half"),
    "check 'half-check' needs `with exercise(\"half\", seed) as ex:`": lambda lab: cell_of(
        lab, "half-check"
    ).update(source='with exercise("double", seed) as ex: ...'),
    "answer 'double' needs points; found 0": lambda lab: grading(lab, "double").update(
        grade=True, points=0
    ),
    "the answer 'half' is text, which no check can run": lambda lab: cell_of(lab, "half").update(
        cell_type="markdown"
    ),
    "cell 'setup' is a task, whose answer would not be handed in. "
    "Make it an answer that is marked by hand: grade and solution.": lambda lab: grading(
        lab, "setup"
    ).update(task=True),
    "'half' has a check and is marked by hand too": lambda lab: (
        grading(lab, "half").update(grade=True, points=4),
        lab["cells"].insert(0, answer("other")),
        lab["cells"].insert(-1, answer("another")),
    ),
    "check 'double-check' needs `with exercise(\"double\", seed) as ex:`": lambda lab: cell_of(
        lab, "double-check"
    ).update(source='with exercise("double", 7) as ex: ...'),
}


@pytest.mark.parametrize("sentence", BREACHES)
def test_every_breach_of_the_protocol_has_its_sentence(sentence):
    lab = broken(BREACHES[sentence])
    for read in (exercises, released):
        with pytest.raises(InputError) as refusal:
            read(lab, "07_made_up.ipynb")
        assert str(refusal.value) == f"07_made_up.ipynb: {sentence}"


def test_points_that_were_forgotten_are_asked_for():
    lab = broken(lambda lab: grading(lab, "half-check").pop("points"))
    with pytest.raises(InputError, match="'half-check' needs points"):
        exercises(lab)


@pytest.mark.parametrize("metadata", [{}, {"nbgrader": None}, {"nbgrader": 5}, {"nbgrader": {}}])
def test_a_cell_without_readable_grading_has_no_grade_id(metadata):
    assert grade_id({"metadata": metadata}) == ""


# --- released ------------------------------------------------------------------------------------


def test_a_release_holds_no_solution_no_hidden_check_and_no_output():
    lab = master()
    for cell in lab["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "secret"}]
            cell["execution_count"] = 3
    before = copy.deepcopy(lab)
    text = str(released(lab)["cells"])
    for secret in ("2 * x", "x / 2", "hidden", "HIDDEN", "SOLUTION", "secret"):
        assert secret not in text
    assert '"visible", double(3), hint="Think."' in text
    assert lab == before
    for cell in released(lab)["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.parametrize(
    ("make", "stub"),
    [(code, "# YOUR CODE HERE\nraise NotImplementedError()"), (markdown, "YOUR ANSWER HERE")],
)
def test_an_answer_that_a_person_marks_may_stand_last_and_is_released_as_a_stub(make, stub):
    lab = master()
    source = "### BEGIN SOLUTION\nbecause\n### END SOLUTION"
    essay = graded(make("essay", source), grade=True, solution=True, points=4, locked=False)
    lab["cells"].append(essay)
    assert [exercise.name for exercise in exercises(lab)] == ["double", "half"]
    assert marked_by_hand(lab) == {"essay": 4.0}
    found = cell_of(released(lab), "essay")
    assert found["source"] == stub
    assert found["metadata"].get("editable", True)


def test_a_release_locks_what_is_graded_and_leaves_answers_to_the_learner():
    locks = {
        cell["id"]: (
            cell["metadata"].get("deletable", True),
            cell["metadata"].get("editable", True),
        )
        for cell in released(master())["cells"]
    }
    assert locks == {
        "title": (True, True),
        "parameters": (False, False),
        "setup": (False, False),
        "double": (False, True),
        "try-double": (True, True),
        "double-check": (False, False),
        "half": (False, True),
        "half-check": (False, False),
    }


@pytest.mark.parametrize("ending", ["", "\n", "\n\n"])
def test_an_answer_without_marks_is_refused_however_it_ends(ending):
    lab = master()
    cell_of(lab, "half")["source"] = "def half(x):\n    return x / 2" + ending
    with pytest.raises(InputError, match=r"cell 'half': an answer cell has no solution marks"):
        released(lab)


@pytest.mark.parametrize(
    ("cell_id", "source", "sentence"),
    [
        ("title", "### BEGIN SOLUTION", "cell 'title': a mark stands outside answers and checks"),
        ("setup", "### END HIDDEN TESTS", "cell 'setup': a mark stands outside"),
        ("try-double", "# begin solution", "cell 'try-double': a mark stands outside"),
        ("half", "### BEGIN SOLUTION", "cell 'half': ### BEGIN SOLUTION has no ### END"),
        ("half", "### BEGIN HIDDEN TESTS", "cell 'half': a mark stands in the wrong place"),
    ],
)
def test_a_misplaced_mark_is_refused_by_its_cell(cell_id, source, sentence):
    lab = master()
    cell_of(lab, cell_id)["source"] = source
    with pytest.raises(InputError) as refusal:
        released(lab, "07_made_up.ipynb")
    assert str(refusal.value).startswith(f"07_made_up.ipynb: {sentence}")


def test_a_solution_mark_in_a_check_is_refused():
    lab = master()
    cell_of(lab, "half-check")["source"] += "\n### BEGIN SOLUTION\n### END SOLUTION"
    with pytest.raises(InputError, match="cell 'half-check': a mark stands in the wrong place"):
        released(lab)


def digest(lab):
    return released(lab)["metadata"]["aiinfra_lab"]["release"]


def test_the_digest_names_what_learners_get():
    assert digest(master()).startswith("sha256:")
    assert digest(master()) == digest(master())
    assert digest(master(release="sha256:old")) == digest(master())


@pytest.mark.parametrize("cell_id", ["title", "setup", "double", "double-check"])
def test_the_digest_changes_with_every_visible_text(cell_id):
    lab = master()
    cell_of(lab, cell_id)["source"] += "\n# more"
    assert digest(lab) != digest(master())


def test_the_digest_changes_with_the_metadata_and_not_with_a_solution():
    assert digest(master(title="Another")) != digest(master())
    lab = master()
    cell_of(lab, "double")["source"] = DOUBLE.replace("2 * x", "x + x")
    assert digest(lab) == digest(master())


# --- public and blanked --------------------------------------------------------------------------


def test_the_public_master_keeps_its_solutions_and_loses_the_hidden_checks():
    lab = master()
    before = copy.deepcopy(lab)
    seen = public(lab)
    assert lab == before
    assert cell_of(seen, "double") == cell_of(lab, "double")
    for name in ("double-check", "half-check"):
        assert cell_of(seen, name)["source"] == without_hidden(cell_of(lab, name)["source"])
        assert "hidden" not in cell_of(seen, name)["source"]


def test_blanking_takes_out_the_answers_of_the_named_exercises_alone():
    lab = master()
    before = copy.deepcopy(lab)
    blank = blanked(lab, {"half"})
    assert lab == before
    assert cell_of(blank, "half")["source"] == "# YOUR CODE HERE\nraise NotImplementedError()"
    for cell_id in ("double", "double-check", "half-check", "setup"):
        assert cell_of(blank, cell_id) == cell_of(lab, cell_id)
    assert blanked(lab, set()) == lab


def test_the_committed_master_releases_the_committed_lab(root):
    stored = read_notebook(root / "labs" / "00_start_here.ipynb")
    made = released(read_notebook(root / "solutions" / "00_start_here.ipynb"))
    assert made["metadata"]["aiinfra_lab"] == stored["metadata"]["aiinfra_lab"]
    assert [c["source"] for c in made["cells"]] == [c["source"] for c in stored["cells"]]
