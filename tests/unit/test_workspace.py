"""The learner's folder: whatever is done in it, no work is lost."""

from __future__ import annotations

import pytest
from builders import cell_of, code, master, put

from aiinfra_lab.clock import ManualClock
from aiinfra_lab.course.masters import released
from aiinfra_lab.course.notebooks import read_notebook
from aiinfra_lab.course.workspace import reset, start, submit, worked
from aiinfra_lab.errors import InputError

NAME = "07_made_up.ipynb"


@pytest.fixture
def lab(course):
    """The released lab 07, as bytes."""
    return put(course.labs, NAME, released(master())).read_bytes()


@pytest.fixture
def work(course, lab):
    """The learner's started and edited copy of lab 07."""
    path, _ = start(course, "07")
    content = read_notebook(path)
    cell_of(content, "double")["source"] = "def double(x): return x + x"
    cell = cell_of(content, "double-check")
    cell["outputs"], cell["execution_count"] = [{"output_type": "error", "ename": "E"}], 3
    put(course.work, NAME, content)
    return path


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_start_copies_the_lab_byte_for_byte(course, lab):
    path, new = start(course, "7")
    assert (path, new) == (course.work / NAME, True)
    assert path.read_bytes() == lab
    assert files(course.work) == [NAME]


def test_a_started_lab_is_left_alone(course, work):
    before = work.read_bytes()
    assert start(course, "07") == (work, False)
    assert work.read_bytes() == before


@pytest.mark.parametrize("use", [start, reset, submit, worked])
def test_an_unknown_lab_is_refused_before_anything_is_written(course, lab, use):
    with pytest.raises(InputError, match="no lab '08'"):
        use(course, "08")
    assert not course.work.exists()


@pytest.mark.parametrize("use", [reset, submit, worked])
def test_a_lab_that_was_not_started_is_told_how_to_start(course, lab, use):
    with pytest.raises(InputError, match=r"lab 07 was not started\. Run: aiinfra start 07"):
        use(course, "7")
    assert not course.work.exists()


def test_worked_is_the_learners_copy(course, work):
    assert worked(course, "7") == work


def test_reset_restores_the_lab_and_puts_the_learners_version_aside(course, work, lab):
    mine = work.read_bytes()
    path, backup = reset(course, "07", ManualClock())
    assert path == work
    assert work.read_bytes() == lab
    assert backup == course.work / "backup" / "07_made_up.20260101-000000.ipynb"
    assert backup.read_bytes() == mine


def test_no_reset_overwrites_a_backup_not_even_within_one_second(course, work):
    clock = ManualClock()
    versions = []
    for turn in range(4):
        work.write_text(f"version {turn}")
        versions.append(reset(course, "07", clock)[1])
    clock.advance(61)
    versions.append(reset(course, "07", clock)[1])
    assert [path.name for path in versions] == [
        "07_made_up.20260101-000000.ipynb",
        "07_made_up.20260101-000000-2.ipynb",
        "07_made_up.20260101-000000-3.ipynb",
        "07_made_up.20260101-000000-4.ipynb",
        "07_made_up.20260101-000101.ipynb",
    ]
    assert [path.read_text() for path in versions[:4]] == [f"version {n}" for n in range(4)]


def test_reset_takes_a_notebook_that_cannot_be_read(course, work, lab):
    work.write_bytes(b"{ broken")
    _, backup = reset(course, "07", ManualClock())
    assert backup.read_bytes() == b"{ broken"
    assert work.read_bytes() == lab


def test_a_reset_that_cannot_put_aside_restores_nothing(course, work):
    mine = work.read_bytes()
    (course.work / "backup").write_text("no folder")
    with pytest.raises(OSError, match="backup"):
        reset(course, "07", ManualClock())
    assert work.read_bytes() == mine


def test_reset_uses_the_time_of_day_where_no_clock_is_given(course, work):
    _, backup = reset(course, "07")
    assert backup.read_bytes() != work.read_bytes()


def test_submit_writes_the_learners_cells_without_outputs_and_the_releases_digest(course, work):
    mine = work.read_bytes()
    target = submit(course, "07")
    assert target == course.work / "submitted" / NAME
    assert work.read_bytes() == mine
    handed_in = read_notebook(target)
    assert cell_of(handed_in, "double")["source"] == "def double(x): return x + x"
    for cell in handed_in["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    digest = released(master())["metadata"]["aiinfra_lab"]["release"]
    assert handed_in["metadata"]["aiinfra_lab"]["release"] == digest


def test_the_digest_is_that_of_the_release_that_was_started(course, work):
    newer = released(master(title="Newer"))
    put(course.labs, NAME, newer)
    handed_in = read_notebook(submit(course, "07"))
    assert handed_in["metadata"]["aiinfra_lab"]["title"] == "Made up"


def test_metadata_that_were_lost_come_from_the_lab(course, work):
    content = read_notebook(work)
    content["metadata"] = {}
    put(course.work, NAME, content)
    lab = read_notebook(course.labs / NAME)
    assert (
        read_notebook(submit(course, "07"))["metadata"]["aiinfra_lab"]
        == (lab["metadata"]["aiinfra_lab"])
    )


def test_submit_writes_to_a_file_or_into_a_folder(course, work, tmp_path):
    assert submit(course, "07", tmp_path) == tmp_path / NAME
    assert submit(course, "07", tmp_path / "mine.ipynb") == tmp_path / "mine.ipynb"
    assert (tmp_path / NAME).read_bytes() == (tmp_path / "mine.ipynb").read_bytes()


def test_submit_does_not_overwrite_the_notebook_that_is_worked_in(course, work, monkeypatch):
    mine = work.read_bytes()
    monkeypatch.chdir(course.work)
    for target in (work, course.work, type(work)(NAME), course.work / "x" / ".." / NAME):
        with pytest.raises(InputError, match="is the notebook you work in"):
            submit(course, "07", target)
    assert work.read_bytes() == mine


def test_cells_that_a_learner_copied_with_their_ids_can_be_handed_in(course, work):
    content = read_notebook(work)
    content["cells"].append(code("double", "twice"))
    put(course.work, NAME, content)
    handed_in = read_notebook(submit(course, "07"), strict=False)
    assert handed_in["cells"][-1]["source"] == "twice"


def test_a_notebook_that_cannot_be_read_is_not_handed_in(course, work):
    work.write_text("{ broken")
    with pytest.raises(InputError, match="not JSON"):
        submit(course, "07")
    assert files(course.work) == [NAME]
