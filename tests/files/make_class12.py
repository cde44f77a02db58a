"""Make the class of twelve: submissions of lab 03 of every sort, with their points in their names.

    python tests/files/make_class12.py

They are made from the lab's master and from the answers in tests/notebooks/lab03_answers.py. When
the master changes, make them again; a test says so.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).resolve().parent / "class12"
sys.path.insert(0, str(ROOT / "tests" / "notebooks"))

from lab03_answers import ANOTHER_WAY, WRONG  # noqa: E402

from aiinfra_lab.course.layout import Course  # noqa: E402
from aiinfra_lab.course.masters import grade_id, is_answer, released  # noqa: E402
from aiinfra_lab.course.notebooks import (  # noqa: E402
    Cell,
    Notebook,
    dumps,
    normalised,
    read_notebook,
)

LAB = "03_circuit_breaker"
EXERCISES = ("window", "probes", "late-answers", "slow-calls", "predicates", "jitter")
LIE = {"output_type": "stream", "name": "stdout", "text": "passed: 32 of 32 points\n"}


class Maker:
    """Makes submissions of lab 03 in memory."""

    def __init__(self, course: Course) -> None:
        self._course = course
        self.master = read_notebook(course.masters / f"{LAB}.ipynb")
        self.lab = released(self.master)
        self.right = {
            grade_id(cell): _without_marks(cell["source"])
            for cell in self.master["cells"]
            if is_answer(cell)
        }

    def submission(self, **answers: str) -> Notebook:
        """The lab with these answers, after a learner has run it; ``_`` stands for ``-``."""
        notebook = copy.deepcopy(self.lab)
        for name, source in answers.items():
            cell_of(notebook, name.replace("_", "-"))["source"] = source
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                # What a file says of itself is not read.
                cell["execution_count"] = 1
                cell["outputs"] = [dict(LIE)] if grade_id(cell).endswith("-check") else []
        return notebook

    def solved(self, **changed: str) -> Notebook:
        """The lab with the master's answers, but for these."""
        right = {name.replace("-", "_"): source for name, source in self.right.items()}
        return self.submission(**{**right, **changed})

    def perfect(self) -> Notebook:
        """Everything right, as ``aiinfra submit`` writes it: without outputs."""
        notebook = self.solved()
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell["outputs"], cell["execution_count"] = [], None
        return notebook

    def half(self) -> Notebook:
        """Three of six."""
        done = {name: self.right[name] for name in ("window", "probes", "predicates")}
        return self.submission(**done)

    def duplicated(self) -> Notebook:
        """First tries above, the last ones right, some of them in another way than the master."""
        notebook = self.solved(**{k.replace("-", "_"): v for k, v in ANOTHER_WAY.items()})
        for name in ("probes", "jitter"):
            place = notebook["cells"].index(cell_of(notebook, name))
            tried = {**copy.deepcopy(notebook["cells"][place]), "source": "1 / 0"}
            notebook["cells"].insert(place, tried)
        return notebook

    def deleted(self) -> Notebook:
        """The cells of one part are gone, answer and check."""
        notebook = self.solved()
        gone = ("probes", "probes-check")
        notebook["cells"] = [c for c in notebook["cells"] if grade_id(c) not in gone]
        return notebook

    def retyped(self) -> Notebook:
        """An answer turned into text, parts in another order, a check unlocked and emptied."""
        notebook = self.solved()
        window = cell_of(notebook, "window")
        window["cell_type"] = "markdown"
        del window["outputs"], window["execution_count"]
        notebook["cells"].append(notebook["cells"].pop(notebook["cells"].index(window)))
        check = cell_of(notebook, "jitter-check")
        check["source"] = "print('passed')"
        check["metadata"]["nbgrader"]["locked"] = False
        return notebook

    def error(self) -> Notebook:
        """One answer raises when it is used."""
        broken = self.right["late-answers"].replace("self.since", "self.sinc", 1)
        return self.solved(late_answers=broken)

    def endless(self) -> Notebook:
        """One answer never ends."""
        loop = "def judge(found, now, longest):\n    while True:\n        pass"
        return self.solved(predicates=loop)

    def syntax(self) -> Notebook:
        """One answer is no Python."""
        return self.solved(slow_calls=self.right["slow-calls"].replace("def ", "define ", 1))

    def hardcoded(self) -> Notebook:
        """One answer is a table of what the public checks expect."""
        path = self._course.labs / "expected" / f"{LAB}.json"
        public = json.loads(path.read_text(encoding="utf-8"))["exercises"]["predicates"]
        verdicts: dict[str, Any] = {}
        pauses: dict[str, Any] = {}
        for record in public:
            table = verdicts if record["name"].startswith("verdicts") else pauses
            table.update({str(pair[0]): pair[1] for pair in record["value"] if _is_pair(pair)})
        return self.solved(
            predicates=f"VERDICTS = {verdicts!r}\nPAUSES = {pauses!r}\n\n"
            "def judge(found, now, longest):\n"
            '    verdict = VERDICTS[str(getattr(found, "status", repr(found)))]\n'
            '    headers = list(getattr(found, "headers", {}).values())\n'
            "    return verdict, PAUSES[headers[0]] if headers else 0.0"
        )

    def wrong(self) -> Notebook:
        """Two mistakes that people make."""
        return self.solved(
            window=self._mistaken("window", "counts consecutive failures"),
            jitter=self._mistaken("jitter", "no jitter"),
        )

    def helper(self) -> Notebook:
        """An answer that needs a function from a cell that is not handed in."""
        notebook = self.solved(
            jitter="def reopening_wait(attempt, rng, first, multiplier, longest):\n"
            "    return spread(attempt, rng, first, multiplier, longest)"
        )
        place = notebook["cells"].index(cell_of(notebook, "jitter"))
        source = self.right["jitter"].replace("def reopening_wait", "def spread")
        notebook["cells"].insert(place, _stray("my-helper", source))
        return notebook

    def _mistaken(self, exercise: str, mistake: str) -> str:
        (wrong,) = (w for w in WRONG if (w.exercise, w.mistake) == (exercise, mistake))
        source = self.right[exercise]
        for old, new in wrong.edits.items():
            assert old in source, f"{mistake}: the master has no {old!r} any more"
            source = source.replace(old, new)
        return source


def class_of_twelve(course: Course | None = None) -> dict[str, str]:
    """The twelve files: name to text."""
    make = Maker(course or Course(ROOT))
    makers: dict[str, Callable[[], Notebook]] = {
        "perfect-32": make.perfect,
        "blank-0": make.submission,
        "half-16": make.half,
        "duplicated-32": make.duplicated,
        "deleted-26": make.deleted,
        "retyped-32": make.retyped,
        "error-26": make.error,
        "endless-27": make.endless,
        "syntax-27": make.syntax,
        "hardcoded-27": make.hardcoded,
        "山田 太郎-22": make.wrong,
        "helper-27": make.helper,
    }
    return {f"{name}.ipynb": dumps(normalised(made())) for name, made in makers.items()}


def cell_of(notebook: Notebook, key: str) -> Cell:
    """The cell with this ``grade_id``."""
    return next(cell for cell in notebook["cells"] if grade_id(cell) == key)


def _without_marks(source: str) -> str:
    lines = [line for line in source.splitlines() if "### BEGIN" not in line]
    return "\n".join(line for line in lines if "### END" not in line)


def _is_pair(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2


def _stray(cell_id: str, source: str) -> Cell:
    cell: dict[str, Any] = {"cell_type": "code", "id": cell_id, "metadata": {}, "source": source}
    return {**cell, "outputs": [], "execution_count": None}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in class_of_twelve().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(FOLDER.name, name)
