"""A batch: every submission of one lab gets its row, by one master under one secret seed.

The order of things is the promise. What is wrong with the order itself is refused before anything
is written. Then the master is run twice in the place where the submissions will run: what it gave
is the reference, and what it gave the second time must agree with it, or nothing is graded. From
then on nothing that a submission does ends the batch; its row says what happened.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from aiinfra_lab import __version__
from aiinfra_lab.course.checking import (
    Lab,
    judge,
    outputs_of_master,
    with_own_answers,
)
from aiinfra_lab.course.layout import Course
from aiinfra_lab.course.notebooks import Notebook
from aiinfra_lab.course.submissions import Submission, read_submission, rebuilt
from aiinfra_lab.errors import InputError, MissingNeed, NotebookError
from aiinfra_lab.files import digest_bytes, digest_file
from aiinfra_lab.grading import folder, ledger
from aiinfra_lab.grading.emission import emit
from aiinfra_lab.grading.intake import HandIn, hand_ins, id_pattern
from aiinfra_lab.grading.local import MakeWorkplace, best_workplace
from aiinfra_lab.grading.names import folded, plain_text
from aiinfra_lab.grading.orders import Order, drawn_seed, given_seed, refuse_contradictions
from aiinfra_lab.grading.publishing import Graded, publish
from aiinfra_lab.grading.reading import Answers, Reader
from aiinfra_lab.grading.results import (
    BatchResult,
    SubmissionResult,
)
from aiinfra_lab.grading.roster import Roster, read_roster
from aiinfra_lab.grading.runs import Run, Workplace
from aiinfra_lab.grading.sources import Source, open_source
from aiinfra_lab.grading.verdicts import points_of, verdict
from aiinfra_lab.observability import progress


@dataclass
class _Entry:
    """One learner on the way to a row."""

    hand_in: HandIn
    answers: Answers | None = None
    digest: str = ""
    row: SubmissionResult | None = None

    @property
    def key(self) -> str:
        return self.answers.digest if self.answers else ""


async def grade(order: Order, course: Course, make: MakeWorkplace | None = None) -> BatchResult:
    """Grade the submissions that ``order`` names, and write the results into its folder.

    Every finished row is on the disk before the next: after whatever end, ``resume`` goes on.

    Parameters
    ----------
    order : Order
        What to grade.
    course : Course
        Where the masters are.
    make : callable, optional
        Makes the place where submissions run; by default the best that this machine has.

    Raises
    ------
    InputError
        Something in the order cannot be used; nothing was started and nothing overwritten.
    NotebookError
        The master does not get its own points; nothing was graded.
    MissingNeed
        A sandbox is required and a wall of it is missing.
    ProcessError
        The place where submissions run is broken; what is finished stays in the ledger.

    Examples
    --------
    >>> order = Order(lab="03", submissions=Path("handed-in"), out=Path("graded"))
    >>> asyncio.run(grade(order, Course.find())).submissions  # doctest: +SKIP
    """
    refuse_contradictions(order)
    path = _master(course, order.lab)
    lab = Lab.load(course, order.lab)
    seed = given_seed(order.seed, lab.metadata.seed)
    roster = read_roster(order.roster) if order.roster else Roster()
    with ExitStack() as stack:
        source = stack.enter_context(open_source(order.submissions))
        entries = _entries(order, source, roster)
        if not order.resume:
            folder.refuse_if_taken(order.out)
        stack.enter_context(folder.sole_grader(order.out))
        opened = _ledger(order, lab, digest_file(path), seed)
        stack.callback(opened.close)
        lab = replace(lab, seed=int(opened.batch.seed, 16))
        # An environment inside the course's folder would show the masters: the walls are asked.
        secrets = [path, order.out / folder.LEDGER]
        chosen = make or functools.partial(best_workplace, secrets=secrets)
        batch = _Batch(order, lab, entries, opened, chosen)
        _read(entries, source, Reader(lab))
        graded = await batch.run(roster)
        with folder.disk(order.out):
            publish(graded, order.out, gradebook=order.gradebook, similar=order.similar)
        return graded.result


def _master(course: Course, identifier: str) -> Path:
    if course.is_release:
        raise InputError(
            "this is a release of the course, which has no masters to grade by",
            fix="Run it in the course's repository.",
        )
    return course.notebook(course.masters, identifier)


def _entries(order: Order, source: Source, roster: Roster) -> list[_Entry]:
    pattern = id_pattern(order.id_from) if order.id_from else None
    found = hand_ins(source.items, pattern=pattern, roster=roster if roster.learners else None)
    there = {one.id for one in found}
    missing = [
        HandIn(learner.id, learner.name, ())
        for learner in roster.learners
        if learner.id not in there
    ]
    everyone = sorted([*found, *missing], key=lambda one: (folded(one.id), one.id))
    if order.only:
        chosen = [one for one in everyone if one.id == order.only]
        chosen = chosen or [one for one in everyone if folded(one.id) == folded(order.only)]
        if not chosen:
            ids = ", ".join(one.id for one in everyone[:5])
            more = ", …" if len(everyone) > 5 else ""
            raise InputError(f"there is no learner {order.only!r}", fix=f"There is: {ids}{more}.")
        everyone = chosen
    return [_Entry(one) for one in everyone]


def _ledger(order: Order, lab: Lab, master: str, seed: str) -> ledger.Ledger:
    """The ledger to go on with, or a new one."""
    path = order.out / folder.LEDGER
    there = ledger.Ledger.read(path)
    if there is not None and there.rows:
        if not order.resume:
            raise InputError(
                f"{order.out} holds a batch of which {there.rows} rows are finished",
                fix="Go on with it by --resume, or name another folder.",
            )
        old = there.batch
        for what, found, wanted in (
            ("lab", old.lab, lab.metadata.id),
            ("master", old.master, master),
            ("seed", old.seed, seed or old.seed),
        ):
            if found != wanted:
                raise InputError(
                    f"{order.out} holds a batch with another {what}",
                    needed=wanted,
                    found=found,
                    fix="Name another folder.",
                )
    else:
        with folder.disk(order.out):
            path.unlink(missing_ok=True)
        seed = (
            seed
            or (there.batch.seed if there and order.resume else "")
            or drawn_seed(lab.metadata.seed)
        )
        there = ledger.Ledger(path, ledger.Batch(lab=lab.metadata.id, master=master, seed=seed), {})
    with folder.disk(order.out):
        return there.open()


def _read(entries: Iterable[_Entry], source: Source, reader: Reader) -> None:
    """Read every file that counts; what cannot be read becomes a row at once."""
    for entry in entries:
        if (item := entry.hand_in.counts) is None:
            continue
        try:
            data = source.read(item)
            entry.digest = digest_bytes(data)
            entry.answers = reader.read(data, Path(item.path).name)
        except InputError as error:
            entry.hand_in = replace(entry.hand_in, problem=plain_text(str(error)))
        except Exception as error:
            # Whatever a stranger's file makes a parser raise is that file's row.
            problem = plain_text(f"it cannot be read: {type(error).__name__}: {error}")
            entry.hand_in = replace(entry.hand_in, problem=problem)


class _Batch:
    """One batch while it is graded."""

    def __init__(
        self,
        order: Order,
        lab: Lab,
        entries: list[_Entry],
        opened: ledger.Ledger,
        make: MakeWorkplace,
    ) -> None:
        self._order, self._lab, self._entries = order, lab, entries
        self._ledger, self._make = opened, make
        self._jobs = order.jobs or os.cpu_count() or 1

    async def run(self, roster: Roster) -> Graded:
        started = datetime.now(UTC)
        async with self._make(self._lab) as place:
            self._require(place)
            await self._prove(place)
            groups = self._groups()
            await self._grade(place, groups)
            walls = place.walls
        rows = tuple(self._row(entry) for entry in self._entries)
        if self._order.emit_nbval:
            self._emit(self._order.emit_nbval)
        result = BatchResult(
            lab=self._lab.metadata.id,
            title=self._lab.metadata.title,
            course_version=__version__,
            master=self._ledger.batch.master,
            seed=self._ledger.batch.seed,
            started=started,
            ended=datetime.now(UTC),
            walls=walls,
            of=points_of(self._lab),
            submissions=rows,
        )
        answers = {e.hand_in.id: e.answers.submission.answers for e in self._entries if e.answers}
        return Graded(result=result, lab=self._lab, roster=roster, answers=answers)

    def _require(self, place: Workplace) -> None:
        missing = [wall for wall in place.walls if not wall.stood]
        if missing and self._order.require_sandbox:
            walls = "; ".join(f"{w.name} ({w.detail})" if w.detail else w.name for w in missing)
            raise MissingNeed(
                f"the sandbox lacks walls: {walls}",
                fix="`aiinfra doctor` says what is missing and the command that gets it.",
            )

    async def _prove(self, place: Workplace) -> None:
        """Run the master twice: the reference, and as a submission that must get all points."""
        name, seed = self._lab.metadata.stem, self._lab.seed
        own = with_own_answers(self._lab.master, seed)
        submission = read_submission(self._lab.master, self._lab.master)
        notebook = self._rebuilt(submission)
        first, second = await asyncio.gather(place.run(own), place.run(notebook))
        for run in (first, second):
            if run.limit:
                raise NotebookError(f"{name}: the master itself was ended by a limit: {run.limit}")
        reference = outputs_of_master(name, own, first.cells)
        self._lab = replace(self._lab, reference=reference)
        report = judge(self._lab, submission, notebook, second.cells)
        if not report.passed:
            mark = next(mark for mark in report.marks if mark.status != "passed")
            raise NotebookError(
                f"{name}: the master gets {report.points:g} of {report.of:g} points under seed "
                f"{self._ledger.batch.seed}, so nothing is graded; {mark.exercise}: {mark.reason}"
            )

    def _rebuilt(self, submission: Submission) -> Notebook:
        lab = self._lab
        blocked = lab.metadata.answers
        return rebuilt(lab.master, submission.answers, seed=lab.seed, blocked=blocked)

    def _groups(self) -> list[list[_Entry]]:
        """Those who are still to be graded, who answered the same together; longest first."""
        groups: dict[str, list[_Entry]] = defaultdict(list)
        for entry in self._entries:
            if entry.answers is None:
                continue
            entry.row = self._ledger.find(entry.hand_in.id, entry.key)
            if entry.row is None:
                groups[entry.key].append(entry)
        # Nothing tells beforehand how long a submission runs; who wrote more does more.
        return sorted(groups.values(), key=lambda group: -_size(group[0]))

    async def _grade(self, place: Workplace, groups: list[list[_Entry]]) -> None:
        todo = iter(groups)
        done = sum(entry.row is not None for entry in self._entries)
        total = done + sum(map(len, groups))
        with progress(None, "grading", total=total, initial=done) as bar:

            async def work() -> None:
                for group in todo:
                    await self._grade_group(place, group)
                    bar.advance(len(group))

            workers = [asyncio.create_task(work()) for _ in range(min(self._jobs, len(groups)))]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _grade_group(self, place: Workplace, group: list[_Entry]) -> None:
        first = group[0]
        assert first.answers is not None
        notebook = self._rebuilt(first.answers.submission)
        run = await place.run(notebook)
        # Comparing takes time, and the others' messages must be read meanwhile.
        rows = [await asyncio.to_thread(self._verdict, e, first, notebook, run) for e in group]
        with folder.disk(self._ledger.path):
            self._ledger.add((first.key, row) for row in rows)
        for entry, row in zip(group, rows, strict=True):
            entry.row = row

    def _verdict(
        self, entry: _Entry, first: _Entry, notebook: Notebook, run: Run
    ) -> SubmissionResult:
        assert entry.answers is not None
        learner, submission = entry.hand_in.id, entry.answers.submission
        same_as = "" if entry is first else first.hand_in.id
        return verdict(self._lab, learner, submission, notebook, run, same_as)

    def _row(self, entry: _Entry) -> SubmissionResult:
        """The row as it is published: the verdict, and what is known of the file today."""
        hand_in = entry.hand_in
        known = {
            "id": hand_in.id,
            "name": hand_in.name,
            "files": tuple(plain_text(item.path) for item in hand_in.files),
            "digest": entry.digest,
            "notes": (*hand_in.notes, *(entry.answers.notes if entry.answers else ())),
        }
        if entry.row is not None:
            return entry.row.model_copy(update=known)
        state = "unreadable" if hand_in.files else "missing"
        reason = hand_in.problem or ("on the roster, and no file" if state == "missing" else "")
        fields = {"state": state, "points": 0.0, "of": points_of(self._lab), "reason": reason}
        return SubmissionResult.model_validate(known | fields)

    def _emit(self, target: Path) -> None:
        with folder.disk(target):
            target.mkdir(parents=True, exist_ok=True)
            for entry in self._entries:
                if entry.answers is not None:
                    notebook = self._rebuilt(entry.answers.submission)
                    emit(target, entry.hand_in.id, notebook, self._lab.reference)


def _size(entry: _Entry) -> int:
    return entry.answers.size if entry.answers else 0
