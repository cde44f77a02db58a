"""The class report and its JUnit file: everything is in them, and nothing from a stranger acts."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import re
import xml.etree.ElementTree as ElementTree
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st
from made_batches import (
    BROKEN_WALLS,
    LAB,
    RECORDS,
    SEED,
    absent,
    batch,
    crowd,
    difference,
    mark,
    missed,
    submission,
)

from aiinfra_lab.grading import CellMatch, SimilarPair, write_junit, write_report
from aiinfra_lab.grading.charts import _nice_width, histogram, shares
from aiinfra_lab.grading.escapes import cut, visible

VOID = {"meta", "link", "br", "img", "input", "hr"}
ATTACK = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}</style>"
    "\x00\x1b[31m\u202eevil\u2066\u200b\ufeff\ud800\ufffe\x85"
)
ACTING = "\x00\x1b\u202e\u2066\u200b\ufeff\ud800\ufffe\x85"


class Page(html.parser.HTMLParser):
    """What a browser makes of a page: its elements, their text, and whether they are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.style = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def report(result, tmp_path, **kwargs) -> Page:
    path = write_report(result, tmp_path, **kwargs)
    assert path == tmp_path / "report.html"
    return Page(path.read_text("utf-8"))


def policy(page: Page) -> str:
    (content,) = [
        m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"
    ]
    return content


# --- the first screen ----------------------------------------------------------------------------


def test_the_page_says_what_was_graded_when_by_which_master_and_seed(tmp_path):
    page = report(crowd(12), tmp_path)
    head = page.text[: page.text.index("Exercises, the hardest first")]
    for fact in (
        "Lab 03 · Build the parts of a circuit breaker",
        "2026-11-24 13:05 UTC",
        "38.4 s",
        "5e5e5e5e5e5e",
        SEED,
        "0.1.0",
        "12 submissions",
    ):
        assert fact in head


def test_missing_walls_are_told_before_anything_else_and_each_says_why(tmp_path):
    text = report(crowd(2, walls=BROKEN_WALLS), tmp_path).text
    head = text[: text.index("submissions ran")]
    assert "2 of 4 walls did not stand" in head
    for wall in BROKEN_WALLS:
        assert f"{wall.name} : {wall.detail}" in text
    assert text.index("no cgroup may be made") < text.index("2 stood") < text.index("points, mean")


def test_walls_that_all_stood_raise_no_alarm(tmp_path):
    page = report(crowd(2), tmp_path)
    assert "All 4 walls stood: network, files, memory, processes" in page.text
    assert not any("alarm" in (a.get("class") or "") for _, a in page.tags)


def test_no_wall_at_all_is_an_alarm(tmp_path):
    page = report(crowd(2, walls=()), tmp_path)
    assert "No wall stood" in page.text
    assert any("alarm" in (a.get("class") or "") for _, a in page.tags)


# --- what was found ------------------------------------------------------------------------------


def test_the_tiles_count_every_kind_of_row(tmp_path):
    full = submission("a", *[mark(e, points=p) for e, p in LAB.items()])
    half = submission("b", mark("window", points=16), missed("probes", 16), limit="memory, 2 GiB")
    waits = submission("c", mark("window", "pending", 32))
    same = submission("d", missed("window", 32), same_as="b", seconds=0)
    text = report(
        batch(full, half, waits, same, absent("e"), absent("f", "unreadable")), tmp_path
    ).text
    for tile in (
        "6 submissions",
        "12 points, mean",
        "8 points, median",
        "1 with all points",
        "2 with none",
        "1 pending",
        "1 without a file",
        "1 unreadable",
        "1 ended by a limit",
        "1 identical to another",
    ):
        assert tile in text
    assert "2 without a verdict are not in it" in text
    assert "1 was not run: an identical file was" in text


def test_exercises_stand_from_the_hardest_to_the_easiest_with_what_differs_most(tmp_path):
    def row(learner, *passed, record="first"):
        return submission(
            learner,
            *[
                mark(name)
                if name in passed
                else mark(name, "not yet", differences=(difference(record), difference("later")))
                for name in ("easy", "middle", "hard")
            ],
        )

    text = report(
        batch(
            row("a", "easy", "middle"),
            row("b", "easy", record="other"),
            row("c", "easy", "middle", "hard"),
            row("d", record="other"),
        ),
        tmp_path,
    ).text
    assert re.search(r"hard 5 points 1 of 4 passed .*?other 2 of 3 middle 5 points 2 of 4", text)
    assert text.index("middle 5 points 2 of 4 passed") < text.index("easy 5 points 3 of 4 passed")
    assert "later" not in text[: text.index("All submissions")]


def test_points_that_wait_for_a_person_are_neither_earned_nor_lost(tmp_path):
    rows = [submission(k, mark("essay", "pending", 4), missed("window")) for k in "ab"]
    page = report(batch(*rows, of=9), tmp_path)
    assert page.text.index("window 5 points") < page.text.index("essay 4 points")
    assert "2 pending" in page.text
    assert "1 of 2 not passed, 1 pending" in page.text
    # In hundredths of a point, of one row's bar.
    labels = [svg.get("aria-label") for svg in page.all("svg")]
    assert labels.count("400 pending, 500 rest") == 2


def test_who_did_not_start_does_not_decide_what_differs_most(tmp_path):
    blank = [
        submission(n, mark("window", "not started", reason="fill in the answer cell"))
        for n in "abc"
    ]
    text = report(batch(*blank, submission("d", missed("window"))), tmp_path).text
    above = text[: text.index("All submissions")]
    assert f"{RECORDS['window']} 1 of 1" in above
    assert "fill in the answer cell" not in above


def test_rows_are_in_the_order_of_names_and_have_state_points_and_reason(tmp_path):
    rows = (
        submission("u1", missed("window", 32), name="zoe"),
        absent("u2", name="Ann"),
        submission("u3", mark("window", points=32), name="bob", notes=("a note",)),
        absent("u4", "unreadable", name="Bob"),
    )
    text = report(batch(*rows), tmp_path).text
    table = text[text.index("learner state points") :]
    assert re.search(
        r"Ann u2 missing 0 / 32 .*on the roster.*bob u3 graded 32 / 32 .*a note"
        r".*Bob u4 unreadable 0 / 32 .*no notebook.*zoe u1 graded 0 / 32 .*expected 0\.25",
        table,
    )


def test_the_signs_of_a_row_are_in_the_order_of_the_lab(tmp_path):
    marks = [mark("a"), mark("b", "not yet"), mark("c", "not started"), mark("d", "pending")]
    text = report(batch(submission("ada", *marks)), tmp_path).text
    assert "(a, b, c, d):" in text
    assert "✓ ✗ ○ ?" in text[text.index("ada") :]
    assert "ada : d" in text[text.index("Waiting for you") :]


def test_similar_pairs_stand_with_their_cells_and_the_rest_is_counted(tmp_path):
    cells = (CellMatch("window", 0.97, 31.0), CellMatch("probes", 0.8, 12.0))
    pairs = [SimilarPair(f"s{n}", "t", 0.412, cells) for n in range(130)]
    text = report(crowd(3), tmp_path, similar=pairs).text
    assert "s0 t 41 % window 97 %, probes 80 %" in text
    assert "30 more pairs" in text
    assert "s129" not in text
    assert "Answers alike" not in report(crowd(3), tmp_path).text


def test_time_names_the_longest_and_leaves_out_what_was_not_run(tmp_path):
    rows = [submission(f"s{n}", mark("window"), seconds=n / 10, cpu_s=0.5) for n in range(1, 6)]
    rows.append(submission("copy", mark("window"), seconds=99, same_as="s1"))
    text = report(batch(*rows), tmp_path).text
    assert "half of them took 0.3 s or less" in text
    assert "0.5 s: s5" in text
    assert "2.5 s of processor time" in text


def test_a_long_batch_is_told_in_minutes(tmp_path):
    result = crowd(2)
    later = result.model_copy(update={"ended": result.started + timedelta(seconds=754)})
    assert "12 min 34 s" in report(later, tmp_path).text


@pytest.mark.parametrize("size", [0, 1, 2, 12, 200])
def test_a_class_of_any_size_has_all_its_rows(size, tmp_path):
    result = crowd(size)
    page = report(result, tmp_path)
    links = [a["href"] for a in page.all("a")]
    assert sorted(links) == sorted(f"feedback/{s.id}.html" for s in result.submissions)
    if not size:
        assert "There are no submissions" in page.text


# --- nothing acts --------------------------------------------------------------------------------


def hostile():
    """A batch in which every text that can come from a stranger is an attack."""
    marks = (
        mark(
            ATTACK,
            "not yet",
            points=32,
            reason=ATTACK,
            differences=(
                difference(ATTACK, where=ATTACK, expected=ATTACK, found=ATTACK, hint=ATTACK),
            ),
        ),
    )
    row = submission(
        ATTACK,
        *marks,
        name=ATTACK,
        notes=(ATTACK,),
        reason=ATTACK,
        limit=ATTACK,
        same_as=ATTACK,
        files=(ATTACK,),
    )
    waits = submission(ATTACK + "2", mark(ATTACK, "pending", 32))
    return batch(row, waits, absent(ATTACK + "3", reason=ATTACK), title=ATTACK)


def test_hostile_text_is_text(tmp_path):
    pair = SimilarPair(ATTACK, ATTACK, 0.9, (CellMatch(ATTACK, 0.9, 20.0),))
    page = report(hostile(), tmp_path, similar=[pair])
    used = {tag for tag, _ in page.tags}
    assert not used & {
        "script",
        "img",
        "iframe",
        "object",
        "base",
        "form",
        "embed",
        "foreignobject",
    }
    assert not any(name.startswith("on") or name == "style" for _, a in page.tags for name in a)
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7*7 }}" in page.text
    text = (tmp_path / "report.html").read_text("utf-8")
    assert not set(ACTING) & set(text)
    assert "⟨U+202E⟩evil" in text


def test_the_policy_allows_the_pages_own_style_and_nothing_else(tmp_path):
    page = report(hostile(), tmp_path)
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    rules = dict(rule.split(" ", 1) for rule in policy(page).split("; "))
    assert rules == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    # It must stand before whatever it is to forbid.
    tags = [tag for tag, _ in page.tags]
    assert tags.index("meta") < tags.index("style")


def test_the_page_loads_nothing(tmp_path):
    page = report(crowd(12), tmp_path)
    assert not any(key in a for _, a in page.tags for key in ("src", "srcset", "data", "action"))
    assert page.all("link") == []
    assert "url(" not in page.style
    assert "@import" not in page.style
    assert all(re.fullmatch(r"feedback/[a-z0-9_-]+\.html", a["href"]) for a in page.all("a"))


def test_long_texts_are_cut_and_say_so(tmp_path):
    row = submission("x" * 300, missed("window", 32), reason="W" * 100_000, notes=("N" * 9_000,))
    page = report(batch(row), tmp_path)
    assert "W" * 401 not in page.text
    assert "99,600 more characters" in page.text
    assert len((tmp_path / "report.html").read_text("utf-8")) < 40_000


def test_a_report_replaces_the_one_before_whole(tmp_path):
    report(crowd(12), tmp_path)
    report(crowd(2), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


# --- text that acts ------------------------------------------------------------------------------


@pytest.mark.parametrize("character", [*ACTING, "\x7f", "\x9b", "\u061c", "\u2028", "\ue000", "ㅤ"])
def test_what_acts_is_shown(character):
    assert visible(f"a{character}b") == f"a⟨U+{ord(character):04X}⟩b"


@pytest.mark.parametrize("text", ["学習者", "Zoë Müller", "a\tb\nc", "न्दी", "🎓", "ก็ู่", ""])
def test_what_people_write_stays(text):
    assert visible(text) == text


def test_windows_line_ends_are_line_ends_and_a_lone_return_is_shown():
    assert visible("a\r\nb\rc") == "a\nb⟨U+000D⟩c"


def test_a_heap_of_marks_is_taken_down():
    assert visible("e" + "\u0301" * 50 + "!") == "e" + "\u0301" * 3 + "!"


@law(deadline=None)
@given(st.text())
def test_whatever_is_made_visible_can_be_written_and_stays_as_it_is(text):
    shown = visible(text)
    shown.encode()
    assert visible(shown) == shown
    ElementTree.fromstring(f"<a>{shown.translate({38: '.', 60: '.'})}</a>")


def test_cutting_says_how_much_is_missing():
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "abc … (1 more characters)"


# --- charts --------------------------------------------------------------------------------------


def bars(chart) -> list[tuple[str, float]]:
    """Of each bar of a histogram its title and height."""
    root = ElementTree.fromstring(str(chart))
    return [(g.find("title").text, float(g.find("rect").get("height"))) for g in root.iter("g")]


def test_a_histogram_counts_every_value_once():
    chart = bars(histogram([0, 1.9, 2, 30, 31, 32], top=32, unit="points", noun="rows"))
    full = {title: height for title, height in chart if height}
    assert full.keys() == {"0 to 2 points: 2", "2 to 4 points: 1", "30 to 32 points: 3"}
    assert full["30 to 32 points: 3"] == 3 * full["2 to 4 points: 1"]


@law(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=50), st.floats(1e-3, 1e4))
def test_no_value_of_a_histogram_is_lost(parts, top):
    chart = bars(histogram([part * top for part in parts], top=top, unit="s", noun="rows"))
    assert sum(int(title.rsplit(": ")[1]) for title, _ in chart) == len(parts)
    assert len(chart) <= 16


@pytest.mark.parametrize(("top", "width"), [(32, 2), (16, 1), (17, 2), (100, 10), (0.5, 0.05)])
def test_bins_have_round_edges(top, width):
    assert _nice_width(top) == width


def test_an_empty_chart_is_still_one():
    assert bars(histogram([], top=0, unit="points", noun="rows")) == [("0 to 1 points: 0", 0.0)]
    assert ElementTree.fromstring(str(shares({"passed": 0}))).get("aria-label") == "none"


def test_the_parts_of_a_bar_add_up_to_its_width():
    root = ElementTree.fromstring(str(shares({"passed": 1, "not yet": 2, "pending": 0})))
    parts = [(r.get("class"), r.get("x"), r.get("width")) for r in root.iter("rect")]
    assert parts == [("passed", "0.00%", "33.33%"), ("not-yet", "33.33%", "66.67%")]


# --- junit.xml -----------------------------------------------------------------------------------


def junit(result, tmp_path) -> ElementTree.Element:
    path = write_junit(result, tmp_path)
    assert path == tmp_path / "junit.xml"
    root = ElementTree.fromstring(path.read_bytes())
    assert_usual(root)
    return root


def assert_usual(root: ElementTree.Element) -> None:
    """The schema that Jenkins and its likes agree on: names, order, and sums that are right."""
    assert root.tag == "testsuites"
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in root:
        assert suite.tag == "testsuite"
        assert set(suite.attrib) == {
            *("name", "tests", "failures", "errors", "skipped", "time", "timestamp")
        }
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp"))
        assert [child.tag for child in suite] == ["properties"] + ["testcase"] * (len(suite) - 1)
        assert len(suite) > 1
        seen = dict.fromkeys(totals, 0)
        for case in suite.iter("testcase"):
            assert set(case.attrib) == {"classname", "name", "time"}
            assert len(case) <= 1
            seen["tests"] += 1
            for child in case:
                assert child.get("message")
                seen[{"failure": "failures", "error": "errors"}.get(child.tag, child.tag)] += 1
        assert seen == {key: int(suite.get(key)) for key in seen}
        totals = {key: totals[key] + seen[key] for key in totals}
    assert totals == {key: int(root.get(key)) for key in totals}


def cases(root) -> dict[tuple[str, str], list[str]]:
    return {
        (case.get("classname"), case.get("name")): [child.tag for child in case]
        for case in root.iter("testcase")
    }


def test_each_learner_and_exercise_is_a_case(tmp_path):
    marks = [mark("a"), missed("window"), mark("c", "not started"), mark("d", "pending")]
    root = junit(batch(submission("ada", *marks), absent("bob")), tmp_path)
    assert cases(root) == {
        ("ada", "a"): [],
        ("ada", "window"): ["failure"],
        ("ada", "c"): ["failure"],
        ("ada", "d"): ["skipped"],
        **{("bob", name): ["error"] for name in ("a", "window", "c", "d")},
    }
    failure = next(f for f in root.iter("failure") if f.get("type") == "not yet")
    assert failure.get("message").startswith(RECORDS["window"])
    assert "expected 0.25, found 0.5" in failure.text
    properties = {p.get("name"): p.get("value") for p in root[0].iter("property")}
    assert properties == {"points": "5", "of": "20"}


def test_a_batch_without_any_verdict_still_has_its_cases(tmp_path):
    root = junit(batch(absent("ada"), absent("bob", "unreadable")), tmp_path)
    assert cases(root) == {("ada", "submission"): ["error"], ("bob", "submission"): ["error"]}
    assert junit(batch(), tmp_path).get("tests") == "0"


def test_hostile_text_is_valid_xml(tmp_path):
    root = junit(hostile(), tmp_path)
    text = (tmp_path / "junit.xml").read_text("utf-8")
    assert not set(ACTING) & set(text)
    assert root.findall(".//script") == []
    assert root[0].get("name").startswith("<script>alert(1)</script>")


def test_long_texts_are_cut_in_xml(tmp_path):
    junit(
        batch(submission("ada", missed("window"), mark("x", "not yet", reason="W" * 10**6))),
        tmp_path,
    )
    assert (tmp_path / "junit.xml").stat().st_size < 5_000
