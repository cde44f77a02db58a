"""What a learner gets back: the own code, what passed, and what differed in visible results.

Nothing of a hidden check, of another learner, of the class or of the seed is on the page. The
results hold no hidden check to begin with; the rest is left out here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from aiinfra_lab.course.masters import Exercise
from aiinfra_lab.files import write_text
from aiinfra_lab.grading.escapes import cut, visible
from aiinfra_lab.grading.pages import page, when
from aiinfra_lab.grading.results import BatchResult, ExerciseResult, Status, SubmissionResult

SIGNS: dict[Status, str] = {"passed": "✓", "not yet": "✗", "not started": "○", "pending": "?"}

_MOST_CODE = 20_000
_MOST_DIFFERENCES = 5
# A seed with fewer digits is a number like others; the secret ones have many more.
_SHORTEST_SECRET = 6

_PLAIN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_DEVICES = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9])")
_DIGESTED = re.compile(r".*-[0-9a-f]{16}")


def feedback_name(learner: str) -> str:
    """The name of a learner's file, the same whoever else is in the batch.

    It depends on the id alone, holds only ``a-z 0-9 _ -``, and is unique also where capitals do
    not count: an id that is not such a name already gets 64 bits of its digest behind it.

    Examples
    --------
    >>> feedback_name("ada")
    'ada.html'
    >>> feedback_name("../Ada L")
    'ada-l-9f6c9bbe1b16d660.html'
    """
    if (
        _PLAIN.fullmatch(learner)
        and not _DEVICES.fullmatch(learner)
        and not _DIGESTED.fullmatch(learner)
    ):
        return f"{learner}.html"
    # surrogatepass: a file name may hold bytes that are no UTF-8.
    digest = hashlib.sha256(learner.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    readable = re.sub(r"[^a-z0-9_]+", "-", learner.lower()).strip("-")[:40].strip("-")
    return f"{readable or 'learner'}-{digest}.html"


def write_feedback(
    result: BatchResult,
    answers: Mapping[str, Mapping[str, str]],
    folder: str | Path,
    *,
    exercises: Sequence[Exercise] = (),
) -> dict[str, Path]:
    """Write a page for every submission into ``folder``/feedback; the paths by learner.

    Parameters
    ----------
    result : BatchResult
        The batch.
    answers : mapping
        Of each learner the sources of the answer cells by ``grade_id``; who is not in it has a
        page without code.
    folder : path
        The folder of the results.
    exercises : sequence of Exercise
        Which answer cells belong to which exercise; without it, a cell belongs to the exercise
        that has its name.
    """
    cells = {exercise.name: exercise.answers for exercise in exercises}
    paths = {}
    for submission in result.submissions:
        path = Path(folder) / "feedback" / feedback_name(submission.id)
        values = _values(result, submission, answers.get(submission.id, {}), cells)
        write_text(path, page("feedback.html", style=_code_style(), **values))
        paths[submission.id] = path
    return paths


def _values(
    result: BatchResult,
    submission: SubmissionResult,
    sources: Mapping[str, str],
    cells: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    hide = _Seed(result.seed)
    shown: set[str] = set()
    answers = []
    for mark in submission.exercises:
        own = [key for key in cells.get(mark.exercise, (mark.exercise,)) if key in sources]
        shown.update(own)
        answers.append(_answer(mark, own, sources, hide))
    return {
        "lab": result.lab,
        "title": result.title,
        "when": when(result.started),
        "label": submission.name or submission.id,
        "file": submission.files[-1] if submission.files else "",
        "points": submission.points,
        "of": submission.of,
        "passed": sum(mark.status == "passed" for mark in submission.exercises),
        "waits": sum(mark.status == "pending" for mark in submission.exercises),
        "reason": hide(submission.reason),
        "limit": hide(submission.limit),
        "notes": [hide(note) for note in submission.notes],
        "answers": answers,
        "others": [
            (key, highlighted(source)) for key, source in sources.items() if key not in shown
        ],
    }


def _answer(
    mark: ExerciseResult, own: Sequence[str], sources: Mapping[str, str], hide: _Seed
) -> dict[str, Any]:
    reason, differing = mark.reason, mark.differences
    if differing and reason.startswith(differing[0].record):
        reason = ""  # it says what the first difference says below
    else:
        # After an error, the results that are missing say nothing new.
        differing = tuple(d for d in differing if d.found != "nothing")
    differences = [
        {
            "record": difference.record,
            "where": hide(difference.where),
            "expected": hide(difference.expected),
            "found": hide(difference.found),
            "hint": difference.hint,
        }
        for difference in differing[:_MOST_DIFFERENCES]
    ]
    return {
        "name": mark.exercise,
        "status": mark.status,
        "sign": SIGNS[mark.status],
        "earned": mark.earned,
        "points": mark.points,
        "reason": hide(reason),
        "differences": differences,
        "more": max(0, len(differing) - _MOST_DIFFERENCES),
        "cells": [(key, highlighted(sources[key])) for key in own],
    }


class _Seed:
    """Takes the batch's seed out of what a submission may have printed."""

    def __init__(self, seed: str) -> None:
        texts = {seed.lower().removeprefix("0x")}
        with suppress(ValueError):
            texts.add(str(int(seed, 16)))
        found = [re.escape(text) for text in texts if len(text) >= _SHORTEST_SECRET]
        self._pattern = re.compile("|".join(found), re.IGNORECASE) if found else None

    def __call__(self, text: str) -> str:
        return self._pattern.sub("(the seed)", text) if self._pattern else text


# ---- code in colours


def highlighted(source: str) -> Markup:
    """Python source as escaped HTML in spans; what acts is made visible, what is long is cut."""
    from pygments import highlight  # type: ignore[import-untyped]
    from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
    from pygments.lexers import PythonLexer  # type: ignore[import-untyped]

    text = visible(cut(source.strip("\n"), _MOST_CODE))
    lexer = PythonLexer(stripnl=False, ensurenl=False)
    return Markup(highlight(text, lexer, HtmlFormatter(nowrap=True)))


@cache
def _code_style() -> str:
    from pygments.formatters import HtmlFormatter

    light, dark = (
        "\n".join(
            line
            for line in HtmlFormatter(style=name, nobackground=True)
            .get_style_defs(".source")
            .splitlines()
            if line.startswith(".source .")
        )
        for name in ("xcode", "github-dark")
    )
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
