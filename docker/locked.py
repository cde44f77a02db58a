"""Print the entries of a lock, hashes and all, that some packages and what they need have in it.

``python locked.py requirements.lock kopf kubernetes`` is a lock of its own, for an image that
holds no more than that. pip, of the Python that runs this, says what needs what.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pins import read_pins  # of scripts/


def normal(name: str) -> str:
    """Return a package's name as all of its spellings have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(constraints: Path, packages: Sequence[str]) -> set[str]:
    """Return the names of all that pip would install for the packages."""
    words = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    command = [sys.executable, "-m", "pip", *words, "--constraint", str(constraints), *packages]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if run.returncode:
        raise SystemExit(f"pip could not say what {', '.join(packages)} need: it says why above.")
    return {normal(one["metadata"]["name"]) for one in json.loads(run.stdout)["install"]}


def main(lock: str, *packages: str) -> None:
    """Print them, in the lock's order."""
    pins = {normal(pin.name): pin for pin in read_pins(Path(lock).read_text("utf-8"))}
    with tempfile.TemporaryDirectory() as folder:
        # Without hashes: pip resolves nothing that has some.
        constraints = Path(folder, "constraints.txt")
        lines = (f"{pin.name}=={pin.version} ; {pin.marker}".rstrip("; ") for pin in pins.values())
        constraints.write_text("\n".join(lines) + "\n", "utf-8")
        names = needed(constraints, packages)
    if lost := sorted(names - pins.keys()):
        raise SystemExit(f"{lock} does not have {', '.join(lost)}: put it into pyproject.toml.")
    print("".join(pin.text for name, pin in pins.items() if name in names), end="")


if __name__ == "__main__":
    main(*sys.argv[1:])
