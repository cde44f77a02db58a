"""From a stranger's bytes to their answers, and notes on what was unusual about the file.

Outputs are dropped before anything is parsed: they are most of a large file, nobody reads them,
and parsed they take many times their size in memory.
"""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiinfra_lab.course.checking import Lab
from aiinfra_lab.course.masters import grade_id, is_answer, released
from aiinfra_lab.course.metadata import KEY
from aiinfra_lab.course.notebooks import Cell, Notebook, read_notebook
from aiinfra_lab.course.submissions import Submission, read_submission
from aiinfra_lab.errors import InputError
from aiinfra_lab.files import digest_bytes
from aiinfra_lab.grading.names import plain_text
from aiinfra_lab.sandbox.places import private_folder

# What may be left without outputs. A text of this size takes some 100 MB when it is parsed.
MOST_TEXT = 8 * 2**20
# Code is parsed for the names that it defines: a quarter of a megabyte takes up to 150 MB and 3 s.
# A lab and a long answer are a tenth of it.
MOST_CODE = 2**18
# Each costs a microsecond to count and 60 to 200 bytes when it is parsed.
MOST_BRACKETS = 1_000_000
# The depth of a cell's fields: inside the notebook, its list of cells, and the cell.
_IN_A_CELL = 3

# All that lies before the next bracket outside a text. Possessive: a text without an end must not
# be tried again from each of its characters.
_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+([\[\]{}])', re.DOTALL)
_KEY = re.compile(rb'"outputs"\s*:\s*\Z')


@dataclass(frozen=True)
class Answers:
    """What counts of one file: the answers, their digest, and what a learner should know."""

    submission: Submission
    digest: str
    notes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Characters in the answers."""
        return sum(map(len, self.submission.answers.values()))


@dataclass
class Reader:
    """Reads submissions of one lab."""

    lab: Lab
    _locked: dict[str, str] = field(init=False)
    _order: list[str] = field(init=False)
    _ids: set[str] = field(init=False)

    def __post_init__(self) -> None:
        release = released(self.lab.master)
        self._release = release["metadata"][KEY]["release"]
        cells = [cell for cell in release["cells"] if grade_id(cell)]
        self._order = [grade_id(cell) for cell in cells if is_answer(cell)]
        self._locked = {grade_id(c): c["source"].strip() for c in cells if not is_answer(c)}
        self._ids = {str(cell.get("id")) for cell in cells if is_answer(cell)}

    def read(self, data: bytes, name: str) -> Answers:
        """The answers in the file ``name``.

        Raises
        ------
        InputError
            It is no notebook, or one of another lab; the sentence says what it is.
        """
        notebook = parse(data, name)
        self._refuse_too_much_code(notebook)
        notes = self._origin(notebook)
        submission = read_submission(notebook, self.lab.master)
        notes += [plain_text(note) for note in submission.notes] + self._changes(notebook)
        text = json.dumps(submission.answers, sort_keys=True)
        digest = digest_bytes(text.encode("utf-8", "surrogatepass"))
        return Answers(submission, digest, tuple(notes))

    def _origin(self, notebook: Notebook) -> list[str]:
        """Notes on where the file comes from; the lab's answers count wherever that is."""
        about = notebook["metadata"].get(KEY)
        about = about if isinstance(about, dict) else {}
        lab, release = about.get("id"), about.get("release")
        if lab == self.lab.metadata.id:
            if release and release != self._release:
                return ["it was made from another release of the lab; the present checks are used"]
            return []
        foreign = f"it says that it is lab {plain_text(str(lab))!r}" if lab else "it names no lab"
        if not any(self._is_known(cell) for cell in notebook["cells"]):
            raise InputError(f"{foreign}, and none of the answer cells of this lab is in it")
        return [f"{foreign}, and yet it has this lab's cells, which count"]

    def _refuse_too_much_code(self, notebook: Notebook) -> None:
        cells = (c for c in notebook["cells"] if c["cell_type"] == "code" or self._is_known(c))
        if (size := sum(len(cell["source"]) for cell in cells)) > MOST_CODE:
            raise InputError(
                f"it holds {size} characters of code; at most {MOST_CODE} are read, "
                "and data belong into files"
            )

    def _is_known(self, cell: Cell) -> bool:
        return grade_id(cell) in self._order or cell.get("id") in self._ids

    def _changes(self, notebook: Notebook) -> list[str]:
        """Notes on what a learner did to the cells; none of it costs a point."""
        about = notebook["metadata"].get(KEY)
        current = isinstance(about, dict) and about.get("release") in ("", None, self._release)
        notes, places = [], {}
        for place, cell in enumerate(notebook["cells"]):
            key = grade_id(cell)
            if key in self._order:
                places[key] = place
                if cell["cell_type"] != "code":
                    notes.append(f"cell {key!r} was turned into {cell['cell_type']}; it counts")
            elif current and key in self._locked and cell["source"].strip() != self._locked[key]:
                notes.append(f"cell {key!r} is the lab's and was changed; the lab's own is used")
        found = [key for key in self._order if key in places]
        if sorted(found, key=lambda key: places[key]) != found:
            notes.append("the answers stand in another order; they are run in the lab's")
        return notes


def parse(data: bytes, name: str) -> Notebook:
    """The notebook in ``data`` without its outputs; one of format 3 is converted.

    Raises
    ------
    InputError
        It is no notebook, or too large even without outputs.
    """
    text = without_outputs(data.removeprefix(b"\xef\xbb\xbf"))
    if len(text) > MOST_TEXT:
        size = f"{len(text) / 2**20:.0f} MiB"
        raise InputError(f"{name} holds {size} even without its outputs, too large to be read")
    try:
        return _checked(text, name)
    except InputError as error:
        if (converted := _converted(text)) is None:
            raise error from None
        return _checked(converted, name)


def _checked(text: bytes, name: str) -> Notebook:
    # The reader of notebooks takes a file, and names it in its sentences.
    with private_folder("aiinfra-grade-") as folder:
        path = Path(folder) / (plain_text(name).replace("/", "_").lstrip(".")[-60:] or "notebook")
        path.write_bytes(text)
        notebook = read_notebook(path, strict=False)
    for cell in notebook["cells"]:
        cell["outputs"] = []
    return notebook


def _converted(text: bytes) -> bytes | None:
    """A notebook of an older format in the present one; None where it is none."""
    try:
        data: Any = json.loads(text)
        if not isinstance(data, dict) or data.get("nbformat") not in (1, 2, 3):
            return None
        import nbformat

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            notebook = nbformat.reads(text.decode(), as_version=4)
            return str(nbformat.writes(notebook)).encode()
    except Exception:
        # nbformat raises whatever a stranger's data makes its converters raise.
        return None


def without_outputs(data: bytes) -> bytes:
    """The text of a notebook with an empty list in place of each cell's outputs.

    Brackets are counted, nothing is parsed: what is no JSON stays none.

    Raises
    ------
    InputError
        It has more brackets than any notebook.
    """
    kept: list[bytes] = []
    begin = position = depth = brackets = 0
    outer = -1  # the depth at which outputs began, while they are left out
    while token := _BRACKET.match(data, position):
        position = token.end()
        brackets += 1
        if brackets > MOST_BRACKETS:
            raise InputError(f"it has more than {MOST_BRACKETS} brackets, as no notebook has")
        if token[1] in b"[{":
            at = position - 1
            if outer < 0 and depth == _IN_A_CELL and _KEY.search(data, max(at - 40, begin), at):
                kept.append(data[begin:position])
                outer = depth
            depth += 1
        else:
            depth -= 1
            if depth == outer:
                begin, outer = position - 1, -1
    if outer < 0:
        kept.append(data[begin:])
    return b"".join(kept)
