"""The tables of README.md, made from the notebooks and from committed measurements."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiinfra_lab.course.layout import Course


def _chapters_table(course: Course) -> dict[Path, str]:
    """The README with the table of chapters made anew."""
    from aiinfra_lab.course.catalogue import catalogue
    from aiinfra_lab.course.releases import AT_HOME

    lines = _heading("", "chapter", "minutes", "lab", "status")
    for e in catalogue(course):
        # A release has this README, but not the instructors' pages: no link that is dead there.
        linked = e.notebook and not any(fnmatch(e.notebook, page) for page in AT_HOME)
        title = f"[{e.title}]({e.notebook})" if linked else e.title
        lines.append(_row(e.id, title, str(e.minutes or ""), e.lab, e.status))
    return _readme(course, "chapters", lines)


def _breaker_table(course: Course) -> dict[Path, str]:
    """The README with the breaker's measurement made anew from its committed JSON."""
    found = _measured(course, "breaker")
    if found is None:
        return {}
    measured = ("µs over a bare await", "ours is")
    situations = (
        "probes let through of 200",
        "opens at 50 % failures",
        "counts outer timeouts",
        "counts refused connections",
    )
    columns = ("", *measured, *situations)
    lines = _heading(*columns)
    for name, behaviour in found["behaviour"].items():
        price = found["price"]["over_bare"][name]
        times = ""
        if "ours_ratio" in price:
            times = _times([price["ours_ratio"], *price["interval"]])
        said = {True: "yes", False: "no"}
        # 1 is True to a dict, and 200 probes are a number.
        words = [said[v] if isinstance(v, bool) else str(v) for v in behaviour.values()]
        title = "**ours**" if name == "aiinfra_lab" else name
        lines.append(_row(title, f"{price['overhead_us']:.2f}", times, *words))
    return _readme(course, "breaker", lines)


def _grading_table(course: Course) -> dict[Path, str]:
    """The README with what grading costs, beside nbgrader, made anew from its committed JSON."""
    found = _measured(course, "grading")
    if found is None:
        return {}
    ours, peer = "aiinfra grade", "nbgrader autograde"
    columns = (
        *("lab", "submissions", "ours, CPU-s each", "nbgrader, CPU-s each", "ours is"),
        *("ours, MiB", "nbgrader, MiB"),
    )
    lines = _heading(*columns)
    for name, row in found["labs"].items():
        words = [
            name,
            str(row["submissions"]),
            f"{row[ours]['cpu_s_a_submission']:.2f}",
            f"{row[peer]['cpu_s_a_submission']:.2f}",
            _times(row["ours_over_peer_cpu_s"]),
            f"{row[ours]['peak_mib']:.0f}",
            f"{row[peer]['peak_mib']:.0f}",
        ]
        lines.append(_row(*words))
    whole = found["class"]
    each = whole["cpu_s"] / whole["submissions"]
    lines.append(
        f"| lab 03, a class in {whole['wall_s']:.0f} s | {whole['submissions']} | {each:.2f} | | | "
        f"{whole['peak_mib']:.0f} | |"
    )
    return _readme(course, "grading", lines)


def _training_table(course: Course) -> dict[Path, str]:
    """The README with what the recipe's loop costs beside its peers, from its committed JSON."""
    found = _measured(course, "training")
    if found is None:
        return {}
    columns = ("two ranks, unless it says one", "ms a step", "samples/s", "ours takes")
    lines = _heading(*columns)
    for name, row in found["end_to_end"]["contestants"].items():
        times = ""
        if "ours_ratio" in row:
            times = _times([row["ours_ratio"], *row["interval"]])
        title = "**ours**" if name == "aiinfra_lab" else name.strip()
        title = {"not deterministic": "ours, not deterministic"}.get(title, title)
        step = f"{row['step_ms']['median']:.0f}"
        lines.append(_row(title, step, str(row["samples_s"]), times))
    return _readme(course, "training", lines)


def _kube_table(course: Course) -> dict[Path, str]:
    """The README with what a local cluster costs, from its committed JSON."""
    found = _measured(course, "kube")
    if found is None:
        return {}
    own, done = found["cluster"], found["local"]
    rows = {
        "start, s": _interval(own["start_s"]),
        "stop, s": _interval(own["stop_s"]),
        "memory, MB": _interval(own["pss_mb"], 0),
        "a pod's way, ms: median": _interval(done["pod_latency"]["p50"], 0),
        "a pod's way, ms: 95th percentile": _interval(done["pod_latency"]["p95"], 0),
        f"{done['jobs']['jobs']} Jobs at once, s": f"{done['jobs']['complete_s']:.0f}",
        "writes a second to the API": str(done["writes"]["writes_a_second"]),
    }
    lines = [*_heading("", ""), *(_row(name, value) for name, value in rows.items())]
    return _readme(course, "kube", lines)


def _heading(*columns: str) -> list[str]:
    """The first two lines of a table."""
    return [_row(*columns), "|---" * len(columns) + "|"]


def _row(*words: str) -> str:
    return f"| {' | '.join(words)} |"


def _interval(found: Any, digits: int = 1) -> str:
    """A quantile with its interval."""
    value, (low, high) = found["value"], found["interval"]
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _measured(course: Course, name: str) -> Any | None:
    """What a benchmark saved; None in a release, which has no benchmarks."""
    path = course.root / "tests" / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _times(ratio: Sequence[float]) -> str:
    """A ratio with its interval."""
    value, low, high = ratio
    return f"{value:.2f} × [{low:.2f}, {high:.2f}]"


def _readme(course: Course, mark: str, lines: list[str]) -> dict[Path, str]:
    """The README with these lines between the comments of that name."""
    from aiinfra_lab.errors import InputError

    path = course.root / "README.md"
    opening, closing = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(opening)
    _, end, after = rest.partition(closing)
    if not end:
        raise InputError(f"README.md needs the lines {opening} and {closing}")
    return {path: before + opening + "\n" + "\n".join(lines) + "\n" + closing + after}


TABLES: dict[str, Callable[[Course], dict[Path, str]]] = {
    "chapters table": _chapters_table,
    "breaker table": _breaker_table,
    "grading table": _grading_table,
    "training table": _training_table,
    "kube table": _kube_table,
}
