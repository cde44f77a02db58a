"""A real release of this course: what a learner can do in it, and that no answer stands in it."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiinfra_lab.course.commits import Commit
from aiinfra_lab.course.judgement import is_check
from aiinfra_lab.course.layout import RELEASE_FILE, Course, notebook_names
from aiinfra_lab.course.masters import grade_id, is_answer
from aiinfra_lab.course.metadata import read_metadata
from aiinfra_lab.course.notebooks import code_cells, read_notebook, write_notebook
from aiinfra_lab.course.records import records_in
from aiinfra_lab.course.releases import RELEASED
from aiinfra_lab.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
LAB = "00_start_here.ipynb"
# What is shorter stands in many files by chance.
LONG = 25
pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="a release is made from a commit")


def _git(root: Path, *arguments: str) -> str:
    """Run git as on a machine without anybody's settings."""
    person = {
        f"GIT_{who}_{what}": "x@x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(
        ["git", *arguments],
        cwd=root,
        env={**os.environ, **alone, **person},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def _aiinfra(course: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the course's own package, as its environment would, in its folder."""
    environment = {k: v for k, v in os.environ.items() if k != "AIINFRA_COURSE"}
    return subprocess.run(
        [sys.executable, "-m", "aiinfra_lab.cli.main", *arguments],
        cwd=course,
        env={**environment, "PYTHONPATH": str(course), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout, committed."""
    root = tmp_path_factory.mktemp("release") / "course"
    root.mkdir()
    left = shutil.ignore_patterns("__pycache__", ".*_cache", ".ipynb_checkpoints", "*.pyc")
    for name in {path.partition("/")[0] for path in RELEASED} | {"solutions", "tests"}:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=left)
        elif (ROOT / name).exists():
            shutil.copy2(ROOT / name, root / name)
    _git(root, "init", "--quiet")
    _git(root, "add", ".")
    _git(root, "commit", "--quiet", "-m", "x")
    # What is ignored or forgotten must not go out.
    (root / "work").mkdir()
    (root / "work" / LAB).write_text("mine")
    (root / "notebooks" / "draft.txt").write_text("a draft")
    return root


@pytest.fixture(scope="module")
def made(clone: Path) -> Iterator[tuple[Path, dict]]:
    """The release and what the command said of it."""
    folder = clone.parent / "learners"
    done = _aiinfra(clone, "release", str(folder), "--json", "--archive")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "note: notebooks/draft.txt is not tracked by git and was left out\n"
    return folder, json.loads(done.stdout)


@pytest.fixture
def copy(made, tmp_path: Path) -> Path:
    """A learner's own copy of the release."""
    return Path(shutil.copytree(made[0], tmp_path / "mine"))


# --- what is in it -------------------------------------------------------------------------------


def test_the_command_says_what_it_made(clone, made) -> None:
    folder, said = made
    manifest = json.loads((folder / RELEASE_FILE).read_text())
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    assert files == {*manifest["files"], RELEASE_FILE}
    assert said["commit"] == manifest["commit"] == _git(clone, "rev-parse", "HEAD").strip()
    assert said["files"] == len(manifest["files"])
    assert said["labs"].keys() == {name.partition("_")[0] for name in notebook_names(ROOT / "labs")}
    assert said["left_out"].keys() == {"notebooks", "solutions", "tests"}
    assert said["untracked"] == ["notebooks/draft.txt"]
    assert Path(said["archive"]).is_file()


def test_no_master_test_draft_cache_or_work_is_in_it(made) -> None:
    folder, _ = made

    assert {path.name for path in folder.iterdir()} <= {p.partition("/")[0] for p in RELEASED} | {
        RELEASE_FILE
    }
    assert [path.name for path in (folder / "tests").iterdir()] == ["benchmarks"]
    assert not list(folder.rglob("__pycache__"))
    assert not (folder / "notebooks" / "draft.txt").exists()


def test_no_notebook_in_it_needs_what_it_lacks(made) -> None:
    folder, _ = made
    released = notebook_names(folder / "notebooks")
    assert set(notebook_names(ROOT / "notebooks")) - set(released) == {"instructor_grading"}
    lacking = ("solutions", ".masters", '"tests"', "tests/files", '"grade"', "aiinfra grade")
    for name in released:
        for cell in code_cells(read_notebook(folder / "notebooks" / f"{name}.ipynb")):
            assert not any(word in cell["source"] for word in lacking), (name, cell["id"])


def test_a_second_release_of_the_commit_is_the_same_bytes(clone, made, tmp_path) -> None:
    again = tmp_path / made[0].name
    shutil.copytree(clone, tmp_path / "elsewhere")
    assert _aiinfra(tmp_path / "elsewhere", "release", str(again), "--archive").returncode == 0

    assert (again / RELEASE_FILE).read_bytes() == (made[0] / RELEASE_FILE).read_bytes()
    archives = [folder.with_name("learners.tar.gz").read_bytes() for folder in (made[0], again)]
    assert archives[0] == archives[1]


def _regions(source: str, kind: str) -> tuple[list[str], list[str]]:
    """The lines of a master's cell within the marks, and those without."""
    inside, outside, within = [], [], False
    for line in source.splitlines():
        if f"### BEGIN {kind}" in line or f"### END {kind}" in line:
            within = "BEGIN" in line
        else:
            (inside if within else outside).append(line)
    return inside, outside


def _names(lines: list[str]) -> set[str]:
    """The names of the results that a check emits."""
    calls = (
        n for n in ast.walk(ast.parse(textwrap.dedent("\n".join(lines)))) if isinstance(n, ast.Call)
    )
    return {
        str(call.args[0].value)
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "ex"
        and call.args
        and isinstance(call.args[0], ast.Constant)
    }


def _secrets(master: Path) -> tuple[set[str], set[str]]:
    """What must not go out: lines of the solutions; lines and names of the hidden checks."""
    solutions, hidden, public = set[str](), set[str](), set[str]()
    names = set[str]()
    for cell in read_notebook(master)["cells"]:
        answer, rest = _regions(cell["source"], "SOLUTION")
        checks, rest = _regions("\n".join(rest), "HIDDEN TESTS")
        solutions |= {line.strip() for line in answer}
        hidden |= {line.strip() for line in checks}
        names |= _names(checks)
        public |= {line.strip() for line in rest}
    # That a module is imported answers nothing.
    long = {line for line in (solutions | hidden) - public if len(line) > LONG}
    imports = {line for line in long if line.startswith(("import ", "from "))}
    return long & solutions - imports, long & hidden - imports | names


def _forms(text: str) -> set[str]:
    """The text as it stands in a file, and in a notebook or another JSON document."""
    return {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}


def _holders(secrets: set[str], texts: dict[str, str]) -> list[tuple[str, str]]:
    needles = [(secret, _forms(secret)) for secret in sorted(secrets)]
    return [
        (name, secret)
        for name, text in texts.items()
        for secret, forms in needles
        if any(form in text for form in forms)
    ]


@pytest.mark.parametrize("stem", notebook_names(ROOT / "solutions"))
def test_no_solution_and_no_hidden_check_stands_in_any_file(made, stem: str) -> None:
    folder, _ = made
    master = ROOT / "solutions" / f"{stem}.ipynb"
    texts = {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8", errors="replace")
        for path in folder.rglob("*")
        if path.is_file()
    }
    solutions, hidden = _secrets(master)
    # The search finds what is there: the master itself.
    itself = {"master": master.read_text(encoding="utf-8")}
    assert len(_holders(solutions, itself)) == len(solutions) > 5
    assert len(_holders(hidden, itself)) == len(hidden) > 3

    assert _holders(hidden, texts) == []
    # The package that a lab rebuilds is taught by its chapter; the lab's kernel refuses its import.
    answers = [a.replace(".", "/") for a in read_metadata(read_notebook(master), stem).answers]
    others = {n: text for n, text in texts.items() if not n.startswith(tuple(answers))}
    assert _holders(solutions, others) == []


def test_the_public_results_are_the_masters_without_the_hidden_ones_at_the_end(made) -> None:
    for stem in notebook_names(ROOT / "solutions"):
        document = json.loads(Course(made[0]).expected(Path(stem)).read_text())
        hidden = 0
        for cell in code_cells(read_notebook(ROOT / "solutions" / f"{stem}.ipynb")):
            if is_check(cell):
                every = [record.name for record in records_in(cell["outputs"])]
                public = document["exercises"][grade_id(cell).removesuffix("-check")]
                shown = [record["name"] for record in public]
                assert shown == every[: len(shown)], stem
                assert not {*shown} & {*every[len(shown) :]}, stem
                hidden += len(every) - len(shown)
        assert hidden, stem


# --- what a learner does in it -------------------------------------------------------------------


def test_the_course_is_listed_and_the_machine_is_looked_at(copy) -> None:
    for command in (["list", "--json"], ["doctor", "--json"], ["--help"], ["release", "--help"]):
        done = _aiinfra(copy, *command)
        assert (done.returncode, done.stderr) == (0, ""), command
    entries = json.loads(_aiinfra(copy, "list", "--json").stdout)
    assert (entries[0]["lab"], entries[0]["status"]) == ("yes", "ready")


def test_a_lab_is_started_checked_and_handed_in(copy, made) -> None:
    assert _aiinfra(copy, "start", "00").returncode == 0
    done = _aiinfra(copy, "check", "00", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert {mark["status"] for mark in report["marks"]} == {"not started"}

    work = copy / "work" / LAB
    notebook, master = read_notebook(work), read_notebook(ROOT / "solutions" / LAB)
    answers = {grade_id(cell): cell["source"] for cell in master["cells"] if is_answer(cell)}
    for cell in notebook["cells"]:
        if is_answer(cell):
            cell["source"] = answers[grade_id(cell)]
    write_notebook(work, notebook)
    done = _aiinfra(copy, "check", "00")
    assert done.returncode == 0, done.stdout
    assert "10 of 10 points" in done.stdout
    assert (
        done.stderr == "note: these are the checks that you can see in the lab; grading has more\n"
    )

    assert _aiinfra(copy, "submit", "00").stdout == f"work/submitted/{LAB}\n"
    handed_in = read_notebook(copy / "work" / "submitted" / LAB)
    assert handed_in["metadata"]["aiinfra_lab"]["release"] == made[1]["labs"]["00"]


def test_a_wrong_answer_is_shown_by_what_is_public(copy) -> None:
    _aiinfra(copy, "start", "00")
    work = copy / "work" / LAB
    text = work.read_text().replace("raise NotImplementedError()", "return 1.0, 0.5, 1.0")
    work.write_text(text)
    # A folder of that name, made by a learner, holds no masters.
    (copy / "solutions").mkdir()

    report = json.loads(_aiinfra(copy, "check", "00", "--json").stdout)

    assert report["points"] == 0
    assert report["marks"][0]["differences"][0]["record"] == "accuracy of 200 images"
    assert "Right predictions over all." in report["marks"][0]["reason"]


@pytest.mark.parametrize("command", [["build"], ["build", "--check"], ["release", "../x"]])
def test_what_needs_masters_is_refused_in_one_sentence(copy, command) -> None:
    done = _aiinfra(copy, *command)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"aiinfra: {copy} is a release: it has no masters to ")
    assert len(done.stderr.splitlines()) == 1


def test_public_results_that_were_lost_are_named(copy) -> None:
    _aiinfra(copy, "start", "00")
    (copy / "labs" / "expected" / "00_start_here.json").unlink()

    done = _aiinfra(copy, "check", "00")

    assert (done.returncode, done.stdout) == (2, "")
    assert "labs/expected/00_start_here.json" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# --- what is refused -----------------------------------------------------------------------------


def test_a_folder_without_a_repository_is_refused(copy, tmp_path) -> None:
    (copy / RELEASE_FILE).unlink()
    (copy / "solutions").mkdir()

    done = _aiinfra(copy, "release", "../out")

    assert (done.returncode, done.stdout) == (2, "")
    assert "a release is made from a commit, and git says" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_lab_that_is_not_current_is_refused(clone, tmp_path) -> None:
    course = Path(shutil.copytree(clone, tmp_path / "course"))
    master = course / "solutions" / LAB
    master.write_text(master.read_text().replace("Two numbers you can trust", "Two numbers"))
    _git(course, "commit", "--quiet", "--all", "-m", "x")

    done = _aiinfra(course, "release", "../out")

    assert (done.returncode, done.stdout) == (2, "")
    assert f"labs/{LAB} is not what its master gives" in done.stderr


def test_a_commit_is_read_as_git_sees_it(tmp_path, monkeypatch) -> None:
    with pytest.raises(InputError, match="not a git repository"):
        Commit.read(tmp_path)
    _git(tmp_path, "init", "--quiet")
    with pytest.raises(InputError, match="git says"):
        Commit.read(tmp_path)
    folder = tmp_path / "a folder"
    folder.mkdir()
    for name in (".gitignore", "täg\tx", "run.sh", "gone"):
        (folder / name).write_text("ignored\n")
    (folder / "run.sh").chmod(0o755)
    (tmp_path / "outside").write_text("x")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "--quiet", "-m", "x")
    for name in ("run.sh", "ignored", "new"):
        (folder / name).write_text("changed")
    (folder / "gone").unlink()
    # A hook's own repository is another one.
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nosuch"))

    found = Commit.read(folder)

    regular = dict.fromkeys((".gitignore", "täg\tx", "gone"), "100644")
    assert found.tracked == regular | {"run.sh": "100755"}
    assert (set(found.changed), found.untracked) == ({"run.sh", "gone"}, ("new",))
    assert len(found.name) == 40
    assert found.seconds > 1_700_000_000
