"""The environment of a benchmark's peers: their own packages, in the course's cache."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from aiinfra_lab.settings import settings


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def peers_environment(name: str, pins: Sequence[str]) -> tuple[Path, list[str]]:
    """The programs of the environment, made at first use, and the pins that could not be had."""
    key = hashlib.sha256(" ".join([*pins, sys.version]).encode()).hexdigest()[:12]
    folder = settings().cache / "peers" / f"{name}-{key}"
    programs = folder / "bin"
    if (folder / "complete").exists():
        return programs, []
    say(f"making the peers' environment: {', '.join(pins)}")
    venv.create(folder, with_pip=True, clear=True)
    install = [programs / "python", "-m", "pip", "install", "--quiet", "--retries", "1"]
    # One by one: a package that cannot be had does not take the others with it.
    failed = []
    for pin in pins:
        done = subprocess.run(
            [*install, "--timeout", "20", pin], check=False, capture_output=True, text=True
        )
        if done.returncode:
            failed.append(pin)
            say(f"{pin}: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}")
    if not failed:
        (folder / "complete").touch()
    return programs, failed
