"""The ledger and the folder: nothing graded twice, nothing overwritten, one grader at a time."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest

from aiinfra_lab.errors import InputError
from aiinfra_lab.grading import folder
from aiinfra_lab.grading.folder import disk, refuse_if_taken, sole_grader
from aiinfra_lab.grading.ledger import Batch, Ledger
from aiinfra_lab.grading.results import SubmissionResult

BATCH = Batch(lab="03", master="sha256:m", seed="0a")


def row(learner, points=0.0):
    exercise = {
        "exercise": "e",
        "points": 5,
        "earned": points,
        "status": "passed" if points else "not yet",
    }
    return SubmissionResult.model_validate(
        {"id": learner, "state": "graded", "points": points, "of": 5, "exercises": [exercise]}
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.jsonl"


def written(path, *rows):
    ledger = Ledger.read(path) or Ledger(path, BATCH, {})
    ledger.open()
    for answers, one in rows:
        ledger.add([(answers, one)])
    ledger.close()


def test_what_was_added_is_found_again_for_the_same_learner_and_answers(path):
    written(path, ("a1", row("ada", 5)), ("b1", row("山田 太郎")))
    found = Ledger.read(path)
    assert (found.batch, found.rows) == (BATCH, 2)
    assert found.find("ada", "a1") == row("ada", 5)
    assert found.find("山田 太郎", "b1") == row("山田 太郎")
    assert found.find("ada", "a2") is None
    assert found.find("bob", "a1") is None


def test_there_is_no_ledger_where_there_is_no_file(path):
    assert Ledger.read(path) is None


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_line_that_was_cut_off_is_no_line_and_is_written_again(path, cut):
    written(path, ("a1", row("ada")), ("b1", row("bob")))
    path.write_bytes(path.read_bytes()[:-cut])
    assert Ledger.read(path).find("bob", "b1") is None
    written(path, ("b1", row("bob", 5)))
    assert [json.loads(line) for line in path.read_text().splitlines()]
    found = Ledger.read(path)
    assert found.find("ada", "a1") == row("ada")
    assert found.find("bob", "b1") == row("bob", 5)


def test_a_long_line_that_was_cut_off_does_not_stick_out_behind_a_short_one(path):
    written(path, ("a1", row("ada")), ("b1", row("b" * 3_000)))
    path.write_bytes(path.read_bytes()[:-1])
    written(path, ("b1", row("bob")))
    assert Ledger.read(path).find("bob", "b1") == row("bob")
    assert path.read_bytes().endswith(b"}\n")


def test_a_file_of_which_even_the_first_line_was_cut_off_is_a_new_one(path):
    path.write_text('{"ledger": 1, "la')
    assert Ledger.read(path) is None
    written(path, ("a1", row("ada")))
    assert Ledger.read(path).rows == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: ["{}\n", *lines],
        lambda lines: [lines[0], "nonsense\n", lines[1]],
        lambda lines: [lines[0], lines[1].replace('"ada"', "7")],
    ],
)
def test_a_ledger_that_is_damaged_is_refused_and_not_touched(path, damage):
    written(path, ("a1", row("ada")))
    path.write_text("".join(damage(path.read_text().splitlines(keepends=True))))
    before = path.read_bytes()
    with pytest.raises(InputError, match="damaged"):
        Ledger.read(path)
    assert path.read_bytes() == before


def test_a_row_is_on_the_disk_when_add_returns(path, monkeypatch):
    calls = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(path.read_text()), real(fd)))
    written(path, ("a1", row("ada")))
    assert '"ada"' in calls[-1]


def test_only_its_owner_can_read_the_seed(path):
    written(path)
    assert path.stat().st_mode & 0o077 == 0


# --- the folder ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["results.json", "results.csv", "report.html", "feedback"])
def test_a_folder_with_results_is_refused(tmp_path, name):
    (tmp_path / name).write_text("old")
    with pytest.raises(InputError, match=f"results of a batch already .{name}."):
        refuse_if_taken(tmp_path)


def test_a_new_folder_and_one_with_other_things_are_taken(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    refuse_if_taken(tmp_path)
    refuse_if_taken(tmp_path / "new")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "x").write_text("old")
    with pytest.raises(InputError, match="is no folder"):
        refuse_if_taken(tmp_path / "x")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "x").write_text("old")
    with pytest.raises(InputError, match="cannot be written"), sole_grader(tmp_path / "x" / "out"):
        pass


def test_a_second_grader_in_the_folder_is_refused_while_the_first_works(tmp_path):
    with sole_grader(tmp_path):
        words = f"another grader works .* process {os.getpid()}"
        with pytest.raises(InputError, match=words), sole_grader(tmp_path):
            pass
        assert (tmp_path / folder.LOCK).exists()
    assert not (tmp_path / folder.LOCK).exists()
    with sole_grader(tmp_path):
        pass


def _lock(tmp_path, **changes):
    with sole_grader(tmp_path):
        mine = json.loads((tmp_path / folder.LOCK).read_text())
    (tmp_path / folder.LOCK).write_text(json.dumps(mine | changes))


def test_the_lock_of_a_dead_grader_is_taken_over(tmp_path):
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    _lock(tmp_path, pid=int(dead.stdout))
    with sole_grader(tmp_path):
        pass


def test_the_lock_of_a_process_that_has_the_pid_of_a_dead_grader_is_taken_over(tmp_path):
    _lock(tmp_path, start_time=1_000.0)
    with sole_grader(tmp_path):
        pass


def test_a_lock_of_another_machine_is_believed(tmp_path):
    _lock(tmp_path, host="elsewhere", start_time=1_000.0)
    with pytest.raises(InputError, match="on elsewhere"), sole_grader(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}'])
def test_a_lock_that_was_cut_off_is_nobodys(tmp_path, text):
    (tmp_path / folder.LOCK).write_text(text)
    with sole_grader(tmp_path):
        pass


def test_a_full_disk_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match=r"the disk of .* is full.*--resume"), disk(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
