"""What this machine can do for the course, and one line for each thing that it cannot.

``examine()`` measures and probes side by side within a fixed patience: what has not answered
by then is reported as unknown, because a doctor who waits for a hung daemon helps nobody.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from html import escape
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

from aiinfra_lab import needs
from aiinfra_lab.measure import capacity
from aiinfra_lab.settings import settings

Status = Literal["ok", "low", "missing", "unknown"]

GIB = 2**30
# Two workers that train with torch beside a notebook hold about 3 GB.
ENOUGH_MEMORY = 4 * GIB
# The largest state that a chapter leaves (clusters, registries, traces) is below this.
ENOUGH_DISK = 2 * GIB
# The budgets of the chapters are measured on two cores.
ENOUGH_CORES = 2


class Chapter(Protocol):
    """What ``examine`` wants to know of a chapter; the notebooks' metadata has it."""

    @property
    def id(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def needs(self) -> Sequence[str]: ...


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Resource(_Record):
    """Something that is measured: ``value`` in ``unit``, and whether that is enough."""

    name: str
    value: float
    unit: Literal["cores", "bytes"]
    status: Status
    detail: str
    fix: str = ""


class NeedReport(_Record):
    """What the probe of one need found."""

    name: str
    what: str
    status: Status
    detail: str
    fix: str = ""


class ChapterReport(_Record):
    """Whether one chapter can run here; ``lacking`` are the names of the needs that keep it."""

    id: str
    title: str
    status: Status
    lacking: tuple[str, ...] = ()
    fix: str = ""


class Row(NamedTuple):
    """A line of the table for people; every field is plain text."""

    section: str
    name: str
    status: Status
    detail: str
    fix: str


class Report(_Record):
    """The examination: JSON by ``model_dump(mode="json")``, a table in a notebook.

    ``rows()`` is that table for any other renderer, ``str(report)`` as plain text.
    """

    system: str
    python: str
    resources: tuple[Resource, ...]
    needs: tuple[NeedReport, ...]
    chapters: tuple[ChapterReport, ...]

    def rows(self) -> list[Row]:
        """The report line by line, packages as one line, chapters last."""
        rows = [
            Row("machine", "system", "ok", self.system, ""),
            Row("machine", "Python", "ok", self.python, ""),
            *(Row("machine", r.name, r.status, r.detail, r.fix) for r in self.resources),
        ]
        packages = [n for n in self.needs if needs.lookup(n.name).package]
        rows += [
            Row("tools", n.name, n.status, n.detail, n.fix) for n in self.needs if n not in packages
        ]
        rows.append(_package_row(packages))
        rows += [
            Row("chapters", f"{c.id} {c.title}", c.status, _reason(c), c.fix) for c in self.chapters
        ]
        return rows

    def __str__(self) -> str:
        cells = [(r.name, r.status, r.detail, f"-> {r.fix}" if r.fix else "") for r in self.rows()]
        widths = [max(len(row[column]) for row in cells) for column in range(2)]
        return "\n".join(
            f"{name:<{widths[0]}}  {status:<{widths[1]}}  {detail}  {fix}".rstrip()
            for name, status, detail, fix in cells
        )

    def _repr_html_(self) -> str:
        return _html(self.rows())

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": str(self), "text/html": self._repr_html_()}


def examine(chapters: Iterable[Chapter] | None = None, *, patience_s: float = 1.2) -> Report:
    """Look at this machine, and at what each of ``chapters`` needs of it.

    Parameters
    ----------
    chapters : iterable of Chapter, optional
        Objects with ``id``, ``title`` and ``needs``; without them the report has none.
    patience_s : float
        Seconds for all probes together; a need whose probe needs longer is ``unknown``.

    Raises
    ------
    InputError
        A chapter names a need that does not exist.
    """
    wanted = list(chapters or ())
    for chapter in wanted:
        for name in chapter.needs:
            needs.lookup(name)
    reports = _probe(list(needs.NEEDS), patience_s)
    return Report(
        system=_system(),
        python=f"{platform.python_version()} ({platform.python_implementation()})",
        resources=(_cores(), _memory(), _disk(settings().home)),
        needs=tuple(reports.values()),
        chapters=tuple(_chapter_report(chapter, reports) for chapter in wanted),
    )


def _probe(names: Sequence[str], patience_s: float) -> dict[str, NeedReport]:
    """Ask for all ``names`` side by side, for ``patience_s`` at most."""
    # Probes that wait for another process must not hold up the quick ones behind them.
    quick = [name for name in names if needs.lookup(name).package]
    slow = [name for name in names if name not in quick]
    pool = ThreadPoolExecutor(len(slow) + 1, thread_name_prefix="doctor")
    try:
        futures = {name: pool.submit(needs.find, name) for name in [*slow, *quick]}
        wait_for(futures.values(), timeout=patience_s)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    reports = {}
    for name in names:
        what, future = needs.lookup(name).what, futures[name]
        if future.done() and not future.cancelled():
            found = future.result()
            status: Status = "ok" if found.present else "missing"
            reports[name] = NeedReport(
                name=name, what=what, status=status, detail=found.detail, fix=found.fix
            )
        else:
            late = f"no answer within {patience_s:g} s"
            reports[name] = NeedReport(name=name, what=what, status="unknown", detail=late)
    return reports


def _chapter_report(chapter: Chapter, reports: dict[str, NeedReport]) -> ChapterReport:
    lacking = [reports[name] for name in chapter.needs if reports[name].status != "ok"]
    status: Status = "ok"
    if lacking:
        known = any(report.status == "missing" for report in lacking)
        status = "missing" if known else "unknown"
    return ChapterReport(
        id=chapter.id,
        title=chapter.title,
        status=status,
        lacking=tuple(report.name for report in lacking),
        fix="; ".join(dict.fromkeys(report.fix for report in lacking if report.fix)),
    )


def _reason(chapter: ChapterReport) -> str:
    if chapter.status == "ok":
        return "runs here"
    return f"needs {', '.join(chapter.lacking)}"


def _package_row(packages: Sequence[NeedReport]) -> Row:
    absent = [report for report in packages if report.status != "ok"]
    detail = f"{len(packages) - len(absent)} of {len(packages)} installed"
    if not absent:
        return Row("tools", "packages", "ok", detail, "")
    detail += f"; not {', '.join(report.name for report in absent)}"
    return Row("tools", "packages", "missing", detail, absent[0].fix)


def _cores() -> Resource:
    cores = capacity.usable_cores()
    enough = cores >= ENOUGH_CORES
    return Resource(
        name="cores",
        value=cores,
        unit="cores",
        status="ok" if enough else "low",
        detail=f"{cores:g} usable" + ("" if enough else ": chapters take longer than they say"),
    )


def _memory() -> Resource:
    memory = capacity.memory()
    detail = f"{_gib(memory.available)} of {_gib(memory.total)} available"
    enough = memory.available >= ENOUGH_MEMORY
    return Resource(
        name="memory",
        value=memory.available,
        unit="bytes",
        status="ok" if enough else "low",
        detail=f"{detail} (limit of this container)" if memory.limited else detail,
        fix="" if enough else f"close programs until {_gib(ENOUGH_MEMORY)} are available",
    )


def _disk(home: Path) -> Resource:
    place = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(place).free
    enough = free >= ENOUGH_DISK
    return Resource(
        name="disk",
        value=free,
        unit="bytes",
        status="ok" if enough else "low",
        detail=f"{_gib(free)} free for {home}",
        fix="" if enough else "free some space, or set AIINFRA_HOME to a folder on another disk",
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def _system() -> str:
    if mac := platform.mac_ver()[0]:
        name = f"macOS {mac}"
    else:
        try:
            name = platform.freedesktop_os_release()["PRETTY_NAME"]
        except (OSError, KeyError):
            name = f"{platform.system()} {platform.release()}"
    return f"{name}, {platform.machine()}"


# Shape and word say the same as the colour, for who sees no colour. Each of these has a
# contrast of at least 3 to 1 on white and on JupyterLab's dark background, and a literal value
# survives the sanitiser of a notebook that is not trusted, where a CSS variable does not.
_MARKS: dict[Status, tuple[str, str]] = {
    "ok": ("\u25cf", "#2e8b57"),
    "low": ("\u25b2", "#b07d10"),
    "missing": ("\u25a0", "#d64545"),
    "unknown": ("?", "#808080"),
}


def _html(rows: Sequence[Row]) -> str:
    left = 'style="text-align: left"'
    lines = [
        "<table>",
        f"<caption {left}>What this machine can do for the course</caption>",
        "<thead><tr>"
        + "".join(f'<th scope="col" {left}>{name}</th>' for name in _COLUMNS)
        + "</tr></thead>",
    ]
    for section in dict.fromkeys(row.section for row in rows):
        lines.append(f"<tbody><!-- {section} -->")
        for row in (row for row in rows if row.section == section):
            mark, colour = _MARKS[row.status]
            lines.append(
                f'<tr><th scope="row" {left}>{escape(row.name)}</th>'
                f'<td {left}><span style="color: {colour}" aria-hidden="true">{mark}</span>'
                f"&nbsp;{row.status}</td>"
                f"<td {left}>{escape(row.detail)}</td><td {left}>{escape(row.fix)}</td></tr>"
            )
        lines.append("</tbody>")
    return "\n".join([*lines, "</table>"])


_COLUMNS = ("", "status", "found", "to get it")
