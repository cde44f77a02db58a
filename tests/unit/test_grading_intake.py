"""Whose file is whose: no work is lost, no two learners become one by accident."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiinfra_lab.errors import InputError
from aiinfra_lab.grading.intake import hand_ins, id_pattern
from aiinfra_lab.grading.names import folded, learner_id, plain_text
from aiinfra_lab.grading.roster import Learner, Roster, read_roster
from aiinfra_lab.grading.sources import Item


def items(*paths):
    return [path if isinstance(path, Item) else Item(path, 10, 0.0) for path in paths]


def ids(*paths, **options):
    return [one.id for one in hand_ins(items(*paths), **options)]


@pytest.mark.parametrize(
    ("path", "expected", "name"),
    [
        ("ada.ipynb", "ada", ""),
        ("ada/03_circuit_breaker.ipynb", "ada", ""),
        ("ada/deep/er/x.ipynb", "ada", ""),
        ("Ada Lovelace_1234_assignsubmission_file_/x.ipynb", "1234", "Ada Lovelace"),
        ("Ada Lovelace_1234_assignsubmission_file/x.ipynb", "1234", "Ada Lovelace"),
        ("Ada_Love_1234_assignsubmission_file_x_2_3_y.ipynb", "1234", "Ada_Love"),
        ("lovelaceada_123_456_x.ipynb", "123", "lovelaceada"),
        ("lovelaceada_LATE_123_456_03_circuit_breaker-1.ipynb", "123", "lovelaceada"),
        ("山田 太郎.ipynb", "山田 太郎", ""),
        ("03_circuit_breaker.ipynb", "03_circuit_breaker", ""),
    ],
)
def test_the_learner_is_told_by_the_path(path, expected, name):
    (one,) = hand_ins(items(path))
    assert (one.id, one.name, one.problem) == (expected, name, "")
    assert one.counts.path == path


def test_of_several_files_the_newest_counts_and_all_are_named():
    paths = [Item("ada/b.ipynb", 1, 5.0), Item("ada/a.ipynb", 1, 9.0), Item("ada/c.ipynb", 1, 1.0)]
    (one,) = hand_ins(paths)
    assert [item.path for item in one.files] == ["ada/c.ipynb", "ada/b.ipynb", "ada/a.ipynb"]
    assert one.counts.path == "ada/a.ipynb"
    assert one.notes == ("ada/a.ipynb is the newest and counts, not ada/c.ipynb, ada/b.ipynb",)


def test_of_the_same_moment_the_name_decides_and_numbers_are_numbers():
    (one,) = hand_ins(items("x_1_10_a-10.ipynb", "x_1_11_a-9.ipynb", "x_1_12_a-2.ipynb"))
    assert one.counts.path == "x_1_12_a-2.ipynb"
    (one,) = hand_ins(items("ada/a-10.ipynb", "ada/a-9.ipynb"))
    assert one.counts.path == "ada/a-10.ipynb"


def test_a_file_that_may_not_be_read_does_not_hide_one_that_may():
    (one,) = hand_ins(
        [Item("ada/new.ipynb", 1, 9.0, "it is a link"), Item("ada/old.ipynb", 1, 1.0)]
    )
    assert one.counts.path == "ada/old.ipynb"


def test_a_learner_whose_only_file_may_not_be_read_has_the_reason():
    (one,) = hand_ins([Item("../ada.ipynb", 1, 9.0, "its path leads out")])
    assert (one.id, one.problem, one.counts) == ("ada", "its path leads out", None)


def test_a_learner_who_handed_in_something_else_has_the_reason():
    ada, bob = hand_ins(items("ada/a.pdf", "ada/b.zip", "bob.ipynb", "README.md", "roster.csv"))
    assert (ada.id, ada.problem) == ("ada", "no notebook, only a.pdf, b.zip")
    assert bob.problem == ""


@pytest.mark.parametrize("names", [("Ada", "ada"), ("ADA", "Ada"), ("ADA", "ＡＤＡ")])
def test_ids_that_differ_in_capitals_only_stay_two_learners_with_two_names(names):
    paths = {f"{name}.ipynb" for name in names}
    first, second = hand_ins(items(*paths))
    assert {first.id, second.id} == {names[0], f"{names[1]}~2"}
    assert {one.counts.path for one in (first, second)} == paths
    assert any("capitals" in note for one in (first, second) for note in one.notes)


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=6, unique=True))
@example(["..", ".", "...", "a/b", "a\\b", "a:b", "CON", "con.x", "\x00", "\u202e", "é", "e\u0301"])
def test_ids_are_unique_file_names_whatever_the_names_were(names):
    found = hand_ins([Item(f"{name}.ipynb", 1, 0.0) for name in names])
    keys = [folded(one.id) for one in found]
    assert len(set(keys)) == len(keys)
    assert sum(len(one.files) for one in found) == len(names)
    for one in found:
        assert one.id
        assert not one.id.startswith(".")
        assert not set(one.id) & set('/\\:*?"<>|\n')
        assert plain_text(one.id) == one.id
        assert len(one.id.encode()) <= 200


@pytest.mark.parametrize("text", ["..", "", " ", "///"])
def test_a_name_of_nothing_is_no_id(text):
    assert learner_id(text).strip("_") == ""


# --- --id-from -----------------------------------------------------------------------------------


def test_a_pattern_finds_the_id_by_its_group_or_its_name():
    paths = ("lab3-s123-Ada.ipynb", "sub/lab3-s124-Bob.ipynb")
    assert ids(*paths, pattern=id_pattern(r"(s\d+)")) == ["s123", "s124"]
    (one,) = hand_ins(items(paths[0]), pattern=id_pattern(r"-(?P<id>s\d+)-(?P<name>\w+)"))
    assert (one.id, one.name) == ("s123", "Ada")


def test_a_file_that_the_pattern_does_not_match_is_kept_with_a_note():
    one, two = hand_ins(items("s1.ipynb", "zoe.ipynb"), pattern=id_pattern(r"(s\d+)"))
    assert (one.id, two.id) == ("s1", "zoe")
    assert two.notes == ("--id-from does not match its name",)


@pytest.mark.parametrize(("text", "words"), [("(", "no regular expression"), ("abc", "no group")])
def test_a_pattern_that_cannot_be_used_is_refused(text, words):
    with pytest.raises(InputError, match=words):
        id_pattern(text)


def test_a_pattern_that_matches_nothing_is_refused_with_an_example():
    with pytest.raises(InputError, match=r"matches no file; found 'ada.ipynb'"):
        ids("ada.ipynb", pattern=id_pattern(r"(\d+)"))


@pytest.mark.parametrize("paths", [(), ("README.md",), ("ada/x.pdf",)])
def test_no_submissions_at_all_is_refused(paths):
    with pytest.raises(InputError, match="there are no submissions"):
        hand_ins(items(*paths))


# --- the roster ----------------------------------------------------------------------------------


def roster_of(tmp_path, data):
    path = tmp_path / "roster.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_roster(path)


@pytest.mark.parametrize(
    "text",
    [
        "id,name,email\nada,Ada Lovelace,a@x\nbob,Bob,\n",
        "\ufeffid;name;email\r\nada;Ada Lovelace;a@x\r\nbob;Bob;\r\n",
        "Name\tID\tEmail\nAda Lovelace\tada\ta@x\nBob\tbob\n",
        ' ID , Name , email , group\nada,"Ada Lovelace",a@x,1\n\nbob,Bob,,2\n',
    ],
)
def test_a_roster_is_read_as_excel_and_others_write_it(tmp_path, text):
    roster = roster_of(tmp_path, text)
    assert roster.learners == (Learner("ada", "Ada Lovelace", "a@x"), Learner("bob", "Bob", ""))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("", "found nothing"),
        (
            "name,email\nAda,x\n",
            "lacks a column; found name, email; needed the columns id and name",
        ),
        ("id,name\nada,A\nADA,B\n", "lists 'ada' twice"),
        ("id,name\n", "lists no learners"),
        ("id,name\nada,A\n ,B\n", "line 3 has no id"),
        ("id,name\n名前,x\n".encode("cp932"), "not written in UTF-8"),
    ],
)
def test_a_roster_that_cannot_be_used_is_refused(tmp_path, data, words):
    with pytest.raises(InputError, match=words):
        roster_of(tmp_path, data)


def test_a_roster_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_roster(tmp_path / "none.csv")


CLASS = Roster([Learner("ada", "Ada Lovelace"), Learner("b1", "Bob"), Learner("b2", "Bob")])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("ada.ipynb", "ada"),
        ("ADA.ipynb", "ada"),
        ("Ada Lovelace_77_assignsubmission_file_/x.ipynb", "ada"),
        ("Ada  lovelace.ipynb", "ada"),
        ("b2.ipynb", "b2"),
    ],
)
def test_a_learner_is_found_on_the_roster_by_id_or_by_name(path, expected):
    (one,) = hand_ins(items(path), roster=CLASS)
    assert (one.id, one.notes) == (expected, ())
    assert one.name


def test_files_under_two_spellings_of_one_learner_are_that_learners():
    (one,) = hand_ins(items("ada.ipynb", "Ada Lovelace.ipynb"), roster=CLASS)
    assert one.id == "ada"
    assert len(one.files) == 2


def test_a_name_that_two_learners_share_tells_nobody():
    (one,) = hand_ins(items("Bob.ipynb"), roster=CLASS)
    assert (one.id, one.notes) == ("Bob", ("nobody on the roster has this id",))
