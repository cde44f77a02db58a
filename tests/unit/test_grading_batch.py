"""The batch by itself: its submissions run in a made-up place that only this test trusts."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re

import pytest
from builders import cell_of, code, executed, expect, graded, master, put

from aiinfra_lab.course.judgement import exercise_output, is_check
from aiinfra_lab.course.masters import is_answer, released
from aiinfra_lab.course.notebooks import code_cells, dumps
from aiinfra_lab.course.records import Record
from aiinfra_lab.course.runner import CellRun
from aiinfra_lab.errors import InputError, MissingNeed, NotebookError, ProcessError
from aiinfra_lab.grading import batch as batch_module
from aiinfra_lab.grading.batch import grade
from aiinfra_lab.grading.orders import Order
from aiinfra_lab.grading.results import BatchResult, Wall
from aiinfra_lab.grading.runs import Run
from aiinfra_lab.grading.tables import Format

RIGHT = {"double": "def double(x): return x + x", "half": "def half(x): return x / 2"}
WRONG = "def half(x): return x / 3"
STUB = "raise NotImplementedError()"


class Place:
    """Defines the answers and calls them, as the check cells of the made-up lab would.

    It notes what it ran, and how much at once.
    """

    def __init__(self, *, stood=True, broken_after=None, limit="", seconds=0.0):
        self.walls = (Wall(name="network", stood=stood, detail="as told"),)
        self.ran, self.now, self.most = [], 0, 0
        self.broken_after, self.limit, self.seconds = broken_after, limit, seconds
        self.entered = False
        self.seeds = []

    def __call__(self, lab):
        self.lab = lab
        return self

    async def __aenter__(self):
        self.entered = True
        return self

    async def __aexit__(self, *error):
        self.entered = False

    async def run(self, notebook):
        assert self.entered
        self.ran.append({c["id"]: c["source"] for c in code_cells(notebook) if is_answer(c)})
        if self.broken_after is not None and len(self.ran) > self.broken_after:
            raise ProcessError("the place is broken")
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0.01)
            return self._run(notebook)
        finally:
            self.now -= 1

    def _run(self, notebook):
        cells, names, seed = {}, {}, 0
        for cell in code_cells(notebook):
            outputs, failure = [], ""
            if found := re.fullmatch(r"seed = (\d+)", cell["source"]):
                seed = int(found[1])
                self.seeds.append(seed)
            if is_answer(cell):
                try:
                    exec(cell["source"], names)
                except Exception as error:
                    failure = "it failed"
                    outputs = [_error(error)]
            elif is_check(cell):
                outputs = [_checked(cell["id"].removesuffix("-check"), names, seed)]
            cells[cell["id"]] = CellRun(cell["id"], outputs, failure)
        limit = self.limit if len(self.ran) > 2 else ""
        return Run(cells, limit=limit, seconds=self.seconds)


def _error(error):
    return {"output_type": "error", "ename": type(error).__name__, "evalue": str(error)}


def _checked(name, names, seed):
    records, raised = [], None
    try:
        function = names[name]
        for label, x in (("visible", seed), ("hidden", seed + 1)):
            records.append(Record(label, function(x)).to_json())
    except Exception as error:
        raised = {"type": type(error).__name__, "message": str(error), "where": ""}
        raised["name"] = getattr(error, "name", None)
    output = exercise_output(name, records, "")
    output["data"]["application/vnd.aiinfra.exercise+json"]["raised"] = raised
    return output


@pytest.fixture
def lab(course):
    """A course with one lab; of ``visible`` the learners know the public result."""
    put(course.masters, "07_made_up.ipynb", master())
    expect(course, double=[Record("visible", 14)], half=[Record("visible", 3.5)])
    return course


@pytest.fixture
def class_(tmp_path):
    """Puts submissions into the folder ``in``."""

    def hand_in(**learners):
        for learner, answers in learners.items():
            notebook = answers if isinstance(answers, bytes) else submission(**answers).encode()
            path = tmp_path / "in" / f"{learner}.ipynb"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(notebook)
        return tmp_path / "in"

    return hand_in


def submission(**answers):
    notebook = released(master())
    for name, source in answers.items():
        cell_of(notebook, name)["source"] = source
    return dumps(notebook)


@pytest.fixture
def run(lab, tmp_path):
    """Grades ``in`` into ``out``."""

    def graded_(place=None, **options):
        options = {"lab": "07", "submissions": tmp_path / "in", "out": tmp_path / "out"} | options
        return asyncio.run(grade(Order(**options), lab, place or Place()))

    return graded_


def rows(result):
    return {row.id: row for row in result.submissions}


def points(result):
    return {row.id: row.points for row in result.submissions}


def in_folder(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- verdicts ------------------------------------------------------------------------------------


def test_every_submission_gets_its_points(run, class_, tmp_path):
    class_(ada=RIGHT, bob={}, eve=RIGHT | {"half": WRONG})
    result = run()
    assert points(result) == {"ada": 10, "bob": 0, "eve": 5}
    assert [e.status for e in rows(result)["bob"].exercises] == ["not started"] * 2
    assert (result.lab, result.title, result.of) == ("07", "Made up", 10)
    assert result.walls[0].name == "network"
    stored = (tmp_path / "out" / "results.json").read_text()
    assert BatchResult.model_validate_json(stored) == result
    assert json.loads(stored)["schema"] == 1


def test_a_visible_difference_is_shown_and_a_hidden_one_is_not(run, class_):
    hidden = "calls = []\ndef half(x):\n    calls.append(x)\n"
    hidden += "    return x / 2 if len(calls) < 2 else 99.5"
    class_(a=RIGHT | {"half": WRONG}, b=RIGHT | {"half": hidden})
    result = run(seed="64")
    seen, unseen = rows(result)["a"].exercises[1], rows(result)["b"].exercises[1]
    assert [d.record for d in seen.differences] == ["visible"]
    assert unseen.differences == ()
    assert "99.5" not in unseen.model_dump_json()


def test_what_a_submission_says_cannot_steer_a_terminal(run, class_):
    class_(a=RIGHT | {"half": "def half(x): raise ValueError('\\x1b[2J\\u202e' + 'y' * 100_000)"})
    reason = rows(run())["a"].exercises[1].reason
    assert "\x1b" not in reason
    assert "\u202e" not in reason
    assert len(reason) < 1_000


def test_a_limit_is_the_rows_reason_and_what_is_right_keeps_its_points(run, class_):
    class_(a=RIGHT)
    row = rows(run(Place(limit="it took all its memory")))["a"]
    assert (row.points, row.state, row.limit) == (10, "graded", "it took all its memory")
    assert row.reason == "the run was ended: it took all its memory"


def test_a_comparison_that_fails_waits_for_a_person(run, class_, monkeypatch):
    from aiinfra_lab.grading import verdicts

    real = verdicts.judge

    def judge(lab, submission, *rest):
        if submission.answers["half"] == WRONG:
            raise RecursionError("deep")
        return real(lab, submission, *rest)

    monkeypatch.setattr(verdicts, "judge", judge)
    class_(a=RIGHT, b=RIGHT | {"half": WRONG})
    result = run()
    assert points(result) == {"a": 10, "b": 0}
    assert rows(result)["b"].state == "pending"
    assert "RecursionError" in rows(result)["b"].reason


def test_an_answer_that_a_person_marks_is_pending(run, class_, lab):
    made = master()
    essay = graded(
        code("essay", "### BEGIN SOLUTION\n'because'\n### END SOLUTION"),
        solution=True,
        grade=True,
        points=4,
        locked=False,
    )
    made["cells"].insert(3, essay)
    put(lab.masters, "07_made_up.ipynb", made)
    class_(a=RIGHT)
    row = rows(run())["a"]
    assert (row.state, row.points, row.of) == ("pending", 10, 14)
    assert (row.exercises[0].exercise, row.exercises[0].status) == ("essay", "pending")


# --- what is wrong with one submission is that submission's row ----------------------------------


def test_a_file_that_cannot_be_read_is_a_row_and_the_others_are_graded(run, class_, tmp_path):
    folder = class_(a=RIGHT, broken=b"{", empty=b"", other=b'{"nbformat": 4, "cells": []}')
    (folder / "link.ipynb").symlink_to(tmp_path / "secret")
    found = rows(run())
    assert {k: v.state for k, v in found.items()} == {
        "a": "graded",
        "broken": "unreadable",
        "empty": "unreadable",
        "link": "unreadable",
        "other": "unreadable",
    }
    assert "not JSON" in found["broken"].reason
    assert "link" in found["link"].reason
    assert found["a"].points == 10
    assert all(row.of == 10 for row in found.values())


def test_whatever_reading_a_file_raises_is_that_files_row(run, class_, monkeypatch):
    class_(a=RIGHT, b={})
    real = batch_module.Reader.read

    def read(self, data, name):
        if name == "b.ipynb":
            raise MemoryError
        return real(self, data, name)

    monkeypatch.setattr(batch_module.Reader, "read", read)
    found = rows(run())
    assert found["b"].state == "unreadable"
    assert "MemoryError" in found["b"].reason
    assert found["a"].points == 10


def test_learners_on_the_roster_without_a_file_have_a_row(run, class_, tmp_path):
    class_(ada=RIGHT, eve=RIGHT)
    (tmp_path / "r.csv").write_text("id,name\nada,Ada L\nbob,Bob B\n")
    found = rows(run(roster=tmp_path / "r.csv"))
    assert {k: (v.name, v.state) for k, v in found.items()} == {
        "ada": ("Ada L", "graded"),
        "bob": ("Bob B", "missing"),
        "eve": ("", "graded"),
    }
    assert found["bob"].reason == "on the roster, and no file"
    assert found["eve"].notes == ("nobody on the roster has this id",)


# --- what is run ---------------------------------------------------------------------------------


def test_the_master_is_run_twice_and_same_answers_once(run, class_):
    class_(a=RIGHT, b=RIGHT, c={})
    place = Place()
    found = rows(run(place))
    assert len(place.ran) == 4
    assert (found["a"].same_as, found["b"].same_as, found["c"].same_as) == ("", "a", "")
    assert found["b"].points == 10


def test_two_with_the_same_answers_each_read_their_own_reason(run, class_):
    needs = {"half": "def half(x): return helper(x)"}
    alone, beside = submission(**RIGHT | needs), json.loads(submission(**RIGHT | needs))
    beside["cells"].append(code("mine", "def helper(x): return x / 2"))
    class_(a=alone.encode(), b=json.dumps(beside).encode())
    place = Place()
    found = rows(run(place))
    assert len(place.ran) == 3
    assert found["b"].same_as == "a"
    reasons = [found[key].exercises[1].reason for key in "ab"]
    assert reasons[0] == "your code raised NameError: name 'helper' is not defined"
    assert reasons[1].startswith("helper is defined in cell 'mine', which is not handed in")


def test_longest_answers_come_first_and_as_many_at_once_as_jobs(run, class_):
    class_(a=RIGHT | {"half": WRONG + " #"}, b=RIGHT | {"half": WRONG + " #" * 90}, c={})
    place = Place()
    run(place, jobs=2)
    order = [sum(map(len, answers.values())) for answers in place.ran[2:]]
    assert order == sorted(order, reverse=True)
    assert place.most == 2


def test_the_seed_is_secret_new_for_each_batch_and_can_be_given_again(run, class_, tmp_path):
    class_(a=RIGHT)
    first, second = Place(), Place()
    one = run(first, out=tmp_path / "1")
    two = run(second, out=tmp_path / "2")
    assert len(one.seed) == 16
    assert one.seed != two.seed
    assert set(first.seeds) == {int(one.seed, 16)}
    again = Place()
    assert run(again, out=tmp_path / "3", seed=one.seed).seed == one.seed
    assert set(again.seeds) == set(first.seeds)


def test_only_one_learner_is_graded_as_in_the_batch(run, class_, tmp_path):
    class_(a=RIGHT, b=RIGHT | {"half": WRONG}, c={})
    whole = run()
    place = Place()
    alone = run(place, out=tmp_path / "alone", only="b", seed=whole.seed)
    assert len(place.ran) == 3
    assert [row.model_dump(exclude={"seconds"}) for row in alone.submissions] == [
        rows(whole)["b"].model_dump(exclude={"seconds"})
    ]


def test_a_master_that_fails_grades_nothing(run, class_, lab, tmp_path):
    made = master()
    cell_of(made, "half")["source"] = "### BEGIN SOLUTION\n1 / 0\n### END SOLUTION"
    put(lab.masters, "07_made_up.ipynb", made)
    class_(a=RIGHT)
    with pytest.raises(NotebookError, match="the master itself fails"):
        run()
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_master_that_disagrees_with_itself_grades_nothing(run, class_, lab):
    made = master()
    random = (
        "### BEGIN SOLUTION\nimport random\ndef half(x): return random.random()\n### END SOLUTION"
    )
    cell_of(made, "half")["source"] = random
    put(lab.masters, "07_made_up.ipynb", made)
    class_(a=RIGHT)
    place = Place()
    with pytest.raises(NotebookError, match=r"gets 5 of 10 points under seed .* nothing is graded"):
        run(place)
    assert len(place.ran) == 2


def test_a_master_that_is_ended_by_a_limit_grades_nothing(run, class_):
    class_(a=RIGHT)
    place = Place(limit="too slow")
    place.ran = [{}, {}]
    with pytest.raises(NotebookError, match="ended by a limit: too slow"):
        run(place)


def test_a_required_sandbox_with_a_missing_wall_grades_nothing(run, class_):
    class_(a=RIGHT)
    place = Place(stood=False)
    with pytest.raises(MissingNeed, match=r"lacks walls: network .as told..*doctor") as caught:
        run(place, require_sandbox=True)
    assert caught.value.exit_code == 3
    assert place.ran == []
    assert run(Place(stood=True), require_sandbox=True).submissions


# --- going on ------------------------------------------------------------------------------------


def test_what_is_finished_is_not_graded_again(run, class_, tmp_path):
    class_(a=RIGHT, b={}, c=RIGHT | {"half": WRONG})
    whole = run(out=tmp_path / "whole", seed="ab")
    with pytest.raises(ProcessError):
        run(Place(broken_after=4), jobs=1, seed="ab")
    assert not (tmp_path / "out" / "results.json").exists()
    place = Place()
    result = run(place, resume=True)
    assert len(place.ran) == 2 + 1
    dumped = [r.model_dump(exclude={"seconds"}) for r in result.submissions]
    assert dumped == [r.model_dump(exclude={"seconds"}) for r in whole.submissions]
    assert result.seed == whole.seed


def test_a_finished_batch_goes_on_without_running_anything_again(run, class_):
    class_(a=RIGHT)
    first = run()
    place = Place()
    assert run(place, resume=True).submissions == first.submissions
    assert len(place.ran) == 2


def test_a_new_file_of_a_learner_is_graded_when_the_batch_goes_on(run, class_):
    class_(a={}, b=RIGHT)
    run()
    class_(a=RIGHT, c=RIGHT)
    place = Place()
    found = run(place, resume=True)
    assert points(found) == {"a": 10, "b": 10, "c": 10}
    assert len(place.ran) == 2 + 1


def test_resume_begins_where_there_is_nothing_yet(run, class_):
    class_(a=RIGHT)
    assert points(run(resume=True)) == {"a": 10}


def test_resume_of_another_batch_is_refused(run, class_, lab, tmp_path):
    class_(a=RIGHT)
    run(seed="ab")
    before = in_folder(tmp_path / "out")
    with pytest.raises(InputError, match="a batch with another seed"):
        run(resume=True, seed="cd")
    changed = master()
    changed["cells"][0]["source"] = "# Another title"
    put(lab.masters, "07_made_up.ipynb", changed)
    with pytest.raises(InputError, match="a batch with another master"):
        run(resume=True)
    put(lab.masters, "08_other.ipynb", master(id="08", slug="other"))
    with pytest.raises(InputError, match="a batch with another lab"):
        run(resume=True, lab="08")
    assert in_folder(tmp_path / "out") == before


def test_a_folder_with_results_or_finished_rows_is_not_overwritten(run, class_, tmp_path):
    class_(a=RIGHT, b={})
    with pytest.raises(ProcessError):
        run(Place(broken_after=3), jobs=1)
    with pytest.raises(InputError, match=r"1 rows are finished.*--resume"):
        run()
    run(resume=True)
    before = in_folder(tmp_path / "out")
    with pytest.raises(InputError, match="results of a batch already"):
        run()
    assert in_folder(tmp_path / "out") == before


def test_a_batch_that_graded_nothing_leaves_no_mark_on_the_next(run, class_, tmp_path):
    class_(a=RIGHT)
    with pytest.raises(ProcessError):
        run(Place(broken_after=0), seed="ab")
    assert run().seed != "00000000000000ab"


def test_an_interrupted_batch_gives_the_folder_back(run, class_, tmp_path):
    class_(a=RIGHT)
    place = Place()

    async def interrupted(notebook):
        raise KeyboardInterrupt

    place.run = interrupted
    with pytest.raises(KeyboardInterrupt):
        run(place)
    assert not (tmp_path / "out" / "grader.lock").exists()
    assert not place.entered


# --- what is wrong with the order is refused before anything is written --------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lab": "99"}, "there is no lab '99'"),
        ({"jobs": 0}, "--jobs must be at least 1"),
        ({"seed": "xyz"}, "is no seed"),
        ({"seed": "-1"}, "is no seed"),
        ({"seed": "1" * 65}, "is no seed"),
        ({"seed": "7"}, "is the public seed"),
        ({"id_from": "("}, "no regular expression"),
        ({"id_from": "(zzz)"}, "matches no file"),
        ({"only": "nobody"}, "there is no learner 'nobody'. There is: a"),
        ({"only": "a", "resume": True}, "cannot go with --resume"),
    ],
)
def test_an_order_that_cannot_be_used_is_refused(run, class_, tmp_path, options, words):
    class_(a=RIGHT)
    place = Place()
    with pytest.raises(InputError, match=re.escape(words)):
        run(place, **options)
    assert not (tmp_path / "out").exists()
    assert not place.entered


def test_submissions_that_are_not_there_are_refused(run, tmp_path):
    with pytest.raises(InputError, match="there is no folder or zip"):
        run()
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="there are no submissions; found nothing"):
        run()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["out", "emit_nbval"])
def test_results_among_the_submissions_are_refused(run, class_, option):
    folder = class_(a=RIGHT)
    for path in (folder, folder / "graded"):
        with pytest.raises(InputError, match="lies among the submissions"):
            run(**{option: path})
    assert [p.name for p in folder.iterdir()] == ["a.ipynb"]


def test_a_release_has_no_masters_to_grade_by(run, class_, lab):
    class_(a=RIGHT)
    (lab.root / "RELEASE.json").write_text("{}")
    with pytest.raises(InputError, match="a release of the course"):
        run()


def test_a_full_disk_ends_the_batch_with_a_sentence_and_keeps_what_is_finished(
    run, class_, monkeypatch
):
    class_(a=RIGHT, b={}, c=RIGHT | {"half": WRONG})
    real, written = os.write, []

    def write(descriptor, data):
        if b'"answers"' in data:
            written.append(data)
            if len(written) == 2:
                real(descriptor, data[:40])
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(InputError, match=r"the disk of .* is full.*--resume"):
            run(jobs=1)
    place = Place()
    assert points(run(place, resume=True)) == {"a": 10, "b": 0, "c": 5}
    assert len(place.ran) == 2 + 2


# --- what is written -----------------------------------------------------------------------------


def test_the_folder_holds_every_form_of_the_results(run, class_, tmp_path):
    class_(a=RIGHT, b={})
    run(gradebook=Format.CANVAS, similar=True)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {
        "ledger.jsonl",
        "results.json",
        "results.csv",
        "results-canvas.csv",
        "report.html",
        "junit.xml",
        "similar.json",
        "feedback",
    }
    assert {p.name for p in (tmp_path / "out" / "feedback").iterdir()} == {"a.html", "b.html"}


def test_the_notebooks_for_nbval_hold_the_references_outputs(run, class_, tmp_path):
    from aiinfra_lab.course.guard import problems
    from aiinfra_lab.course.notebooks import read_notebook

    class_(a=RIGHT, b={})
    run(emit_nbval=tmp_path / "nbval")
    notebook = read_notebook(tmp_path / "nbval" / "b.ipynb")
    again = Place()._run(notebook)
    assert cell_of(notebook, "double-check")["outputs"] != again.cells["double-check"].outputs
    good = read_notebook(tmp_path / "nbval" / "a.ipynb")
    again = Place()._run(good)
    assert cell_of(good, "double-check")["outputs"] == again.cells["double-check"].outputs
    assert not problems(good)
    with pytest.raises(InputError, match="is no empty folder"):
        run(emit_nbval=tmp_path / "nbval", out=tmp_path / "again")


def test_a_stored_master_is_never_the_reference(run, class_, lab):
    """The outputs that are stored in the master are of the public seed; they must not be used."""
    made = master()
    for cell in made["cells"]:
        if is_check(cell):
            cell.update(executed(cell["id"], cell["source"]))
            cell["metadata"] = cell_of(master(), cell["id"])["metadata"]
    put(lab.masters, "07_made_up.ipynb", made)
    class_(a=RIGHT, b={})
    assert points(run()) == {"a": 10, "b": 0}
