"""The order to grade: what ``aiinfra grade`` is told, and the secret seed."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from aiinfra_lab.errors import InputError
from aiinfra_lab.grading.names import plain_text
from aiinfra_lab.grading.tables import Format

SEED_BITS = 64
_MOST_SEED_DIGITS = 64


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be graded, and how; see ``aiinfra grade --help``.

    ``seed`` is hexadecimal, drawn where it is empty.
    """

    lab: str
    submissions: Path
    out: Path
    jobs: int | None = None
    only: str = ""
    resume: bool = False
    seed: str = ""
    roster: Path | None = None
    id_from: str = ""
    require_sandbox: bool = False
    gradebook: Format | None = None
    similar: bool = False
    emit_nbval: Path | None = None


def refuse_contradictions(order: Order) -> None:
    """Refuse options that cannot be had together, before anything is looked at.

    Raises
    ------
    InputError
        The sentence names them.
    """
    if order.jobs is not None and order.jobs < 1:
        raise InputError(f"--jobs must be at least 1, found {order.jobs}")
    if order.only and order.resume:
        raise InputError(
            "--only grades one learner anew, so it cannot go with --resume",
            fix="Give it a folder of its own, and the batch's seed by --seed.",
        )
    inside = order.submissions.resolve()
    for option, path in (("--out", order.out), ("--emit-nbval", order.emit_nbval)):
        if path and inside in (path.resolve(), *path.resolve().parents):
            raise InputError(f"{option} {path} lies among the submissions", fix="Name another.")
    target = order.emit_nbval
    if target and target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(f"{target} is no empty folder", fix="Name a new folder.")


def given_seed(text: str, public: int) -> str:
    """The seed of ``--seed`` in one spelling; empty where there is none.

    Raises
    ------
    InputError
        It is no number, or the public seed.
    """
    if not text:
        return ""
    digits = text.lower().removeprefix("0x")
    if not digits or len(digits) > _MOST_SEED_DIGITS or set(digits) - set("0123456789abcdef"):
        raise InputError(
            f"--seed {plain_text(text, 80)!r} is no seed",
            needed=f"1 to {_MOST_SEED_DIGITS} hexadecimal digits, as in results.json",
        )
    if int(digits, 16) == public:
        raise InputError(f"--seed {text} is the public seed, under which answers can be printed")
    return _spelt(int(digits, 16))


def drawn_seed(public: int) -> str:
    """A new secret seed."""
    while (seed := secrets.randbits(SEED_BITS)) == public:
        pass
    return _spelt(seed)


def _spelt(seed: int) -> str:
    return f"{seed:0{SEED_BITS // 4}x}"
