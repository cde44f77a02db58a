"""Whose file is whose: from the files of a source to one hand-in a learner.

A file belongs to the learner that its name or its folder names; an LMS's own patterns are known:

- Moodle: ``Full Name_1234_assignsubmission_file_/x.ipynb``, or without folders, 1234 being the
  participant;
- Canvas: ``lastfirst_123_456_x.ipynb``, 123 being the user; ``_LATE_`` may stand before it.

Nobody's work is lost: what cannot be told apart stays apart, and every oddity is a note.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from aiinfra_lab.errors import InputError
from aiinfra_lab.grading.names import folded, learner_id, one_line, plain_text
from aiinfra_lab.grading.roster import Roster
from aiinfra_lab.grading.sources import Item

_MOODLE = re.compile(r"(?:^|/)(?P<name>[^/]+?)_(?P<id>\d+)_assignsubmission_[a-z]+[_/]")
_CANVAS = re.compile(r"(?:^|/)(?P<name>[^/_]+)_(?:LATE_)?(?P<id>\d+)_\d+_[^/]+$")


@dataclass(frozen=True)
class HandIn:
    """What one learner handed in; the last file counts.

    ``problem`` says why there is nothing to grade; then ``counts`` is None.
    """

    id: str
    name: str
    files: tuple[Item, ...]
    notes: tuple[str, ...] = ()
    problem: str = ""

    @property
    def counts(self) -> Item | None:
        """The file that counts."""
        return None if self.problem or not self.files else self.files[-1]


@dataclass(frozen=True)
class _Owned:
    item: Item
    id: str
    name: str
    note: str = ""


def id_pattern(text: str) -> re.Pattern[str]:
    """The regular expression of ``--id-from``: its group ``id``, or its first, is the learner.

    Raises
    ------
    InputError
        It is no regular expression, or has no group.
    """
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(f"--id-from {text!r} is no regular expression: {error}") from None
    if not pattern.groups:
        raise InputError(
            f"--id-from {text!r} has no group", fix="Put the part that is the id in brackets."
        )
    return pattern


def hand_ins(
    items: Sequence[Item], *, pattern: re.Pattern[str] | None = None, roster: Roster | None = None
) -> list[HandIn]:
    """The hand-ins among ``items``, by id; a learner on the roster without a file has none.

    Raises
    ------
    InputError
        There is none at all, or ``pattern`` matches no file.
    """
    owned = [one for item in items if (one := _owned(item, pattern)) is not None]
    if not any(one.item.is_notebook for one in owned):
        raise InputError(
            "there are no submissions",
            needed="<learner>.ipynb, <learner>/*.ipynb or an LMS's zip",
            found=f"{len(items)} other files" if items else "nothing",
        )
    if pattern and all(one.note for one in owned if one.item.is_notebook):
        example = next(one.item.path for one in owned if one.item.is_notebook)
        raise InputError(
            f"--id-from {pattern.pattern!r} matches no file", found=repr(plain_text(example))
        )
    groups: dict[tuple[bool, str], list[_Owned]] = defaultdict(list)
    for one in owned:
        learner = roster.find(learner_id(one.id), one.name) if roster else None
        groups[(True, learner.id) if learner else (False, one.id)].append(one)
    # Ids on the roster are taken first: they must stay as they are.
    taken: set[str] = {folded(learner.id) for learner in roster.learners} if roster else set()
    found = []
    for (listed, key), files in sorted(groups.items(), key=lambda group: group[0]):
        found.append(_hand_in(key, files, roster if listed else None, taken, roster is not None))
    return sorted(found, key=lambda one: (folded(one.id), one.id))


def _owned(item: Item, pattern: re.Pattern[str] | None) -> _Owned | None:
    """Whose file this is; None for a file beside the submissions, such as a README."""
    path = PurePosixPath(item.path)
    parts = [part for part in path.parts if part not in ("..", "/")]
    by_place = parts[0] if len(parts) > 1 else path.stem
    if pattern is not None:
        if match := pattern.search(item.path):
            groups = match.groupdict()
            identifier = groups.get("id") or match[1] or ""
            if identifier.strip():
                return _Owned(item, identifier, one_line(groups.get("name") or ""))
        if not item.is_notebook:
            return None
        return _Owned(item, by_place, "", "--id-from does not match its name")
    if match := lms_name(item.path):
        return _Owned(item, match["id"], one_line(match["name"]))
    if item.is_notebook or len(parts) > 1:
        return _Owned(item, by_place, "")
    return None


def lms_name(path: str) -> re.Match[str] | None:
    """The groups ``name`` and ``id`` of a path that Moodle or Canvas has made."""
    return _MOODLE.search(path) or _CANVAS.search(path)


def _hand_in(
    key: str, owned: list[_Owned], roster: Roster | None, taken: set[str], expected: bool
) -> HandIn:
    notes = list(dict.fromkeys(one.note for one in owned if one.note))
    if roster is not None:
        learner = roster.find(key)
        identifier, name = (learner.id, learner.name) if learner else (key, "")
    else:
        identifier, name = _free(learner_id(key) or "unnamed", taken, notes), owned[-1].name
        if expected:
            notes.append("nobody on the roster has this id")
    notebooks = sorted((o.item for o in owned if o.item.is_notebook), key=_age)
    others = [one.item for one in owned if not one.item.is_notebook]
    if not notebooks:
        names = ", ".join(plain_text(PurePosixPath(item.path).name, 60) for item in others[:3])
        return HandIn(identifier, name, tuple(others), tuple(notes), f"no notebook, only {names}")
    # A file that may not be read must not hide one that may.
    notebooks.sort(key=lambda item: not item.problem)
    if len(notebooks) > 1:
        names = ", ".join(plain_text(item.path, 80) for item in notebooks[:-1])
        notes.append(f"{plain_text(notebooks[-1].path, 80)} is the newest and counts, not {names}")
    return HandIn(identifier, name, tuple(notebooks), tuple(notes), notebooks[-1].problem)


def _age(item: Item) -> tuple[float, list[tuple[bool, int, str]]]:
    """By time; of the same moment by name, ``x-10`` after ``x-9``."""
    pieces = re.findall(r"\d+|\D+", item.path)
    return item.modified, [
        (piece.isdecimal(), int(piece[:18]) if piece.isdecimal() else 0, piece) for piece in pieces
    ]


def _free(identifier: str, taken: set[str], notes: list[str]) -> str:
    """An id that no other has, also where capitals do not tell file names apart."""
    free, count = identifier, 1
    while folded(free) in taken:
        count += 1
        free = f"{identifier}~{count}"
    if free != identifier:
        notes.append(f"another's id is {identifier!r} too, or differs in capitals only")
    taken.add(folded(free))
    return free
