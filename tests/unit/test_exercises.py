"""Exercises: what a check emits, and what a learner reads under it."""

from __future__ import annotations

import json

import pytest
from builders import expect

from aiinfra_lab.course import exercises as module
from aiinfra_lab.course.comparison import Difference
from aiinfra_lab.course.conditions import count, distinct
from aiinfra_lab.course.exercises import Raised, exercise
from aiinfra_lab.course.feedback import Verdict
from aiinfra_lab.course.records import EXERCISE_MIME, Record

PUBLIC, OTHER = 7, 8


@pytest.fixture
def bundles(monkeypatch, course):
    """What exercises display, in order."""
    found = []
    monkeypatch.setattr(module, "display_bundle", found.append)
    return found


def records_of(bundle):
    return [Record.from_json(item) for item in bundle[EXERCISE_MIME]["records"]]


def test_a_check_emits_its_results_in_order_with_their_declarations(bundles):
    with exercise("e", OTHER) as ex:
        ex.equal("a", 1.5, rel=0.1, abs=0.2, unit="s", hint="h")
        ex.multiset("b", iter([2, 1]), rel=0.1, abs=0.2, hint="h")
        ex.at_most("c", 1, bound=2, unit="s", hint="h")
        ex.at_least("d", 3, bound=2, unit="s", hint="h")
        ex.between("e", 1, 0, 2, unit="s", hint="h")
        ex.trace("f", (1,), [2], [count(1)], rel=0.1, hint="h")
    (bundle,) = bundles
    json.dumps(bundle, allow_nan=False)
    assert bundle[EXERCISE_MIME]["exercise"] == "e"
    assert bundle[EXERCISE_MIME]["raised"] is None
    assert records_of(bundle) == [
        Record("a", 1.5, "s", 0.1, 0.2, "equal", None, "h"),
        Record("b", [2, 1], "", 0.1, 0.2, "multiset", None, "h"),
        Record("c", 1, "s", 0, 0, "at_most", 2, "h"),
        Record("d", 3, "s", 0, 0, "at_least", 2, "h"),
        Record("e", 1, "s", 0, 0, "between", [0, 2], "h"),
        Record(
            "f", {"inputs": [1], "outputs": [2]}, "", 0.1, 0, "trace", [["count", {"n": 1}]], "h"
        ),
    ]


def test_a_result_is_emitted_as_it_was_when_it_was_given(bundles):
    items = [1]
    with exercise("e", OTHER) as ex:
        ex.equal("a", items)
        items.append(2)
    assert records_of(bundles[0])[0].value == [1]


def test_a_check_draws_by_its_seed_and_name():
    draw = exercise("e", 3).draw.integers(0, 10**9, 5)
    assert exercise("e", 3).draw.integers(0, 10**9, 5) == draw
    assert exercise("e", 4).draw.integers(0, 10**9, 5) != draw
    assert exercise("f", 3).draw.integers(0, 10**9, 5) != draw


# --- the verdict in the kernel -------------------------------------------------------------------


def test_with_the_public_seed_right_results_pass(bundles, course):
    expect(course, PUBLIC, e=[Record("a", 1, hint="h"), Record("b", 2)])
    with exercise("e", PUBLIC) as ex:
        ex.equal("a", 1, hint="h")
        ex.equal("b", 2)
    assert bundles[0]["text/plain"] == "e: passed. 2 results agree"
    assert "<strong" in bundles[0]["text/html"]


def test_with_the_public_seed_a_wrong_result_is_told_by_found_expected_and_hint(bundles, course):
    expect(course, PUBLIC, e=[Record("a", [1, 2], hint="Divide by n.")])
    with exercise("e", PUBLIC) as ex:
        ex.equal("a", [1, 3], hint="Divide by n.")
    assert bundles[0]["text/plain"].splitlines() == [
        "e: not yet. a differs at [1]",
        "  a at [1]",
        "    found     3",
        "    expected  2",
        "    hint      Divide by n.",
    ]


def test_with_another_seed_a_check_only_records(bundles, course):
    expect(course, PUBLIC, e=[Record("a", 1)])
    with exercise("e", OTHER) as ex:
        ex.equal("a", 99)
    assert bundles[0]["text/plain"] == "e: recorded. 1 result"
    assert records_of(bundles[0]) == [Record("a", 99)]


def test_an_exercise_without_public_results_is_only_recorded(bundles, course):
    expect(course, PUBLIC, another=[Record("a", 1)])
    with exercise("e", PUBLIC) as ex:
        ex.equal("a", 1)
        ex.equal("b", 1)
    assert bundles[0]["text/plain"] == "e: recorded. 2 results"


def test_hidden_results_of_a_master_are_not_judged_in_the_kernel(bundles, course):
    expect(course, PUBLIC, e=[Record("a", 1)])
    with exercise("e", PUBLIC) as ex:
        ex.equal("hidden before", 5)
        ex.equal("a", 1)
        ex.equal("hidden after", 5)
    assert bundles[0]["text/plain"].startswith("e: passed")
    assert len(records_of(bundles[0])) == 3


def test_a_missing_result_does_not_pass(bundles, course):
    expect(course, PUBLIC, e=[Record("a", 1), Record("b", 2)])
    with exercise("e", PUBLIC) as ex:
        ex.equal("a", 1)
    assert bundles[0]["text/plain"].startswith("e: not yet. b differs")


def test_a_loosened_tolerance_does_not_pass(bundles, course):
    expect(course, PUBLIC, e=[Record("a", 1.0)])
    with exercise("e", PUBLIC) as ex:
        ex.equal("a", 1.0, rel=9.0)
    assert bundles[0]["text/plain"].startswith("e: not yet")


# --- errors --------------------------------------------------------------------------------------


def test_an_error_ends_its_check_only_and_is_emitted_as_data(bundles):
    with exercise("e", OTHER) as ex:
        ex.equal("a", 1)
        raise KeyError("lost")
    assert bundles[0][EXERCISE_MIME]["raised"] == {
        "type": "KeyError",
        "message": "'lost'",
        "name": None,
        "where": "",
    }
    assert records_of(bundles[0]) == [Record("a", 1)]
    assert bundles[0]["text/plain"] == "e: not yet. your code raised KeyError: 'lost'"


def test_an_error_does_not_pass_even_where_every_result_agrees(bundles, course):
    expect(course, PUBLIC, e=[Record("a", 1)])
    with exercise("e", PUBLIC) as ex:
        ex.equal("a", 1)
        raise RuntimeError
    assert bundles[0]["text/plain"] == "e: not yet. your code raised RuntimeError"


class Falsy(Exception):
    def __bool__(self):
        return False


def test_an_error_that_counts_as_false_is_an_error(bundles):
    with exercise("e", OTHER):
        raise Falsy
    assert bundles[0][EXERCISE_MIME]["raised"]["type"] == "Falsy"


def test_the_stub_of_a_released_answer_means_not_started(bundles, course):
    expect(course, PUBLIC, e=[Record("a", 1)])
    with exercise("e", PUBLIC):
        raise NotImplementedError
    assert bundles[0]["text/plain"] == (
        "e: not started. fill in the answer cell above, run it, then run this cell again"
    )


def test_a_name_that_does_not_exist_is_emitted_with_the_error(bundles):
    with exercise("e", OTHER):
        raise NameError("name 'helper' is not defined", name="helper")
    assert bundles[0][EXERCISE_MIME]["raised"]["name"] == "helper"


def test_a_message_without_end_is_cut(bundles):
    with exercise("e", OTHER):
        raise ValueError("x" * 10_000)
    assert bundles[0][EXERCISE_MIME]["raised"]["message"] == "x" * 500


def test_the_learners_line_that_raised_is_told(bundles, tmp_path):
    # As IPython names the source of a cell; linecache reads it from there.
    folder = tmp_path / "ipykernel_1"
    folder.mkdir()
    cell = folder / "1.py"
    source = "import json\ndef inner():\n    return json.loads('x')\ndef answer():\n    inner()\n"
    cell.write_text(source)
    space = {}
    exec(compile(cell.read_text(), str(cell), "exec"), space)
    with exercise("e", OTHER):
        space["answer"]()
    # Its own last line, not that of the library that it called.
    where = "line 3 of inner: return json.loads('x')"
    assert bundles[0][EXERCISE_MIME]["raised"]["where"] == where
    assert f"({where})" in bundles[0]["text/plain"]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_no_verdict(bundles, interrupt):
    with pytest.raises(interrupt), exercise("e", OTHER):
        raise interrupt
    assert bundles == []


def raised_by(bundles, use):
    with exercise("e", OTHER) as ex:
        use(ex)
    return bundles[-1][EXERCISE_MIME]["raised"]


def twice(ex):
    ex.equal("a", 1)
    ex.at_most("a", 1, 2)


@pytest.mark.parametrize(
    ("use", "kind", "message"),
    [
        (twice, "ValueError", "two results of this exercise are called 'a'"),
        (lambda ex: ex.equal("a", object()), "TypeError", "a: a record holds numbers"),
        (lambda ex: ex.at_most("a", None, 3), "ValueError", "a: record 'a': at_most needs"),
        (lambda ex: ex.trace("a", 1, [1], []), "ValueError", "any answer would pass"),
        (lambda ex: ex.trace("a", 1, [1], [["x", {}]]), "ValueError", "unknown condition 'x'"),
        (lambda ex: ex.multiset("a", 5), "TypeError", "not iterable"),
    ],
)
def test_a_result_that_cannot_be_a_record_is_an_error_of_its_check(bundles, use, kind, message):
    raised = raised_by(bundles, use)
    assert raised["type"] == kind
    assert message in raised["message"]


def test_a_trace_passes_with_other_outputs_that_keep_the_conditions(bundles, course):
    value = {"inputs": [1], "outputs": [1, 2]}
    keep = [["distinct", {"at_least": 2}]]
    expect(course, PUBLIC, e=[Record("t", value, rule="trace", bound=keep)])
    for outputs, status in (([8, 9], "passed"), ([8, 8], "not yet")):
        with exercise("e", PUBLIC) as ex:
            ex.trace("t", [1], outputs, [distinct(2)])
        assert bundles[-1]["text/plain"].startswith(f"e: {status}")


# --- feedback ------------------------------------------------------------------------------------

DIFFERENCE = Difference("loss <a>", "2", "3 & 4", hint="Use <b>.")
STUB = Raised("NotImplementedError", "")


@pytest.mark.parametrize(
    ("differences", "raised", "judged", "status"),
    [
        ([], None, True, "passed"),
        ([DIFFERENCE], None, True, "not yet"),
        (None, None, False, "recorded"),
        ([], Raised("KeyError", "x"), True, "not yet"),
        (None, Raised("KeyError", "x"), False, "not yet"),
        ([DIFFERENCE], STUB, True, "not started"),
        (None, STUB, False, "not started"),
    ],
)
def test_the_status_says_what_is_known_and_no_more(differences, raised, judged, status):
    verdict = Verdict("e", 1, differences, raised, judged)
    assert verdict.status == status
    assert verdict.text().startswith(f"e: {status}. ")
    assert f">{status}</strong>" in verdict.html()


def test_what_a_learner_computed_is_no_html():
    page = Verdict("e <i>", 1, [DIFFERENCE], None, True).html()
    for raw in ("<a>", "<b>", "3 & 4", "<i>"):
        assert raw not in page
    for escaped in ("loss &lt;a&gt;", "Use &lt;b&gt;.", "3 &amp; 4", "e &lt;i&gt;"):
        assert escaped in page


def test_the_place_of_a_difference_is_told_only_where_it_has_one():
    whole, part = Difference("a", "1", "2"), Difference("b", "1", "2", where="[3]")
    verdict = Verdict("e", 2, [whole, part], None, True)
    titles = [line for line in verdict.text().splitlines() if line[2:3].strip(" ")]
    assert [("[3]" in title, " at " in title) for title in titles] == [(False, False), (True, True)]
    assert ">a</th>" in verdict.html()
    assert "at [3]</th>" in verdict.html()
    assert Verdict("e", 1, [part], None, True).text().startswith("e: not yet. b differs at [3]\n")


def test_at_most_three_differences_are_shown():
    many = [Difference(f"r{n}", "1", "2") for n in range(5)]
    text = Verdict("e", 5, many, None, True).text()
    assert [line.strip() for line in text.splitlines() if line.startswith("  r")] == [
        "r0",
        "r1",
        "r2",
    ]


def test_after_an_error_missing_results_are_not_told():
    text = Verdict("e", 0, [DIFFERENCE], Raised("KeyError", "x", where="line 3"), True).text()
    assert text == "e: not yet. your code raised KeyError: x (line 3)"
