"""A release: what goes out, what is refused, and that it appears whole or not at all."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
from builders import cell_of, master, notebook, put

from aiinfra_lab.course import building, releases
from aiinfra_lab.course.commits import Commit
from aiinfra_lab.course.judgement import exercise_output
from aiinfra_lab.course.layout import RELEASE_FILE, Course
from aiinfra_lab.course.notebooks import dumps, normalised, read_notebook
from aiinfra_lab.course.records import Record
from aiinfra_lab.course.releases import RELEASED, Manifest, Release, release
from aiinfra_lab.course.runner import CellRun
from aiinfra_lab.errors import InputError, MissingNeed
from aiinfra_lab.files import digest_bytes

SECONDS = 1_700_000_000
LAB, MASTER = "labs/07_made_up.ipynb", "solutions/07_made_up.ipynb"
EXPECTED = "labs/expected/07_made_up.json"


class Kernel:
    """An executor that runs nothing and gives the same results every time."""

    def run(self, notebooks):
        checks = {f"{name}-check": [self._output(name)] for name in ("double", "half")}
        return {
            key: {c["id"]: CellRun(c["id"], checks.get(c["id"], [])) for c in content["cells"]}
            for key, content in notebooks.items()
        }

    def _output(self, name):
        return exercise_output(name, [Record("visible", 6).to_json()], "")


@pytest.fixture
def repository(course: Course, monkeypatch: pytest.MonkeyPatch):
    """A small course, and the commit that git would describe, of which a test may change parts."""
    put(course.chapters, "00_start_here.ipynb", notebook(kind="chapter", id="00"))
    content = normalised(master())
    course.masters.mkdir()
    (course.root / MASTER).write_text(dumps(content))
    others = ("README.md", "aiinfra_lab/__init__.py", "scripts/run.sh", "tests/unit/test_x.py")
    for name in (*others, "tests/benchmarks/x.py", "work/mine.ipynb", "secret/plan.md"):
        path = course.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
    building.write_stale(course, {"labs": building.labs, "expected": _expected})
    names = [*others, "tests/benchmarks/x.py", "secret/plan.md", LAB, EXPECTED, MASTER]
    tracked = dict.fromkeys([*names, "notebooks/00_start_here.ipynb"], "100644")
    about = {"name": "c0ffee", "seconds": SECONDS, "tracked": tracked | {others[2]: "100755"}}
    about |= {"changed": (), "untracked": ()}
    monkeypatch.setattr(Commit, "read", lambda root: Commit(**about))
    return about


def _expected(course):
    return building.expectations(course, Kernel())


@pytest.fixture
def made(course, repository, tmp_path):
    """Make a release into a folder beside the course."""

    def make(name: str = "out", **options) -> Release:
        return release(course, tmp_path / name, executor=Kernel(), **options)

    return make


def _tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- what goes out -------------------------------------------------------------------------------


def test_a_release_holds_what_is_listed_and_tracked_and_nothing_else(made):
    found = made()
    assert _tree(found.folder).keys() == {
        "README.md",
        RELEASE_FILE,
        "aiinfra_lab/__init__.py",
        EXPECTED,
        LAB,
        "notebooks/00_start_here.ipynb",
        "scripts/run.sh",
        "tests/benchmarks/x.py",
    }
    assert found.left_out == {"tests": 1, "secret": 1, "solutions": 1}


def test_a_copy_has_the_bytes_and_gits_permissions(course, made):
    (course.root / "README.md").chmod(0o777)
    (course.root / "scripts/run.sh").chmod(0o600)
    mask = os.umask(0o077)
    try:
        tree = _tree(made().folder)
    finally:
        os.umask(mask)
    assert tree["README.md"] == (b"README.md\n", 0o644)
    assert tree[RELEASE_FILE][1] == 0o644
    assert tree["scripts/run.sh"] == (b"scripts/run.sh\n", 0o755)
    assert tree[LAB][0] == (course.root / LAB).read_bytes()


def test_the_manifest_says_where_the_release_comes_from_and_what_it_holds(course, made):
    folder = made().folder
    manifest = Manifest.model_validate_json((folder / RELEASE_FILE).read_bytes())
    tree = _tree(folder)
    assert (manifest.commit, manifest.date) == ("c0ffee", "2023-11-14T22:13:20+00:00")
    assert manifest.changed == ()
    assert manifest.files == {
        name: digest_bytes(content) for name, (content, _) in tree.items() if name != RELEASE_FILE
    }
    lab = read_notebook(course.root / LAB)
    assert manifest.labs == {"07": lab["metadata"]["aiinfra_lab"]["release"]}
    assert manifest.labs["07"].startswith("sha256:")


def test_two_releases_of_one_commit_are_the_same_bytes_and_so_are_their_archives(made, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = made("a/out", archive=True), made("b/out", archive=True)
    assert _tree(first.folder) == _tree(second.folder)
    assert first.archive.read_bytes() == second.archive.read_bytes()


def test_an_archive_holds_the_folder_and_nothing_of_this_machine(made, tmp_path):
    found = made(archive=True)
    assert found.archive == tmp_path / "out.tar.gz"
    with tarfile.open(found.archive) as tar:
        entries = tar.getmembers()
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert _tree(tmp_path / "unpacked" / "out") == _tree(found.folder)
    # The header of gzip has a time of its own (RFC 1952).
    assert int.from_bytes(found.archive.read_bytes()[4:8], "little") == SECONDS
    assert [e.name for e in entries] == sorted(e.name for e in entries)
    assert {(e.uid, e.gid, e.uname, e.gname, e.mtime) for e in entries} == {(0, 0, "", "", SECONDS)}


def test_every_listed_path_that_the_course_has_is_there_and_none_is_a_master(root):
    assert not any("solutions".startswith(path) for path in RELEASED)
    later = {"cluster"}  # chapter 07 brings it
    assert [path for path in RELEASED if not (root / path).exists()] == sorted(
        later - {p.name for p in root.iterdir()}
    )


def test_a_name_that_only_begins_like_a_listed_one_stays_at_home(repository, course, made):
    for name in ("labs.old/x", "tests/benchmarks.py", "README.md.orig"):
        (course.root / name).parent.mkdir(exist_ok=True)
        (course.root / name).write_text("x")
        repository["tracked"][name] = "100644"
    assert not {"labs.old/x", "tests/benchmarks.py", "README.md.orig"} & _tree(made().folder).keys()


def test_a_page_for_instructors_stays_at_home(repository, course, made):
    page, other = "notebooks/instructor_grading.ipynb", "notebooks/glossary.ipynb"
    for name in (page, other):
        put(course.chapters, Path(name).name, notebook(kind="page", id=Path(name).stem))
        repository["tracked"][name] = "100644"
    found = made()
    assert _tree(found.folder).keys() & {page, other} == {other}
    assert found.left_out["notebooks"] == 1


def test_an_untracked_file_is_left_out_and_named_if_it_would_have_gone_out(repository, made):
    repository["untracked"] = ("notebooks/draft.ipynb", "secret/more.md")
    assert made().untracked == ("notebooks/draft.ipynb",)


# --- what is refused -----------------------------------------------------------------------------


def _refused(tmp_path: Path, made, words: str, *arguments: str, **options) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=words):
        made(*arguments, **options)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("course", "lies inside the course"),
        ("course/out", "lies inside the course"),
        ("full/../course/deep/out", "lies inside the course"),
        ("nosuch/out", "there is no folder"),
        ("file", "is a file"),
        ("full", "is not empty"),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_a_place_that_is_not_free_is_refused(made, tmp_path, name, words, force):
    (tmp_path / "file").write_text("x")
    put(tmp_path / "full", "mine.json", {})
    if force and name == "full":
        words = "was not made by a release"
    _refused(tmp_path, made, words, name, force=force)


def test_a_link_into_the_course_is_inside_the_course(course, made, tmp_path):
    (tmp_path / "link").symlink_to(course.root)
    _refused(tmp_path, made, "lies inside the course", "link/out")


def test_an_empty_folder_is_as_good_as_none(made, tmp_path):
    (tmp_path / "out").mkdir()
    assert (made().folder / "README.md").is_file()


def test_changes_that_are_not_committed_are_refused_or_recorded(repository, made, tmp_path):
    repository["changed"] = ("README.md", "secret/plan.md", LAB)
    _refused(tmp_path, made, r"README\.md and 1 more differ from the commit")
    assert made(allow_dirty=True).manifest.changed == ("README.md", LAB)


def test_a_change_of_what_stays_at_home_does_not_matter(repository, made):
    repository["changed"] = ("secret/plan.md",)
    assert made().manifest.changed == ()


def test_a_deleted_file_is_not_in_a_dirty_release(repository, course, made, tmp_path):
    repository["changed"] = ("README.md",)
    (course.root / "README.md").unlink()
    _refused(tmp_path, made, r"README\.md differs from the commit")
    assert "README.md" not in made(allow_dirty=True).manifest.files


@pytest.mark.parametrize("mode", ["120000", "160000"])
def test_a_link_is_refused(repository, made, tmp_path, mode):
    repository["tracked"]["README.md"] = mode
    _refused(tmp_path, made, "holds plain files")


def test_a_lab_that_is_not_what_its_master_gives_is_refused(course, made, tmp_path):
    lab = course.root / LAB
    lab.write_text(lab.read_text().replace("Made up", "Made down"))
    _refused(tmp_path, made, f"{LAB} is not what its master gives. Run: aiinfra build")


def test_public_results_that_are_not_the_masters_are_refused(course, made, tmp_path):
    expected = course.root / EXPECTED
    expected.write_text(expected.read_text().replace("visible", "hidden"))
    _refused(tmp_path, made, f"{EXPECTED} is not what its master gives")


def test_a_lab_without_a_tracked_master_is_refused(repository, course, made, tmp_path):
    del repository["tracked"][MASTER]
    _refused(tmp_path, made, f"{LAB} has no master in solutions/")
    repository["tracked"][MASTER] = "100644"
    (course.root / MASTER).unlink()
    _refused(tmp_path, made, "has no master")


def test_whatever_else_lies_among_the_labs_is_refused(repository, course, made, tmp_path):
    (course.root / "labs/expected/07_hidden.json").write_text("{}")
    repository["tracked"]["labs/expected/07_hidden.json"] = "100644"
    _refused(tmp_path, made, r"07_hidden\.json has no master")


def test_a_master_whose_lab_is_not_tracked_is_refused(repository, made, tmp_path):
    del repository["tracked"][EXPECTED]
    _refused(tmp_path, made, f"{EXPECTED} is not tracked by git")


def test_a_draft_of_another_master_does_not_matter(course, made):
    draft = master(id="08")
    cell_of(draft, "title")["source"] = "# A draft"
    put(course.masters, "08_draft.ipynb", draft)
    assert made().manifest.labs.keys() == {"07"}


def test_a_release_of_a_release_is_refused(made, tmp_path):
    folder = made().folder
    (folder / "solutions").mkdir()
    with pytest.raises(InputError, match="is a release: it has no masters"):
        release(Course(folder), tmp_path / "again")


def test_a_course_that_git_does_not_track_is_refused(repository, made, tmp_path):
    repository["tracked"].clear()
    _refused(tmp_path, made, "git does not track the course")


def test_without_git_the_sentence_says_so(course, tmp_path, monkeypatch):
    put(course.masters, "07_made_up.ipynb", master())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingNeed, match="there is no git"):
        release(course, tmp_path / "out")


# --- again ---------------------------------------------------------------------------------------


def test_force_replaces_an_earlier_release(course, made):
    folder = made().folder
    (folder / "README.md").write_text("edited")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_text("x")
    (course.root / "README.md").write_text("new\n")
    made(force=True)
    assert (folder / "README.md").read_text() == "new\n"
    assert not (folder / "__pycache__").exists()


@pytest.mark.parametrize("name", ["work/07_made_up.ipynb", ".git/HEAD", "notebooks/mine.ipynb"])
def test_force_spares_what_somebody_put_into_a_release(made, tmp_path, name):
    mine = made().folder / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    _refused(tmp_path, made, f"holds {name}, which the earlier release", force=True)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema": 2}'])
def test_force_spares_a_folder_whose_marker_is_none(made, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / RELEASE_FILE).write_text(content)
    _refused(tmp_path, made, "was not made by a release", force=True)


def test_an_archive_that_exists_is_replaced_only_by_force(made, tmp_path):
    archive = tmp_path / "out.tar.gz"
    archive.write_text("mine")
    _refused(tmp_path, made, r"out\.tar\.gz exists", archive=True)
    made(archive=True, force=True)
    assert tarfile.is_tarfile(archive)


# --- whole or not at all -------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["_copy", "write_json", "_pack", "_put"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_release_leaves_nothing(made, tmp_path, monkeypatch, step, error):
    real = getattr(releases, step)

    def broken(*arguments):
        if step != "_put":
            real(*arguments)
        raise error

    monkeypatch.setattr(releases, step, broken)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((KeyboardInterrupt, OSError)):
        made(archive=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_interrupted_replacement_leaves_the_earlier_release(made, tmp_path, monkeypatch):
    folder = made().folder
    before = _tree(tmp_path)
    real, renamed = Path.rename, []

    def rename(self, target):
        renamed.append(self.name)
        if self.name == "new":
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        made(force=True)
    assert renamed == [folder.name, "new", "old"]
    assert _tree(tmp_path) == before


def test_the_folder_can_be_read_by_whom_the_umask_lets(made):
    mask = os.umask(0o022)
    try:
        folder = made().folder
    finally:
        os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in (folder, folder / "labs")} == {0o755}
