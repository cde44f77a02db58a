"""Pairs of submissions whose answers are alike, by their fingerprints.

What everybody was given is subtracted, and a fingerprint that more than a third of the class has
counts less the more have it: the obvious way to write a line is evidence against nobody.

The threshold comes from lab 03 (``tests/unit/test_grading_similarity.py``). Of 4 right answers to
each of its 6 exercises, written independently, the most alike two share 0.29 of the shorter one
and 7 fingerprints; 52 copies that change one idea of the master's keep 0.71 and 10 at least.
``ALIKE`` is the middle. A score is a reason to read two answers side by side, never a verdict.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from aiinfra_lab.grading.fingerprints import Fingerprints, all_marks, fingerprints

ALIKE = 0.5
EVIDENCE = 8.0
"""Below so many shared fingerprints, some 25 tokens, two short answers are alike by chance."""


@dataclass(frozen=True)
class CellMatch:
    """One answer cell that two submissions have alike.

    Attributes
    ----------
    cell : str
        Its ``grade_id``.
    score : float
        Of the shorter answer, the share that the other has too, 0 to 1.
    evidence : float
        Fingerprints shared, the common ones counting less.
    """

    cell: str
    score: float
    evidence: float


@dataclass(frozen=True)
class SimilarPair:
    """Two submissions with at least one cell alike; ``score`` is taken over all their cells."""

    first: str
    second: str
    score: float
    cells: tuple[CellMatch, ...]


def similar_pairs(
    answers: Mapping[str, Mapping[str, str]],
    given: Iterable[str] = (),
    *,
    alike: float = ALIKE,
    evidence: float = EVIDENCE,
) -> list[SimilarPair]:
    """The pairs with at least one cell alike, those that share most first.

    Parameters
    ----------
    answers : mapping
        Of each learner the sources of the answer cells by ``grade_id``.
    given : iterable of str
        Sources that everybody was given: the cells of the released lab.
    alike : float
        The least score of a cell.
    evidence : float
        The least weight that the fingerprints shared in one of them have; 1 is a fingerprint that
        few have.

    Examples
    --------
    >>> same = "def mean(xs):\\n    total = 0\\n    for x in xs:\\n        total += x\\n"
    >>> same += "    return total / len(xs) if xs else 0.0"
    >>> other = same.replace("xs", "values").replace("total", "s")
    >>> two = {"a": {"mean": same}, "b": {"mean": other}}
    >>> [pair.score for pair in similar_pairs(two, evidence=1)]
    [1.0]
    """
    known = frozenset[int]().union(*(all_marks(source) for source in given))
    # Copies are common: each text is read once.
    texts = {source for cells in answers.values() for source in cells.values()}
    read = {source: fingerprints(source) - known for source in texts}
    marks = {
        learner: {cell: read[source] for cell, source in cells.items()}
        for learner, cells in answers.items()
    }
    weights = _weights(marks)
    learners = [_learner(name, cells, weights) for name, cells in marks.items()]
    pairs = [
        pair
        for one, other in combinations(learners, 2)
        if (pair := _pair(one, other, weights, alike, evidence))
    ]
    return sorted(pairs, key=lambda pair: (-_shared(pair), -pair.score, pair.first, pair.second))


def _shared(pair: SimilarPair) -> float:
    return round(sum(match.evidence for match in pair.cells), 6)


def _weights(marks: Mapping[str, Mapping[str, Fingerprints]]) -> dict[int, float]:
    """1 for a fingerprint that up to a third of the class has, then less, down to a ninth.

    In a class of a few, a pair is not yet "nearly everybody": the third is 3 learners at least.
    """
    holders = Counter(
        mark for cells in marks.values() for mark in frozenset[int]().union(*cells.values())
    )
    third = max(3.0, len(marks) / 3)
    return {mark: min(1.0, (third / count) ** 2) for mark, count in holders.items()}


class _Answer(NamedTuple):
    """Fingerprints, and what they weigh together: summed once, compared with everybody."""

    marks: Fingerprints
    weight: float


class _Learner(NamedTuple):
    name: str
    cells: dict[str, _Answer]
    whole: _Answer


def _learner(
    name: str, cells: Mapping[str, Fingerprints], weights: Mapping[int, float]
) -> _Learner:
    def answer(marks: Fingerprints) -> _Answer:
        return _Answer(marks, _weight(marks, weights))

    whole = frozenset[int]().union(*cells.values())
    return _Learner(name, {cell: answer(marks) for cell, marks in cells.items()}, answer(whole))


def _weight(marks: Fingerprints, weights: Mapping[int, float]) -> float:
    # fsum: the order of a set must not show in the last digit.
    return math.fsum(weights[mark] for mark in marks)


def _pair(
    one: _Learner, other: _Learner, weights: Mapping[int, float], alike: float, evidence: float
) -> SimilarPair | None:
    cells = one.cells.keys() & other.cells.keys()
    # Counted before it is weighed: almost every pair ends here.
    counts = {cell: len(one.cells[cell].marks & other.cells[cell].marks) for cell in cells}
    if max(counts.values(), default=0) < max(evidence, 1):
        return None
    found = {cell: _overlap(one.cells[cell], other.cells[cell], weights) for cell in cells}
    if not any(score >= alike and shared >= evidence for score, shared in found.values()):
        return None
    # With one cell that is evidence, the others that are alike are worth reading too.
    matches = [
        CellMatch(cell, round(score, 3), round(shared, 3))
        for cell, (score, shared) in found.items()
        if score >= alike and counts[cell]
    ]
    whole, _ = _overlap(one.whole, other.whole, weights)
    matches.sort(key=lambda match: (-match.evidence, match.cell))
    return SimilarPair(one.name, other.name, round(whole, 3), tuple(matches))


def _overlap(one: _Answer, other: _Answer, weights: Mapping[int, float]) -> tuple[float, float]:
    """Of the lighter of two answers the share that the other has, and what both have weighs."""
    shared = _weight(one.marks & other.marks, weights)
    lighter = min(one.weight, other.weight)
    return (shared / lighter if lighter else 0.0), shared
