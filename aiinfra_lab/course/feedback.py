"""What a learner reads under a check: passed, or what differed and how to think about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from aiinfra_lab.course.comparison import Difference

if TYPE_CHECKING:
    from aiinfra_lab.course.exercises import Raised

# As in the doctor's table: each has a contrast of at least 3.5 to 1 on white and on JupyterLab's
# dark background, and a literal value survives the sanitiser of a notebook that is not trusted,
# where a CSS variable does not.
_COLOURS = {
    "passed": "#2e8b57",
    "not yet": "#d64545",
    "not started": "#b07d10",
    "recorded": "#3a7fc1",
}


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check in words.

    ``judged`` is False where there was nothing to compare with; then nothing is said to be right.
    """

    exercise: str
    results: int
    differences: Sequence[Difference] | None
    raised: Raised | None
    judged: bool

    @property
    def status(self) -> str:
        """``passed``, ``not yet``, ``not started`` or ``recorded``."""
        if self.raised is not None:
            return "not started" if self.raised.is_stub else "not yet"
        if not self.judged:
            return "recorded"
        return "not yet" if self.differences else "passed"

    def _summary(self) -> str:
        if self.status == "not started":
            return "fill in the answer cell above, run it, then run this cell again"
        if self.raised is not None:
            where = f" ({self.raised.where})" if self.raised.where else ""
            return f"your code raised {self.raised}{where}"
        if self.status == "not yet":
            first = self._shown()[0]
            return f"{first.record} differs" + (f" at {first.where}" if first.where else "")
        noun = "result" if self.results == 1 else "results"
        return (
            f"{self.results} {noun} agree" if self.status == "passed" else f"{self.results} {noun}"
        )

    def _shown(self) -> list[Difference]:
        """The differences worth reading: after an error, the missing results say nothing new."""
        return [] if self.raised is not None else list(self.differences or [])[:3]

    def text(self) -> str:
        """The verdict in plain text."""
        lines = [f"{self.exercise}: {self.status}. {self._summary()}"]
        for difference in self._shown():
            lines += [
                f"  {difference.record}" + (f" at {difference.where}" if difference.where else ""),
                f"    found     {difference.found}",
                f"    expected  {difference.expected}",
            ]
            if difference.hint:
                lines.append(f"    hint      {difference.hint}")
        return "\n".join(lines)

    def html(self) -> str:
        """The verdict as one box."""
        colour = _COLOURS[self.status]
        rows = "".join(_rows(difference) for difference in self._shown())
        table = f'<table style="margin:.5em 0 0">{rows}</table>' if rows else ""
        return (
            f'<div style="border-left:4px solid {colour};padding:.4em .8em;margin:.2em 0">'
            f'<strong style="color:{colour}">{escape(self.status)}</strong> '
            f"<code>{escape(self.exercise)}</code>: {escape(self._summary())}{table}</div>"
        )


def _rows(difference: Difference) -> str:
    cells = [("found", difference.found), ("expected", difference.expected)]
    if difference.hint:
        cells.append(("hint", difference.hint))
    place = f" at {difference.where}" if difference.where else ""
    title = escape(difference.record + place)
    head = f'<tr><th colspan="2" style="text-align:left">{title}</th></tr>'
    return head + "".join(
        f'<tr><td style="text-align:left">{label}</td>'
        f'<td style="text-align:left">{escape(text)}</td></tr>'
        for label, text in cells
    )
