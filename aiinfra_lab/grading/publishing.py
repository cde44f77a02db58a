"""Everything that is written at the end of a batch, each file whole or not at all."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from aiinfra_lab.course.checking import Lab
from aiinfra_lab.course.masters import released
from aiinfra_lab.files import write_json, write_text
from aiinfra_lab.grading.folder import RESULTS
from aiinfra_lab.grading.results import BatchResult
from aiinfra_lab.grading.roster import Roster
from aiinfra_lab.grading.tables import Format, gradebook, results_csv


@dataclass(frozen=True, kw_only=True)
class Graded:
    """A finished batch: its result, and what the writers need besides.

    ``answers`` are each learner's answer cells by ``grade_id``.
    """

    result: BatchResult
    lab: Lab
    roster: Roster
    answers: dict[str, dict[str, str]]


def publish(
    graded: Graded, folder: Path, *, gradebook: Format | None = None, similar: bool = False
) -> None:
    """Write the results, the reports and the feedback into ``folder``.

    ``results.json`` comes last: where it is, everything is.
    """
    write_text(folder / "results.csv", results_csv(graded.result))
    if gradebook is not None:
        _write_gradebook(graded, folder, gradebook)
    _write_reports(graded, folder, similar)
    write_json(folder / RESULTS, graded.result.model_dump(mode="json", by_alias=True))


def _write_gradebook(graded: Graded, folder: Path, form: Format) -> None:
    text = gradebook(graded.result, form, graded.roster)
    write_text(folder / f"results-{form}.csv", text)


def _write_reports(graded: Graded, folder: Path, similar: bool) -> None:
    # Templates and parsers of code are not needed before a batch is finished.
    from aiinfra_lab.grading.feedback import write_feedback
    from aiinfra_lab.grading.junit import write_junit
    from aiinfra_lab.grading.report import write_report
    from aiinfra_lab.grading.similarity import similar_pairs

    pairs = []
    if similar:
        given = [
            c["source"] for c in released(graded.lab.master)["cells"] if c["cell_type"] == "code"
        ]
        pairs = similar_pairs(graded.answers, given)
        write_json(folder / "similar.json", [dataclasses.asdict(pair) for pair in pairs])
    write_report(graded.result, folder, similar=pairs)
    write_feedback(graded.result, graded.answers, folder, exercises=graded.lab.exercises)
    write_junit(graded.result, folder)
