"""Read and write the three files that pin the course: the two locks and environment.yml."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from uvtool import Uv

LOCKS = {"all": "requirements.lock", "start": "requirements-start.lock"}
# The clauses of the locks' markers that hold wherever the course runs.
ALWAYS = (
    "python_full_version < '3.13'",
    "platform_python_implementation == 'CPython'",
    "(sys_platform == 'darwin' or sys_platform == 'linux')",
)


class Pin(NamedTuple):
    """One entry of a lock; ``text`` is the whole of it, hashes included."""

    name: str
    version: str
    marker: str
    text: str


def read_pins(lock: str) -> list[Pin]:
    """Return the entries of a lock's text, in its order."""
    entry = r"^([A-Za-z0-9._-]+)==(\S+)(?: ; ([^\n]*?))? *(?:\\\n[^\n\\]*)*\n"
    return [Pin(m[1], m[2], m[3] or "", m[0]) for m in re.finditer(entry, lock, re.M)]


def conda_environment(lock: str) -> str:
    """Return environment.yml with the lock's pins: conda brings Python, pip the packages."""
    lines = []
    for pin in read_pins(lock):
        clauses = [c for c in pin.marker.split(" and ") if c and c not in ALWAYS]
        marker = f" ; {' and '.join(clauses)}" if clauses else ""
        lines.append(f"      - {json.dumps(f'{pin.name}=={pin.version}{marker}')}\n")
    return (
        "# Made from requirements.lock by: make lock\n"
        "# conda env create -f environment.yml && conda activate aiinfra-lab\n"
        "name: aiinfra-lab\nchannels:\n  - conda-forge\n  - nodefaults\n"
        "dependencies:\n  - python=3.11\n  - pip\n  - pip:\n"
        + "".join(lines)
        + "      - --editable .\n"
    )


def write_conda(root: Path) -> None:
    """Write environment.yml from requirements.lock, in one step."""
    fresh = root / "environment.yml.new"
    fresh.write_text(conda_environment((root / LOCKS["all"]).read_text("utf-8")), "utf-8")
    fresh.replace(root / "environment.yml")


def write_locks(root: Path, held: int, *, upgrade: bool) -> None:
    """Resolve pyproject.toml anew into both locks, or into none, then write environment.yml."""
    uv = Uv.get(root, held)
    with tempfile.TemporaryDirectory(dir=root, prefix=".lock-") as folder:
        fresh = Path(folder)
        common = [
            *("--universal", "--python-version", "3.11", "--generate-hashes", "--quiet"),
            *("--no-emit-index-url", "--no-emit-find-links", "--no-annotate"),
            *("--custom-compile-command", "make lock"),
            *(["--upgrade"] if upgrade else []),
        ]
        # The start set is resolved under the whole course's pins: its lock is a strict subset.
        within = {"all": [], "start": ["--constraints", str(fresh / LOCKS["all"])]}
        for name, lock in LOCKS.items():
            if (root / lock).exists():  # uv keeps the pins of the file that it is to write
                shutil.copyfile(root / lock, fresh / lock)
            arguments = ["--extra", name, *within[name], *common, "-o", str(fresh / lock)]
            source = str(root / "pyproject.toml")
            uv.ask("resolve the packages", "pip", "compile", source, *arguments)
        for lock in LOCKS.values():
            (fresh / lock).replace(root / lock)
    write_conda(root)
