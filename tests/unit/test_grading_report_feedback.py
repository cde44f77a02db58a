"""Feedback: a learner reads of their own work, and of nothing and nobody else."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st
from made_batches import LAB, SEED, absent, batch, difference, mark, missed, submission
from test_grading_report import ACTING, ATTACK, Page, hostile, policy

from aiinfra_lab.course.masters import Exercise
from aiinfra_lab.grading import feedback_name, write_feedback

CODE = "def rate(calls):\n    return sum(calls) / len(calls)  # mine"


def feedback(row, tmp_path, sources=None, others=(), **kwargs) -> Page:
    result = batch(row, *others)
    paths = write_feedback(result, {row.id: sources or {}}, tmp_path, **kwargs)
    assert paths.keys() == {s.id for s in result.submissions}
    return Page(paths[row.id].read_text("utf-8"))


# --- what is on it -------------------------------------------------------------------------------


def test_a_learner_sees_points_code_and_what_differed(tmp_path):
    row = submission(
        "ada", mark("probes", points=27), missed("window"), name="Ada L", notes=("a cell is twice",)
    )
    page = feedback(row, tmp_path, {"window": CODE, "probes": "ok = 1"})
    text = page.text
    for said in (
        "Lab 03 · Build the parts",
        "Ada L",
        "ada.ipynb",
        "27 of 32 points",
        "1 of 2 exercises passed",
        "a cell is twice",
        "✓ passed 27 of 27",
        "✗ not yet 0 of 5",
        "expected 0.25 found 0.5 hint The oldest call leaves first.",
    ):
        assert said in text
    assert "".join(page.words).count("return sum(calls) / len(calls)  # mine") == 1


def test_an_error_is_told_once_and_what_it_left_out_is_not(tmp_path):
    left_out = tuple(difference(f"r{n}", found="nothing") for n in range(4))
    reason = "your code raised ZeroDivisionError (window, line 3)"
    row = submission("ada", mark("window", "not yet", reason=reason, differences=left_out))
    text = feedback(row, tmp_path).text
    assert reason in text
    assert "r0" not in text


def test_a_reason_that_says_what_the_first_difference_says_is_not_repeated(tmp_path):
    text = feedback(submission("ada", missed("window")), tmp_path).text
    assert text.count("The oldest call leaves first.") == 1


def test_a_hidden_difference_is_told_without_what_it_is(tmp_path):
    reason = "the visible results agree, a hidden one differs: think of unusual inputs"
    row = submission("ada", mark("window", "not yet", reason=reason))
    assert reason in feedback(row, tmp_path).text


def test_many_differences_are_cut_to_the_first(tmp_path):
    many = tuple(difference(f"record {n}.") for n in range(9))
    text = feedback(submission("ada", mark("window", "not yet", differences=many)), tmp_path).text
    assert "record 4." in text
    assert "record 5." not in text
    assert "4 more results differ" in text


def test_every_answer_cell_of_an_exercise_stands_with_it(tmp_path):
    row = submission("ada", mark("window"), mark("probes"))
    cells = {"first": "a = 1", "second": "b = 2", "probes": "c = 3", "stray": "d = 4"}
    parts = (Exercise("window", 5, ("first", "second")), Exercise("probes", 5, ("probes",)))
    text = feedback(row, tmp_path, cells, exercises=parts).text
    order = ["window", "in first", "in second", "probes", "stray"]
    assert [text.index(word) for word in order] == sorted(text.index(word) for word in order)
    assert "".join(Page((tmp_path / "feedback" / "ada.html").read_text()).words).count("d = 4") == 1


def test_pending_points_are_told_as_such(tmp_path):
    text = feedback(submission("ada", mark("window"), mark("essay", "pending", 10)), tmp_path).text
    assert "5 of 15 points so far" in text
    assert "1 waiting to be marked by hand" in text
    assert "essay ? pending of 10" in text


def test_who_has_no_file_reads_why(tmp_path):
    assert "on the roster, but there is no file" in feedback(absent("bob"), tmp_path).text


def test_a_limit_is_told(tmp_path):
    row = submission("ada", mark("window"), limit="memory, 2 GiB")
    assert "ended by a limit: memory, 2 GiB" in feedback(row, tmp_path).text


# --- what is not on it ---------------------------------------------------------------------------


def test_nothing_of_others_of_the_seed_or_of_the_class_is_on_it(tmp_path):
    row = submission(
        "ada",
        mark("window", "not yet", reason=f"your code raised ValueError: {int(SEED, 16)}"),
        mark(
            "jitter",
            "not yet",
            differences=(difference("waits", found=f"'{SEED.upper()}'", where=f"[{SEED}]"),),
        ),
        same_as="bob",
        notes=(f"seed {SEED}",),
    )
    other = submission("bob", missed("window"), name="Bob Roberts")
    feedback(row, tmp_path, {"window": CODE}, others=[other])
    text = (tmp_path / "feedback" / "ada.html").read_text("utf-8")
    assert SEED not in text.lower()
    assert str(int(SEED, 16)) not in text
    assert "(the seed)" in text
    for secret in ("bob", "Bob", "sha256:", "5e5e5e", "network", "mean", "median"):
        assert secret not in text


def test_a_small_public_seed_is_a_number_like_others(tmp_path):
    result = batch(submission("ada", mark("a", "not yet", reason="expected 3, found 5")), seed="3")
    path = write_feedback(result, {}, tmp_path)["ada"]
    assert "expected 3, found 5" in path.read_text("utf-8")


# --- nothing acts --------------------------------------------------------------------------------


def test_hostile_text_is_text(tmp_path):
    result = hostile()
    sources = {ATTACK: f"x = 1 # {ATTACK}\n'''{ATTACK}", "other " + ATTACK: ATTACK}
    for path in write_feedback(
        result, dict.fromkeys((s.id for s in result.submissions), sources), tmp_path
    ).values():
        text = path.read_text("utf-8")
        page = Page(text)
        used = {tag for tag, _ in page.tags}
        assert not used & {"script", "img", "iframe", "base", "form", "a", "svg"}
        assert not any(name.startswith("on") or name == "style" for _, a in page.tags for name in a)
        assert not set(ACTING) & set(text)
        assert "{{ 7*7 }}" in page.text
        assert policy(page).startswith("default-src 'none'; style-src 'sha256-")


def test_endless_code_is_cut(tmp_path):
    feedback(submission("ada", mark("window")), tmp_path, {"window": "x = 1\n" * 100_000})
    text = (tmp_path / "feedback" / "ada.html").read_text("utf-8")
    assert "579,999 more characters" in re.sub(r"<[^>]*>", "", text)
    assert len(text) < 400_000


# --- names of files ------------------------------------------------------------------------------

IDS = [
    "../../etc/passwd",
    "..",
    ".",
    "",
    " ",
    "a/b",
    "a\\b",
    "学習者",
    "学生",
    "Ada",
    "ADA",
    "x" * 300,
    "x" * 301,
    "con",
    "lpt1",
    "a.b",
    "a\0b",
    "\udce9",
    "é",
    "e\u0301",
    "-rf",
    "ada ",
]


def test_names_are_safe_and_unique_whatever_the_ids():
    names = [feedback_name(learner) for learner in [*IDS, "ada"]]
    assert len({name.casefold() for name in names}) == len(names)
    for name in names:
        assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*\.html", name)
        assert len(name) <= 80
        assert name.removesuffix(".html") not in {"con", "lpt1"}


@pytest.mark.parametrize("learner", ["ada", "s0012", "ada_l-2", "7"])
def test_a_plain_id_is_its_own_name(learner):
    assert feedback_name(learner) == f"{learner}.html"


def test_an_id_that_looks_like_anothers_name_does_not_take_it():
    taken = feedback_name("Ada").removesuffix(".html")
    assert feedback_name(taken) != feedback_name("Ada")


@law(deadline=None)
@given(st.text(), st.text())
def test_two_ids_never_share_a_file(one, other):
    assert (feedback_name(one) == feedback_name(other)) == (one == other)


def test_pages_are_written_inside_the_folder_only(tmp_path):
    rows = [submission(learner, mark("window")) for learner in IDS]
    paths = write_feedback(batch(*rows), {}, tmp_path / "out")
    assert len({*paths.values()}) == len(IDS)
    assert {path.parent for path in paths.values()} == {tmp_path / "out" / "feedback"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_whole_lab_has_a_section_for_each_exercise(tmp_path):
    row = submission("ada", *[missed(e, p) for e, p in LAB.items()])
    page = feedback(row, tmp_path, dict.fromkeys(LAB, CODE))
    assert sum("answer" in (a.get("class") or "") for a in page.all("section")) == len(LAB)
    assert len(page.all("pre")) == len(LAB)
