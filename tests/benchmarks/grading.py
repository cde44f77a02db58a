"""What grading a submission costs: ``aiinfra grade`` against nbgrader, on the same notebooks.

nbgrader lives in an environment of its own in the course's cache, made at first use; without a
network it is left out. Its kernels run in this environment, so that both execute the same lab with
the same packages: our masters carry nbgrader's metadata. Timed are ``aiinfra grade`` (with its two
runs of the master, its sandbox and its reports) and ``nbgrader autograde``, in turn; no two
submissions are the same file. The lab *small* is lab 00 with numbers drawn by ``random`` in the
place of a trained model, so that no library's import hides what a grader costs.

CPU-seconds are those of the command and all its descendants, orphans too; memory is the highest
sum of proportional set sizes (shared pages counted once), looked at five times a second.

Examples
--------
    python tests/benchmarks/grading.py --quick
    python tests/benchmarks/grading.py --json > grading.json
    python tests/benchmarks/grading.py --save          writes results/grading.json
"""

from __future__ import annotations

import copy
import csv
import ctypes
import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from peers import peers_environment, say
from publishing import options, publish

from aiinfra_lab.course import building
from aiinfra_lab.course.layout import Course
from aiinfra_lab.course.masters import grade_id, is_answer, released
from aiinfra_lab.course.notebooks import Notebook, read_notebook, write_notebook
from aiinfra_lab.measure import machine, paired_ratio

PIN = "nbgrader==0.9.6"
RESULT = Path(__file__).parent / "results" / "grading.json"
COURSE = Course(Path(__file__).resolve().parents[2])
OURS, PEER = "aiinfra grade", "nbgrader autograde"
SAMPLE_S = 0.2
LEFT_S = 10.0  # for what a command leaves behind to end
PAIRS = 5
SMALL_SETUP = """\
import math
import random

from aiinfra_lab.course import exercise

dice = random.Random(1)
truth = [dice.randrange(10) for _ in range(797)]
predicted = [label if dice.random() < 0.95 else dice.randrange(10) for label in truth]"""


class Unmeasured(Exception):
    """A command failed, or did not grade what it was given."""


# ---- what a command costs


@dataclass(frozen=True)
class Cost:
    """Of one command with all its descendants."""

    cpu_s: float
    wall_s: float
    peak_mib: float


class Watch(threading.Thread):
    """Looks at the descendants of this process: their memory now, their time so far."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.peak = 0
        self.cpu: dict[tuple[int, float], float] = {}

    def run(self) -> None:
        while not self.ended.wait(SAMPLE_S):
            total = 0
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    key = (process.pid, process.create_time())
                    times = process.cpu_times()
                    self.cpu[key] = times.user + times.system
                    memory = process.memory_full_info()
                    total += getattr(memory, "pss", memory.rss)
            self.peak = max(self.peak, total)


def cost_of(command: list[str], folder: Path, env: dict[str, str]) -> Cost:
    """Run ``command`` to its end.

    A process whose parent does not wait for it is missing in what the system adds up, one that
    lives shorter than a sample in what is sampled: the larger of both sums is taken.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    watch = Watch()
    watch.start()
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, errors="replace"
    )
    wall_s = time.perf_counter() - began
    reap(LEFT_S)
    watch.ended.set()
    watch.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise Unmeasured(f"{command[1:3]} ended with {done.returncode}: {done.stderr[-800:]}")
    added = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Cost(max(added, sum(watch.cpu.values())), wall_s, watch.peak / 2**20)


def adopt_orphans() -> None:
    """Become the parent of descendants that lost theirs, where the system can (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def reap(patience_s: float) -> None:
    """Wait for adopted orphans, so that their time is counted."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.05)
        except ChildProcessError:
            return


# ---- what is graded


def small_master() -> Notebook:
    """Lab 00 without its model: the same exercises on numbers that are drawn."""
    master = read_notebook(COURSE.masters / "00_start_here.ipynb")
    for cell in master["cells"]:
        if cell["id"] == "setup":
            cell["source"], cell["outputs"] = SMALL_SETUP, []
    master["metadata"]["aiinfra_lab"] |= {"preload": [], "slug": "small"}
    return master


def make_course(folder: Path, master: Notebook, name: str) -> Course:
    """A course with one lab, its public results built."""
    course = Course(folder)
    for place in (course.masters, course.labs, course.chapters):
        place.mkdir(parents=True)
    write_notebook(course.masters / name, master)
    generators = {"labs": building.labs, "expected": building.expectations}
    building.write_stale(course, generators)
    return course


def hand_in(master: Notebook, student: str) -> Notebook:
    """A right submission that is nobody else's file: each answer says whose it is."""
    notebook = released(master)
    answers = {grade_id(cell): cell["source"] for cell in master["cells"] if is_answer(cell)}
    for cell in notebook["cells"]:
        if is_answer(cell):
            lines = [line for line in answers[grade_id(cell)].split("\n") if "###" not in line]
            cell["source"] = "\n".join([f"# by {student}", *lines])
    return notebook


def students(count: int) -> list[str]:
    return [f"s{number:03d}" for number in range(count)]


# ---- ours


def grade_ours(course: Course, identifier: str, folder: Path) -> tuple[Cost, dict[str, Any]]:
    """One batch over the files in ``folder``/in; its cost and its results."""
    out = folder / f"out-{time.monotonic_ns()}"
    command = [sys.executable, "-m", "aiinfra_lab.cli.main", "grade", identifier, "in"]
    env = os.environ | {"AIINFRA_COURSE": str(course.root), "AIINFRA_PROGRESS": "off"}
    cost = cost_of([*command, "--out", str(out)], folder, env)
    results = json.loads((out / "results.json").read_text("utf-8"))
    shutil.rmtree(out)
    for row in results["submissions"]:
        if row["points"] != row["of"] or row["same_as"]:
            raise Unmeasured(f"{row['id']}: {row['points']} of {row['of']}, {row['reason']}")
    return cost, results


# ---- the peer


class Peer:
    """An nbgrader course without an exchange, with one assignment that everybody handed in."""

    def __init__(self, programs: Path, folder: Path, course: Course, master: Notebook) -> None:
        self.folder = folder
        self._program = str(programs / "nbgrader")
        kernel = folder / "jupyter" / "kernels" / "python3"
        kernel.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": "ours", "language": "python"}
        (kernel / "kernel.json").write_text(json.dumps(spec))
        own = {f"JUPYTER_{n}_DIR": str(folder / n.lower()) for n in ("CONFIG", "DATA", "RUNTIME")}
        path = os.pathsep.join([str(programs), os.environ.get("PATH", "")])
        self._env = os.environ | own | {"JUPYTER_PATH": str(folder / "jupyter"), "PATH": path}
        self._env |= {"IPYTHONDIR": str(folder / "ipython"), "AIINFRA_COURSE": str(course.root)}
        (folder / "source" / "lab").mkdir(parents=True)
        write_notebook(folder / "source" / "lab" / "lab.ipynb", master)
        self._run("generate_assignment", "lab", "--create")

    def _run(self, *arguments: str) -> Cost:
        return cost_of([self._program, *arguments], self.folder, self._env)

    def hand_in(self, student: str, notebook: Notebook) -> None:
        place = self.folder / "submitted" / student / "lab"
        place.mkdir(parents=True)
        write_notebook(place / "lab.ipynb", notebook)

    def grade(self) -> Cost:
        """Autograde everybody anew; the points are checked."""
        cost = self._run("autograde", "lab", "--force")
        self._run("export")
        with (self.folder / "grades.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["student_id"]]
        handed_in = {path.name for path in (self.folder / "submitted").iterdir()}
        if {row["student_id"] for row in rows} != handed_in:
            raise Unmeasured(f"nbgrader graded {len(rows)} of {len(handed_in)}")
        if wrong := [row for row in rows if row["score"] != row["max_score"]]:
            raise Unmeasured(f"nbgrader gave {wrong[0]['student_id']} {wrong[0]['score']}")
        return cost


# ---- the measurements


def compared(
    name: str, master: Notebook, programs: Path | None, folder: Path, count: int
) -> dict[str, Any]:
    """Both graders on ``count`` submissions of one lab, in turn."""
    folder.mkdir()
    course = make_course(folder / "course", master, f"00_{name}.ipynb")
    peer = None
    if programs is not None:
        (folder / "peer").mkdir()
        peer = Peer(programs, folder / "peer", course, copy.deepcopy(master))
    for student in students(count):
        notebook = hand_in(master, student)
        (folder / "in").mkdir(exist_ok=True)
        write_notebook(folder / "in" / f"{student}.ipynb", notebook)
        if peer:
            peer.hand_in(student, notebook)
    graders: dict[str, Callable[[], Cost]] = {OURS: lambda: grade_ours(course, "00", folder)[0]}
    if peer:
        graders[PEER] = peer.grade
    seen: dict[str, list[Cost]] = {grader: [] for grader in graders}
    for pair in range(PAIRS):
        for grader in list(graders)[:: 1 if pair % 2 else -1]:
            seen[grader].append(graders[grader]())
            cost = seen[grader][-1]
            say(f"{name}, round {pair + 1} of {PAIRS}: {grader} {cost.wall_s:.1f} s")
    row: dict[str, Any] = {"submissions": count}
    row |= {grader: summary(costs, count) for grader, costs in seen.items()}
    if peer:
        for key in ("cpu_s", "wall_s", "peak_mib"):
            pairs = [
                (getattr(ours, key), getattr(its, key))
                for ours, its in zip(seen[OURS], seen[PEER], strict=True)
            ]
            found = paired_ratio(pairs)
            row[f"ours_over_peer_{key}"] = [
                round(x, 3) for x in (found.value, found.low, found.high)
            ]
    return row


def summary(costs: list[Cost], count: int) -> dict[str, float]:
    """The middle of the rounds, a submission where that makes sense."""

    def middle(key: str) -> float:
        return sorted(getattr(cost, key) for cost in costs)[len(costs) // 2]

    return {
        "cpu_s_a_submission": round(middle("cpu_s") / count, 3),
        "wall_s_a_submission": round(middle("wall_s") / count, 3),
        "peak_mib": round(middle("peak_mib")),
    }


def whole_class(folder: Path, count: int) -> dict[str, Any]:
    """Ours on a class of lab 03."""
    master = read_notebook(COURSE.masters / "03_circuit_breaker.ipynb")
    (folder / "in").mkdir(parents=True)
    for student in students(count):
        write_notebook(folder / "in" / f"{student}.ipynb", hand_in(master, student))
    cost, results = grade_ours(COURSE, "03", folder)
    say(f"lab 03, {count} submissions: {cost.wall_s:.1f} s")
    costs = {key: round(value, 1) for key, value in dataclasses.asdict(cost).items()}
    return {"submissions": count} | costs | {"walls": walls(results)}


def walls(results: dict[str, Any]) -> dict[str, bool]:
    return {wall["name"]: wall["stood"] for wall in results["walls"]}


# ---- the command


def report(found: dict[str, Any]) -> str:
    """The table for people."""
    here = found["machine"]
    lines = [f"{here['cores']} cores, load {here['load']}; a submission:"]
    for name, row in found["labs"].items():
        lines.append(f"  {name} ({row['submissions']} submissions)")
        for grader in (OURS, PEER):
            if grader in row:
                cost = row[grader]
                lines.append(
                    f"    {grader:<20}{cost['cpu_s_a_submission']:>8.2f} CPU-s"
                    f"{cost['wall_s_a_submission']:>8.2f} s{cost['peak_mib']:>7.0f} MiB"
                )
        if "ours_over_peer_cpu_s" in row:
            value, low, high = row["ours_over_peer_cpu_s"]
            lines.append(f"    ours costs {value:.2f} [{low:.2f}, {high:.2f}] of nbgrader's CPU-s")
    whole = found["class"]
    missing = [name for name, stood in whole["walls"].items() if not stood]
    lines.append(
        f"  lab 03, a class of {whole['submissions']}: {whole['wall_s']:.1f} s, "
        f"{whole['cpu_s']:.1f} CPU-s, {whole['peak_mib']:.0f} MiB; walls missing: "
        f"{', '.join(missing) or 'none'}"
    )
    if found["missing"]:
        lines.append(f"not measured, could not be installed: {', '.join(found['missing'])}")
    return "\n".join(lines)


def main() -> int:
    """Measure, and print; 1 if a grader did not give what the submissions deserve."""
    asked = options(__doc__, RESULT, quick="few submissions, the small lab only")
    adopt_orphans()
    made, failed = peers_environment("grading", [PIN])
    programs = None if failed else made
    labs = {"small": small_master()}
    if not asked.quick:
        labs["lab 00"] = read_notebook(COURSE.masters / "00_start_here.ipynb")
    before = machine()
    with tempfile.TemporaryDirectory(prefix="grading-") as name:
        base = Path(name)
        try:
            found = {
                "benchmark": "grading",
                "machine": before,
                "versions": {"nbgrader": PIN.partition("==")[2]} if programs else {},
                "missing": [] if programs else ["nbgrader"],
                "rounds": PAIRS,
                "labs": {
                    name: compared(
                        name.replace(" ", "_"),
                        master,
                        programs,
                        base / name,
                        4 if asked.quick else 20,
                    )
                    for name, master in labs.items()
                },
                "class": whole_class(base / "class", 5 if asked.quick else 100),
            }
        except Unmeasured as error:
            say(str(error))
            return 1
    publish(found, asked, RESULT, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
