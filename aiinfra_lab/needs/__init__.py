"""What this machine may lack: one table from a name to a probe and to what gets it.

Notebook metadata, the tests' ``needs`` mark, ``AIINFRA_REQUIRE``, ``doctor`` and the sentence
of exit code 3 all read this table, so a need is described once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Literal

from aiinfra_lab.errors import InputError, MissingNeed
from aiinfra_lab.needs.probes import (
    KUBE_PROGRAMS,
    Absent,
    browser_program,
    bubblewrap_program,
    go_program,
    kube_program,
)
from aiinfra_lab.needs.table import NEEDS, Need
from aiinfra_lab.settings import settings

__all__ = [
    "KUBE_PROGRAMS",
    "NEEDS",
    "Finding",
    "Need",
    "browser_program",
    "bubblewrap_program",
    "find",
    "go_program",
    "kube_program",
    "lookup",
    "missing",
    "require",
    "verdict",
]


@dataclass(frozen=True)
class Finding:
    """What a probe found: ``detail`` says what is there, or why not; ``fix`` is then one line."""

    name: str
    present: bool
    detail: str
    fix: str = ""


@cache
def find(name: str) -> Finding:
    """Probe ``name`` once a process; ``find.cache_clear()`` forgets the answers.

    Raises
    ------
    InputError
        There is no such need; the message names the closest one.
    """
    need = lookup(name)
    try:
        return Finding(name, True, need.probe())
    except Absent as absent:
        return Finding(name, False, absent.detail, absent.fix or need.fix())
    except OSError as error:  # a PATH entry or a socket that cannot be read is not an answer
        return Finding(name, False, f"could not be probed: {error}", need.fix())


def missing(names: Iterable[str]) -> list[Finding]:
    """The findings of those ``names`` that are not here, in their order, each once."""
    return [found for found in map(find, dict.fromkeys(names)) if not found.present]


def require(*names: str) -> None:
    """Return if everything called ``names`` is here.

    Raises
    ------
    MissingNeed
        Something is not: the sentence says what, why, and the command that gets it.
    InputError
        A name is no need.
    """
    if absent := missing(names):
        raise MissingNeed(f"this needs {_describe(absent)}", fix=_remedy(absent))


def verdict(names: Iterable[str]) -> tuple[Literal["run", "skip", "fail"], str]:
    """What a test that needs ``names`` should do here, and the sentence that says why.

    A missing need is a reason to skip, unless ``AIINFRA_REQUIRE`` lists it: then whoever runs
    the tests counts on it, and a silent skip would hide that it has gone.

    Raises
    ------
    InputError
        A name, here or in ``AIINFRA_REQUIRE``, is no need: a misspelt one would skip for ever.
    """
    required = settings().required_needs
    for name in sorted(required):
        try:
            lookup(name)
        except InputError as error:
            raise InputError(f"AIINFRA_REQUIRE: {error.message}", fix=error.fix) from None
    absent = missing(names)
    if not absent:
        return "run", ""
    sentence = f"needs {_describe(absent)}. {_remedy(absent)}"
    if counted_on := [found.name for found in absent if found.name in required]:
        return "fail", f"{sentence} (AIINFRA_REQUIRE lists {', '.join(counted_on)})"
    return "skip", sentence


def lookup(name: str) -> Need:
    """The entry of the table called ``name``, without probing.

    Raises
    ------
    InputError
        There is none; the message names the closest one.
    """
    try:
        return NEEDS[name]
    except KeyError:
        close = get_close_matches(name, NEEDS, n=1, cutoff=0.5)
        hint = f"Did you mean {close[0]}?" if close else f"The needs are: {', '.join(NEEDS)}"
        raise InputError(f"there is no need called {name!r}", fix=hint) from None


def _describe(absent: Sequence[Finding]) -> str:
    return " and ".join(f"{NEEDS[found.name].what} ({found.detail})" for found in absent)


def _remedy(absent: Sequence[Finding]) -> str:
    fixes = list(dict.fromkeys(found.fix for found in absent))
    return f"To get {'it' if len(absent) == 1 else 'them'}: {'; '.join(fixes)}"
